//! Who believes what of whom: each member's view, asked of itself.
//!
//! Asking costs a connection to each member, so that what was answered is given out for a second, and those
//! who ask meanwhile wait for the same answers.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::Uri,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::{sync::Mutex, time::Instant};

use super::{App, look::state, problem::Problem, query};
use crate::{Belief, Handle, Member};

/// For how long answers are given out.
const FRESH: Duration = Duration::from_secs(1);
/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Members asked at most; how many were not is told.
const MOST: usize = 256;
/// Members asked at the same time.
const AT_ONCE: usize = 16;

/// What was answered last, and when.
#[derive(Debug, Default)]
pub(super) struct Views(Mutex<Option<(Instant, Bytes)>>);

/// `GET /v1/views`
pub(super) async fn views(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let mut last = app.views.0.lock().await;
    let text = match &*last {
        Some((at, text)) if at.elapsed() < FRESH => text.clone(),
        _ => {
            let text = ask_all(&app.node).await.ok_or_else(Problem::stopped)?;
            *last = Some((Instant::now(), text.clone()));
            text
        }
    };
    Ok(([("content-type", "application/json")], Body::from(text)).into_response())
}

async fn ask_all(node: &Handle) -> Option<Bytes> {
    let own = node.view().await;
    let mut others = node.members().await;
    others.retain(|member| member.name != *node.name());
    let mut text = format!("{{\"node\":{},\"views\":[{}", quoted(node.name()), view(node.name(), &own));
    let untold = others.split_off(others.len().min(MOST));
    let mut asked = stream::iter(others).map(|member| ask(node, member)).buffered(AT_ONCE);
    while let Some(view) = asked.next().await {
        text.extend([",", &view]);
    }
    text.push_str("],\"not_asked\":");
    text.push_str(&untold.len().to_string());
    text.push('}');
    (!own.is_empty()).then(|| text.into())
}

async fn ask(node: &Handle, member: Member) -> String {
    let name = member.name.to_string();
    match node.view_of(member.addr, PATIENCE).await {
        Ok(beliefs) => view(&name, &beliefs),
        Err(error) => format!("{{\"of\":{},\"error\":{}}}", quoted(&name), quoted(&error.to_string())),
    }
}

/// As text: a large cluster has a million of these.
fn view(of: &str, beliefs: &[Belief]) -> String {
    let mut text = format!("{{\"of\":{},\"members\":[", quoted(of));
    for (i, belief) in beliefs.iter().enumerate() {
        let (name, state) = (quoted(&belief.name.to_string()), state(belief.state));
        let comma = if i > 0 { "," } else { "" };
        let incarnation = belief.incarnation;
        text += &format!("{comma}{{\"name\":{name},\"state\":\"{state}\",\"incarnation\":{incarnation}}}");
    }
    text + "]}"
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text always serialises")
}
