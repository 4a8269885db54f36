//! A headless chromium, driven by the [WebDriver](https://www.w3.org/TR/webdriver2/) protocol: JSON over
//! HTTP, to a chromedriver of its own.

use std::{
    io::{BufReader, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    LIMIT, Log,
    child::OwnedChild,
    http::{self, Answer},
    require::answers,
    wait_for,
};

/// The Tab key, in WebDriver's alphabet.
pub const TAB: &str = "\u{e004}";
/// The Enter key.
pub const ENTER: &str = "\u{e007}";
/// The arrow to the right.
pub const RIGHT: &str = "\u{e014}";

/// What is missing to run one.
pub fn missing() -> Option<String> {
    let there = |program: &str| answers(Command::new(program).arg("--version"));
    (!there("chromium") || !there("chromedriver")).then(|| {
        "no chromium with its driver in PATH (`chromium --version`, `chromedriver --version`): install them \
         (on Debian: the packages chromium and chromium-driver)"
            .into()
    })
}

/// A running browser with one page. Ended when dropped.
#[derive(Debug)]
pub struct Browser {
    _driver: OwnedChild,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts one whose page is this large, in CSS pixels.
    pub fn start(width: u32, height: u32) -> Self {
        let (driver, port) = (0..5).find_map(|_| Self::try_driver()).expect("chromedriver finds a port that is free");
        let mut browser = Self { _driver: OwnedChild(driver), port, session: String::new() };
        // The sandbox does not work for root, as whom containers run this, nor does their small /dev/shm.
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"];
        let capabilities = json!({ "alwaysMatch": {
            "browserName": "chrome",
            // Those of a test are from an authority that nobody knows.
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } });
        let session = browser.request("POST", "/session", &json!({ "capabilities": capabilities }));
        browser.session = session["sessionId"].as_str().expect("an id").into();
        browser.resize(width, height);
        browser
    }

    /// Starts chromedriver at a port that it chooses. Of IPv4 and IPv6 it may be free for one only: then it gives up.
    fn try_driver() -> Option<(Child, u16)> {
        let mut command = Command::new("chromedriver");
        let mut driver = command.arg("--port=0").stdout(Stdio::piped()).spawn().expect("chromedriver runs");
        let log = Log::follow(driver.stdout.take().expect("it is piped"));
        let port = log.wait("chromedriver's port", |lines| {
            lines.iter().filter_map(Value::as_str).find_map(|line| match line {
                line if line.contains("started successfully") => {
                    Some(line.rsplit(' ').next()?.trim_end_matches('.').parse().ok())
                }
                line if line.contains("port not available") => Some(None),
                _ => None,
            })
        });
        if port.is_none() {
            driver.wait().expect("it was started here");
        }
        port.map(|port| (driver, port))
    }

    /// Opens a page, and waits until it is there.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Opens a page in a window of its own, where the next calls go; gives the window's name.
    pub fn open_beside(&self, url: &str) -> String {
        let window = self.post("/window/new", &json!({ "type": "window" }));
        let window = window["handle"].as_str().expect("a name").to_owned();
        self.switch(&window);
        self.open(url);
        window
    }

    /// The next calls go to this window.
    pub fn switch(&self, window: &str) {
        self.post("/window", &json!({ "handle": window }));
    }

    /// What the page's objects take, in bytes, without those that are needed no more.
    pub fn heap(&self) -> u64 {
        self.devtools("HeapProfiler.collectGarbage", &json!({}));
        self.devtools("Runtime.getHeapUsage", &json!({}))["usedSize"].as_f64().expect("a number") as u64
    }

    /// Gives the page another size, which may be a phone's, and so smaller than a window can be.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// Says what the user prefers: a media feature of CSS, and its value.
    pub fn prefer(&self, feature: &str, value: &str) {
        let features = json!({ "features": [{ "name": feature, "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// Makes it a device that is touched, and has no mouse.
    pub fn touch(&self) {
        self.devtools("Emulation.setTouchEmulationEnabled", &json!({ "enabled": true, "maxTouchPoints": 1 }));
    }

    fn devtools(&self, command: &str, params: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": params }))
    }

    /// The value of an expression in the page.
    pub fn eval(&self, expression: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": format!("return {expression}"), "args": [] }))
    }

    /// Waits until an expression in the page has this value.
    #[track_caller]
    pub fn wait(&self, expression: &str, wanted: impl Into<Value>) {
        let wanted = wanted.into();
        self.wait_for(expression, |value| *value == wanted);
    }

    /// Waits until the first element that a selector finds has this text.
    #[track_caller]
    pub fn wait_text(&self, selector: &str, text: &str) {
        self.wait(&format!("document.querySelector('{selector}')?.textContent"), text);
    }

    /// Waits until an expression in the page has a value that `is_right`, and gives it.
    #[track_caller]
    pub fn wait_for(&self, expression: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("in the page, `{expression}`"), || {
            let value = self.eval(expression);
            if is_right(&value) { Ok(value) } else { Err(value) }
        })
    }

    /// Types on the keyboard, to whatever has the focus.
    pub fn keys(&self, keys: &str) {
        let key = |key: char| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key }));
        let strokes: Vec<_> = keys.chars().flat_map(key).collect();
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] }));
    }

    /// The warnings and errors in the page's console.
    pub fn console_errors(&self) -> Vec<Value> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().expect("a list of entries").iter();
        entries.filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING").cloned().collect()
    }

    /// What the page looks like, as a PNG.
    pub fn screenshot(&self) -> Vec<u8> {
        let png = self.request("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        STANDARD.decode(png.as_str().expect("text")).expect("WebDriver has it in base64")
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.request("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = exchange(self.port, method, path, body).expect("chromedriver answers");
        assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text());
        answer.json()["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with the session. If this fails, it has ended already.
        let _ = exchange(self.port, "DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

/// A request on a connection of its own; nothing if nobody answers.
fn exchange(port: u16, method: &str, path: &str, body: &Value) -> Option<Answer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.write_all(&http::request(method, path, &[], body.as_bytes())).ok()?;
    http::read(&mut BufReader::new(stream))
}
