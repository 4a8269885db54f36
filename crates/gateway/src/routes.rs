//! Routes and their description (OpenAPI): the gateway's own, and those that a program mounts.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, LazyLock},
};

use axum::routing::MethodRouter;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{access::RequiredScopes, metrics_writer::MetricsWriter};

/// Routes with their description, to be mounted on a [`Server`](crate::Server).
///
/// ```
/// use axum::routing::get;
/// use broadcast_gateway::{RequiredScopes, Routes, Scope};
///
/// let description = r#"{"paths": {"/v1/time": {"get": {"summary": "The time", "responses": {"200": {"description":
/// "It"}}}}}}"#;
/// let time = get(async || "12:00");
/// let routes = Routes::new(description, [("/v1/time", RequiredScopes::scope(Scope::Read), time)]);
/// ```
#[derive(Clone, Debug)]
pub struct Routes {
    pub(super) methods: Vec<(&'static str, RequiredScopes, MethodRouter)>,
    description: &'static str,
    pub(super) metrics: Option<WriteMetrics>,
    pub(super) script: Option<&'static str>,
}

/// Writes the metrics of mounted routes.
#[derive(Clone)]
pub(super) struct WriteMetrics(Arc<dyn Fn(&mut MetricsWriter<'_>) -> fmt::Result + Send + Sync>);

impl fmt::Debug for WriteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteMetrics")
    }
}

impl WriteMetrics {
    pub(super) fn write(&self, writer: &mut MetricsWriter<'_>) -> fmt::Result {
        (self.0)(writer)
    }
}

/// The description of the whole API. It is put together when a client first asks for it: hardly any does, and the start of a
/// node should not pay for it.
pub(super) type OpenApi = LazyLock<Bytes, Box<dyn FnOnce() -> Bytes + Send>>;

/// The part of an OpenAPI document that describes some paths.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    paths: Map<String, Value>,
    #[serde(default)]
    components: Map<String, Value>,
}

impl Description {
    fn read(text: &str) -> Self {
        serde_json::from_str(text).expect("a part of an OpenAPI document")
    }
}

impl Routes {
    /// Routes, each with its path and the scopes that it requires.
    ///
    /// `description` is the part of an OpenAPI document that describes these routes: JSON with `paths`, and with `components`
    /// of their own. It may refer to the components of the gateway's `openapi.json`.
    ///
    /// # Panics
    ///
    /// `description` is no such document, or does not describe exactly these paths. Whoever starts the program once finds that.
    #[must_use]
    pub fn new(
        description: &'static str,
        methods: impl IntoIterator<Item = (&'static str, RequiredScopes, MethodRouter)>,
    ) -> Self {
        let Description { paths, .. } = Description::read(description);
        let methods: Vec<_> = methods.into_iter().collect();
        let described: BTreeSet<_> = paths.keys().cloned().collect();
        // In the description, the rest of a path is a parameter like others.
        let routed: BTreeSet<_> = methods.iter().map(|(path, ..)| path.replace("{*", "{")).collect();
        assert_eq!(described, routed, "what is described is what there is");
        Self { methods, description, metrics: None, script: None }
    }

    /// Routes of a protocol that is described elsewhere.
    #[must_use]
    pub fn undescribed(methods: impl IntoIterator<Item = (&'static str, RequiredScopes, MethodRouter)>) -> Self {
        Self { methods: methods.into_iter().collect(), description: r#"{"paths": {}}"#, metrics: None, script: None }
    }

    /// Adds metrics to those of the node. `write` must not block.
    #[must_use]
    pub fn metrics(mut self, write: impl Fn(&mut MetricsWriter<'_>) -> fmt::Result + Send + Sync + 'static) -> Self {
        self.metrics = Some(WriteMetrics(Arc::new(write)));
        self
    }

    /// Adds a script to the page. It runs after the page's own script, and may use its functions and variables, above all
    /// `newLookingTab` and `api`. It must not contain the end tag of a script.
    #[must_use]
    pub fn script(mut self, script: &'static str) -> Self {
        self.script = Some(script);
        self
    }

    /// The required scopes, by path.
    pub(super) fn required_scopes(&self) -> impl Iterator<Item = (&'static str, RequiredScopes)> {
        self.methods.iter().map(|(path, required_scopes, _)| (*path, *required_scopes))
    }
}

/// The document `own`, with the descriptions of all mounted routes.
pub(super) fn describe(own: &'static str, mounted: &[Routes]) -> OpenApi {
    let parts: Vec<_> = mounted.iter().map(|routes| routes.description).collect();
    LazyLock::new(Box::new(move || merge(own, &parts)))
}

fn merge(own: &str, parts: &[&str]) -> Bytes {
    let mut document: Map<String, Value> = serde_json::from_str(own).expect("the gateway's own description is JSON");
    for part in parts {
        let Description { paths, components } = Description::read(part);
        add(&mut document, "paths", paths);
        for (kind, parts) in components {
            let components = document.get_mut("components").and_then(Value::as_object_mut);
            let components = components.expect("the gateway's own description has components");
            if let Value::Object(parts) = parts {
                add(components, &kind, parts);
            }
        }
    }
    serde_json::to_vec_pretty(&document).expect("what was read as JSON can be written").into()
}

fn add(to: &mut Map<String, Value>, name: &str, parts: Map<String, Value>) {
    let there = to.entry(name).or_insert_with(|| Map::new().into());
    if let Value::Object(there) = there {
        there.extend(parts);
    }
}
