//! Routes, and the API's description of them (OpenAPI): the gateway's own, and those that somebody mounts.

use std::collections::BTreeSet;

use axum::routing::MethodRouter;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Routes with their description, to be mounted on a [`Server`](crate::Server).
#[derive(Clone, Debug)]
pub struct Routes {
    pub(super) methods: Vec<(&'static str, MethodRouter)>,
    description: Description,
}

/// What an OpenAPI document says of some paths.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    paths: Map<String, Value>,
    #[serde(default)]
    components: Map<String, Value>,
}

impl Routes {
    /// `description` is the part of an OpenAPI document that is about these routes: JSON with `paths`, and with
    /// `components` of their own. It may refer to the components of the gateway's `openapi.json`.
    ///
    /// # Panics
    ///
    /// It is no such description, or is not of these very paths: that is found by whoever starts the program once.
    #[must_use]
    pub fn new(description: &str, methods: impl IntoIterator<Item = (&'static str, MethodRouter)>) -> Self {
        let description: Description = serde_json::from_str(description).expect("a part of an OpenAPI document");
        let methods: Vec<_> = methods.into_iter().collect();
        let described: BTreeSet<_> = description.paths.keys().map(String::as_str).collect();
        let routed: BTreeSet<_> = methods.iter().map(|(path, _)| *path).collect();
        assert_eq!(described, routed, "what is described is what there is");
        Self { methods, description }
    }
}

/// The description `own`, an OpenAPI document, with that of all that is mounted.
pub(super) fn describe(own: &str, mounted: &[Routes]) -> Bytes {
    let mut document: Map<String, Value> = serde_json::from_str(own).expect("the gateway's own description is JSON");
    for Routes { description, .. } in mounted {
        add(&mut document, "paths", &description.paths);
        for (kind, parts) in &description.components {
            let components = document.get_mut("components").and_then(Value::as_object_mut);
            let components = components.expect("the gateway's own description has components");
            add(components, kind, parts.as_object().unwrap_or(&Map::new()));
        }
    }
    serde_json::to_vec_pretty(&document).expect("what was read as JSON can be written").into()
}

fn add(to: &mut Map<String, Value>, name: &str, parts: &Map<String, Value>) {
    let there = to.entry(name).or_insert_with(|| Map::new().into());
    if let Value::Object(there) = there {
        there.extend(parts.clone());
    }
}
