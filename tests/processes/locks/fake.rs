//! A fake server with the part of the locks' HTTP API that commands need. It can fail in every way: refuse connections, hang, cut
//! connections, or end sessions and locks.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{LIMIT, lag};

/// How often it looks whether a session is over, or a caller gone.
const TICK: Duration = Duration::from_millis(5);

/// The head of an answer with events.
const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// What happens to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// The connection is closed.
    Close,
    /// There is no answer.
    Hang,
    /// The answer is a problem with this status.
    Status(u16),
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// What happens to keepalives.
    pub(super) keepalives: Fault,
    /// What happens to all other calls.
    pub(super) others: Fault,
    /// While set, all streams of events are cut.
    pub(super) cut_streams: bool,
    /// While set, streams stay silent about what happens.
    pub(super) mute_streams: bool,
    pub(super) sessions: BTreeMap<String, Session>,
    /// The queue of each lock: token and session, the holder first.
    pub(super) locks: BTreeMap<String, Vec<(u64, String)>>,
    pub(super) fences: BTreeMap<String, u64>,
    /// All calls so far, `POST /v1/locks` and so on, with their bodies.
    pub(super) calls: Vec<(String, Value)>,
    /// When the session that was opened or kept alive last ends, if no keepalive follows.
    pub(super) deadline: Option<Instant>,
    last_token: u64,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) ttl: Duration,
    /// When it was opened or kept alive last.
    pub(super) kept: Instant,
    pub(super) label: String,
    /// Its value when it leads.
    pub(super) value: Value,
    /// The locks that it holds or waits for, with their tokens.
    pub(super) names: Vec<(String, u64)>,
}

impl Session {
    /// A session that lives for an hour, and holds nothing.
    pub(super) fn idle() -> Self {
        let (ttl, label) = (Duration::from_secs(3600), String::new());
        Self { ttl, kept: Instant::now(), label, value: Value::Null, names: Vec::new() }
    }

    fn shown(&self, id: &str) -> Value {
        let holds: Vec<_> = self.names.iter().map(|(name, token)| json!({"name": name, "token": token})).collect();
        json!({"session": id, "node": "node1", "label": self.label, "ttl": self.ttl.as_secs(), "lock_delay": 0, "left": 1.5,
            "release_on_failure": false, "since": "2026-11-29T20:00:00Z", "holds": holds, "waits": []})
    }
}

impl State {
    fn end_session(&mut self, session: &str) -> bool {
        self.locks.values_mut().for_each(|queue| queue.retain(|(_, waiter)| waiter != session));
        self.locks.retain(|_, queue| !queue.is_empty());
        self.sessions.remove(session).is_some()
    }

    fn holder(&self, name: &str, token: u64) -> bool {
        self.locks.get(name).and_then(|queue| queue.first()).is_some_and(|(holder, _)| *holder == token)
    }

    fn expire(&mut self) {
        let over: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.kept.elapsed() > session.ttl)
            .map(|(id, _)| id.clone())
            .collect();
        for session in over {
            self.end_session(&session);
        }
    }

    fn entry(&self, (token, session): &(u64, String)) -> Value {
        let label = self.sessions.get(session).map(|session| session.label.clone());
        json!({"token": token, "session": session, "node": "node1", "label": label, "since": "2026-11-29T20:00:00Z"})
    }

    fn leader(&self, name: &str) -> Option<Value> {
        let (token, session) = self.locks.get(name)?.first()?;
        let value = &self.sessions.get(session)?.value;
        Some(json!({"name": name, "token": token, "session": session, "node": "node1", "value": value}))
    }

    fn lock(&self, name: &str) -> Option<Value> {
        let queue = self.locks.get(name)?;
        let (holder, waiters) = queue.split_first()?;
        let waiters: Vec<_> = waiters.iter().map(|waiter| self.entry(waiter)).collect();
        Some(
            json!({"name": name, "mode": "exclusive", "holders": [self.entry(holder)], "waiting": waiters.len(), "queue": waiters}),
        )
    }
}

