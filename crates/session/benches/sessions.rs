//! Compares sessions with bare TCP, both on loopback, in turn: `cargo bench -p broadcast-session`.
//!
//! - *latency*: 64 bytes go there and come back, one call after the other;
//! - *throughput*: 64 MiB go there in pieces of 64 KiB, and one byte comes back at the end.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use broadcast::{
    Config, Envelope, start,
    wire::{Keyring, SecretKey},
};
use broadcast_session::{Refusal, Request, Sessions};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

const ROUNDS: usize = 7;
const PINGS: usize = 3000;
const PIECE: usize = 64 << 10;
const PIECES: usize = 1024;
const TIME: Duration = Duration::from_secs(60);

async fn node(name: &str, seed: Option<&Sessions>) -> Sessions {
    let keyring = Keyring::new([SecretKey::new([7; 32]).expect("a key")]).expect("one key");
    let mut config =
        Config::new(name).bind((Ipv4Addr::LOCALHOST, 0).into()).envelope(Envelope { keyring, ..Envelope::default() });
    if let Some(seed) = seed {
        config = config.join([seed.node().addr().to_string().parse().expect("an address")]);
    }
    let sessions =
        Sessions::start(&start(config).await.expect("it starts"), Default::default()).await.expect("it runs");
    sessions.serve("echo", async |mut request: Request| {
        request.bytes(PIECE).await.map(Into::into).map_err(|error| Refusal::new(1, error.to_string()))
    });
    sessions.serve("sink", async |mut request: Request| {
        let mut len = 0;
        while let Ok(Some(piece)) = request.body.next().await {
            len += piece.len();
        }
        Ok(len.to_string().into())
    });
    sessions
}

/// A server that sends back what comes, 64 bytes at a time, or takes in as much as there is, and says so.
async fn bare() -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("it connects");
        stream.set_nodelay(true).expect("it is TCP");
        let mut small = [0; 64];
        for _ in 0..PINGS {
            stream.read_exact(&mut small).await.expect("it comes");
            stream.write_all(&small).await.expect("it goes");
        }
        let mut left = PIECE * PIECES;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            left -= stream.read(&mut piece).await.expect("it comes");
        }
        stream.write_all(b"!").await.expect("it goes");
    });
    let stream = TcpStream::connect(addr).await.expect("it listens");
    stream.set_nodelay(true).expect("it is TCP");
    stream
}

struct Round {
    latency: Duration,
    rate: f64,
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn rate(time: Duration) -> f64 {
    (PIECE * PIECES) as f64 / time.as_secs_f64() / 1e6
}

async fn bare_round() -> Round {
    let mut stream = bare().await;
    let mut times = Vec::new();
    let mut small = [7; 64];
    for _ in 0..PINGS {
        let begun = Instant::now();
        stream.write_all(&small).await.expect("it goes");
        stream.read_exact(&mut small).await.expect("it comes");
        times.push(begun.elapsed());
    }
    let piece = vec![7; PIECE];
    let begun = Instant::now();
    for _ in 0..PIECES {
        stream.write_all(&piece).await.expect("it goes");
    }
    stream.read_u8().await.expect("it comes");
    Round { latency: median(times), rate: rate(begun.elapsed()) }
}

async fn session_round(from: &Sessions) -> Round {
    let small = Bytes::from_static(&[7; 64]);
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let begun = Instant::now();
        let answer = from.call("two", "echo", small.clone(), TIME).await.expect("it answers");
        times.push(begun.elapsed());
        assert_eq!(answer, small);
    }
    let piece = Bytes::from(vec![7; PIECE]);
    let begun = Instant::now();
    let mut call = from.open("two", "sink", Some(TIME)).await.expect("it answers");
    for _ in 0..PIECES {
        call.outgoing.send(piece.clone()).await.expect("it goes");
    }
    let mut answered = call.finish(Bytes::new()).await.expect("it answers");
    let len = answered.incoming.all(100).await.expect("it comes");
    let time = begun.elapsed();
    assert_eq!(len, (PIECE * PIECES).to_string());
    Round { latency: median(times), rate: rate(time) }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let one = node("one", None).await;
    let _two = node("two", Some(&one)).await;
    let end = Instant::now() + TIME;
    while one.call("two", "echo", Bytes::new(), TIME).await.is_err() {
        assert!(Instant::now() < end, "they do not find each other");
        sleep(Duration::from_millis(50)).await;
    }
    let (mut latencies, mut rates) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        let (bare, session) = (bare_round().await, session_round(&one).await);
        latencies.0.push(bare.latency);
        latencies.1.push(session.latency);
        rates.0.push(bare.rate);
        rates.1.push(session.rate);
    }
    let middle = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (bare, session) = (median(latencies.0), median(latencies.1));
    let (bare_rate, session_rate) = (middle(rates.0), middle(rates.1));
    println!("median of {ROUNDS} rounds      bare TCP    session     ratio");
    println!(
        "64 bytes there and back  {bare:>8.1?}  {session:>9.1?}  {:>8.2}",
        session.as_secs_f64() / bare.as_secs_f64()
    );
    println!("MB/s in pieces of 64 KiB {bare_rate:>8.0}  {session_rate:>9.0}  {:>8.2}", session_rate / bare_rate);
}
