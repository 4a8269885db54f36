//! The moving picture in the README and in docs/demo.md.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{OUTCOME, animation, open, publish, thirteen};
use crate::support::{LIMIT, browser::Browser, cluster::api_node};

/// The variable that says where to write the picture.
pub(super) const SCREENSHOT: &str = "BROADCAST_SCREENSHOT";

/// Screenshots, with their times.
struct Film<'a> {
    browser: &'a Browser,
    began: Instant,
    shots: Vec<(Duration, Vec<u8>)>,
}

impl Film<'_> {
    /// The least time between two screenshots.
    const STEP: Duration = Duration::from_millis(160);

    /// Takes screenshots until an expression in the page is true, and for some time after that.
    fn until(&mut self, expression: &str, and_then: Duration) {
        let deadline = Instant::now() + LIMIT;
        let mut end = None;
        while end.is_none_or(|end| Instant::now() < end) {
            assert!(Instant::now() < deadline, "in the page, `{expression}` is not true");
            let taken = Instant::now();
            self.shots.push((taken - self.began, self.browser.screenshot()));
            if end.is_none() && self.browser.eval(expression) == true {
                end = Some(Instant::now() + and_then);
            }
            thread::sleep(Self::STEP.saturating_sub(taken.elapsed()));
        }
    }
}

/// Thirteen nodes send; one of them is killed, and comes back.
pub(super) fn screenshot() {
    let file = std::env::var_os(SCREENSHOT).expect("it is asked for");
    let mut nodes = thirteen("4s");
    let last = nodes.pop().expect("thirteen");
    let browser = open(&nodes[0]);
    browser.resize(960, 576);
    browser.wait("broadcastPage.stats().members", 13);
    publish(&browser, "cache:drop", r#"{"user": 42}"#);
    browser.wait_for(OUTCOME, |outcome| outcome.as_str().is_some_and(|text| text.starts_with("delivered to")));
    browser.wait_for("broadcastPage.stats().rows", |rows| rows.as_u64().is_some_and(|rows| rows > 15));
    let mut film = Film { browser: &browser, began: Instant::now(), shots: Vec::new() };
    film.until("true", Duration::from_millis(800));
    drop(last);
    film.until("members.get('sender-10').state === 'dead'", Duration::from_millis(500));
    let _back = api_node("sender-10", Some(&nodes[0]), &["--role", "sender", "--interval", "4s"]);
    film.until("members.get('sender-10').state === 'alive'", Duration::from_millis(1000));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::write(&file, animation::animate(&film.shots)).expect("the file can be written");
}