#[derive(Clone, Debug)]
pub(super) struct Fake {
    pub(super) addr: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// A call.
struct Request {
    method: String,
    path: String,
    query: String,
    body: Value,
    /// Whether the client wants a stream of events instead of one answer.
    events: bool,
}

impl Fake {
    pub(super) fn start() -> Self {
        lag::watch();
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let addr = listener.local_addr().expect("it is bound");
        let fake = Self { addr, state: Arc::default() };
        let serving = fake.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let fake = serving.clone();
                // A caller may go at any time.
                thread::spawn(move || fake.serve(stream));
            }
        });
        let expiring = fake.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(TICK);
                expiring.change(State::expire);
            }
        });
        fake
    }

    /// The session of the request with this token. No other server has one of that name, so a process can be found by it.
    pub(super) fn session(&self, token: u64) -> String {
        format!("{:08x}{token:08x}", self.addr.port())
    }

    pub(super) fn look(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("no test failed while it held this")
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.look());
        self.state.1.notify_all();
        changed
    }

    /// Waits until `look` finds something in the state.
    #[track_caller]
    pub(super) fn wait<T>(&self, what: &str, mut find: impl FnMut(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        let mut state = self.look();
        loop {
            if let Some(found) = find(&state) {
                return found;
            }
            assert!(Instant::now() < deadline, "waiting for {what}: {state:#?}");
            state = self.state.1.wait_timeout(state, TICK).expect("no test failed").0;
        }
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let request = read(&mut reader)?;
        let Request { method, path, query, body, events } = &request;
        let fault = self.change(|state| {
            state.calls.push((format!("{method} {path}"), body.clone()));
            if method == "PUT" && path.starts_with("/v1/sessions/") { state.keepalives } else { state.others }
        });
        match fault {
            Fault::None => {}
            Fault::Close => return None,
            Fault::Hang => {
                self.until_gone(&stream);
                return None;
            }
            Fault::Status(status) => return problem(&stream, status, json!({"detail": "it is told to refuse"})),
        }
        let query = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if let Some(session) = path.strip_prefix("/v1/sessions/") {
            let known = self.change(|state| match &**method {
                "PUT" => {
                    let session = state.sessions.get_mut(session)?;
                    session.kept = Instant::now();
                    state.deadline = Some(session.kept + session.ttl);
                    Some(session.ttl.as_secs())
                }
                _ => state.end_session(session).then_some(0),
            });
            return match known {
                Some(ttl) => answer(&stream, 200, &json!({"session": session, "ttl": ttl})),
                None => problem(&stream, 404, json!({"detail": "the session has ended"})),
            };
        }
        if path == "/v1/sessions" {
            let (after, most) = (query("after").unwrap_or_default(), query("limit")?.parse().ok()?);
            let state = self.look();
            let mut behind = state.sessions.iter().filter(|(id, _)| after.is_empty() || &***id > after);
            let sessions: Vec<_> = behind.by_ref().take(most).map(|(id, session)| session.shown(id)).collect();
            return answer(&stream, 200, &json!({"sessions": sessions, "more": behind.next().is_some()}));
        }
        if let Some(name) = path.strip_prefix("/v1/elections/") {
            if method == "PUT" {
                let proclaimed = self.change(|state| {
                    let token = body["token"].as_u64().filter(|token| state.holder(name, *token));
                    let session = body["session"].as_str().and_then(|session| state.sessions.get_mut(session));
                    token.and(session).map(|session| session.value = body["value"].clone())
                });
                return match proclaimed {
                    Some(()) => answer(&stream, 200, &json!({})),
                    None => problem(&stream, 409, json!({"detail": "it does not lead"})),
                };
            }
            return match *events {
                true => self.observe(&stream, name),
                false => match self.look().leader(name) {
                    Some(leader) => answer(&stream, 200, &leader),
                    None => problem(&stream, 404, json!({"detail": "nobody leads"})),
                },
            };
        }
        if let Some(name) = path.strip_prefix("/v1/fences/") {
            if method == "DELETE" {
                self.change(|state| state.fences.remove(name));
                return answer(&stream, 200, &json!({}));
            }
            let token: u64 = query("token")?.parse().ok()?;
            let highest = self.change(|state| {
                let highest = state.fences.entry(name.to_owned()).or_default();
                *highest = token.max(*highest);
                *highest
            });
            return match highest > token {
                true => problem(&stream, 412, json!({"detail": "a greater one was seen", "highest": highest})),
                false => answer(&stream, 200, &json!({"token": token})),
            };
        }
        match (&**method, path.strip_prefix("/v1/locks")?.strip_prefix('/')) {
            ("POST", None) => self.acquire(&stream, body),
            ("GET", None) => {
                let [prefix, after] =
                    ["prefix", "after"].map(|name| query(name).unwrap_or_default().replace("%2F", "/"));
                let most = query("limit")?.parse().ok()?;
                let state = self.look();
                let mut names = state.locks.keys().filter(|name| name.starts_with(&prefix) && **name > after);
                let locks: Vec<_> = names.by_ref().take(most).filter_map(|name| state.lock(name)).collect();
                answer(&stream, 200, &json!({"locks": locks, "more": names.next().is_some()}))
            }
            ("GET", Some(name)) => match self.look().lock(name) {
                Some(lock) => answer(&stream, 200, &lock),
                None => problem(&stream, 404, json!({"detail": "nobody holds it"})),
            },
            ("DELETE", Some(name)) => {
                let released = self.change(|state| Some(state.locks.get_mut(name)?.remove(0).0));
                answer(&stream, 200, &json!({"released": [released]}))
            }
            _ => problem(&stream, 404, json!({"detail": "there is no such path"})),
        }
    }

    /// Answers with events: who leads, at each change.
    fn observe(&self, mut stream: &TcpStream, name: &str) -> Option<()> {
        stream.write_all(EVENTS).ok()?;
        let mut told = None;
        while !is_gone(stream) {
            let leader = self.look().leader(name);
            if told.as_ref() != Some(&leader) {
                let (event, data) = leader.clone().map_or(("vacant", json!({})), |leader| ("leader", leader));
                stream.write_all(format!("event: {event}\ndata: {data}\n\n").as_bytes()).ok()?;
                told = Some(leader);
            }
            let state = self.look();
            drop(self.state.1.wait_timeout(state, TICK).ok()?);
        }
        None
    }

    /// Answers with events: the place in the queue, the grant, and the loss.
    fn acquire(&self, mut stream: &TcpStream, body: &Value) -> Option<()> {
        let names: Vec<String> = serde_json::from_value(body["names"].clone()).ok()?;
        let wait = body["wait"].as_f64().map(Duration::from_secs_f64);
        let ttl = Duration::from_secs(body["session"]["ttl"].as_u64()?);
        let label = body["session"]["label"].as_str().unwrap_or_default().to_owned();
        let (session, token) = self.change(|state| {
            state.last_token += 1;
            let (token, session) = (state.last_token, self.session(state.last_token));
            let kept = Instant::now();
            state.deadline = Some(kept + ttl);
            state.sessions.insert(
                session.clone(),
                Session {
                    ttl,
                    kept,
                    label,
                    value: body["value"].clone(),
                    names: names.iter().map(|name| (name.clone(), token)).collect(),
                },
            );
            for name in &names {
                state.locks.entry(name.clone()).or_default().push((token, session.clone()));
            }
            (session, token)
        });
        stream.write_all(EVENTS).ok()?;
        let event = |name: &str, data: Value| {
            let mut stream = stream;
            stream.write_all(format!("event: {name}\ndata: {data}\n\n").as_bytes()).ok()
        };
        let (began, mut told, mut is_granted) = (Instant::now(), None, false);
        loop {
            let (is_there, ahead, cut, mute) = {
                let state = self.look();
                let place = |name: &String| state.locks.get(name)?.iter().position(|(waiter, _)| *waiter == token);
                let places: Option<Vec<_>> = names.iter().map(place).collect();
                let ahead = places.map(|places| places.into_iter().max().unwrap_or_default());
                (state.sessions.contains_key(&session), ahead, state.cut_streams, state.mute_streams)
            };
            if cut || is_gone(stream) {
                if !is_granted {
                    self.change(|state| state.end_session(&session));
                }
                return None;
            }
            match ahead {
                _ if mute => {}
                _ if is_granted && !is_there => return event("lost", json!({"reason": "its session has ended"})),
                None if is_granted => return event("lost", json!({"reason": "released by force"})),
                Some(0) if !is_granted => {
                    is_granted = true;
                    event(
                        "granted",
                        json!({"token": token, "names": names, "session": session, "ttl": ttl.as_secs(), "store": "1"}),
                    )?;
                }
                Some(_) if is_granted => {}
                Some(ahead) if wait.is_some_and(|wait| began.elapsed() >= wait) => {
                    let _ = ahead;
                    let holders: Vec<_> =
                        names.iter().filter_map(|name| Some(self.look().lock(name)?["holders"][0].clone())).collect();
                    self.change(|state| state.end_session(&session));
                    return event(
                        "refused",
                        json!({"status": 409, "detail": "not granted in time", "holders": holders}),
                    );
                }
                Some(ahead) if told != Some(ahead) => {
                    told = Some(ahead);
                    event("queued", json!({"token": token, "session": session, "ttl": ttl.as_secs(), "ahead": ahead}))?;
                }
                Some(_) => {}
                None => return event("refused", json!({"status": 404, "detail": "the session has ended"})),
            }
            let state = self.look();
            drop(self.state.1.wait_timeout(state, TICK).ok()?);
        }
    }

    fn until_gone(&self, stream: &TcpStream) {
        while !is_gone(stream) {
            thread::sleep(TICK);
        }
    }

    /// How many calls so far begin with this.
    pub(super) fn calls(&self, beginning: &str) -> usize {
        self.look().calls.iter().filter(|(call, _)| call.starts_with(beginning)).count()
    }

    /// Whether the lock is held with this token.
    pub(super) fn is_held(&self, name: &str, token: u64) -> bool {
        self.look().holder(name, token)
    }
}

fn is_gone(stream: &TcpStream) -> bool {
    let _ = stream.set_nonblocking(true);
    let gone = matches!(stream.peek(&mut [0]), Ok(0));
    let _ = stream.set_nonblocking(false);
    gone
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut events) = (0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        events |= line.starts_with("accept:") && line.contains("text/event-stream");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.replace("%2F", "/"), query.to_owned());
    Some(Request { method, path, query, body: serde_json::from_slice(&body).unwrap_or_default(), events })
}

fn answer(stream: &TcpStream, status: u16, body: &Value) -> Option<()> {
    let mut stream = stream;
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}",
        body.len()
    );
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()
}

fn problem(stream: &TcpStream, status: u16, mut more: Value) -> Option<()> {
    more["status"] = status.into();
    answer(stream, status, &more)
}
