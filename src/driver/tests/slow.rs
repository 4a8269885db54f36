//! A link that is slow.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, sleep},
};

use super::*;
use crate::Tuning;

/// Bytes that pass in each [`TICK`], on all connections together.
const STEP: usize = 6000;
const TICK: Duration = Duration::from_millis(100);

/// Passes on what comes to a port of its own: UDP at once, TCP slowly. Counts the bytes of the latter.
async fn slow_link(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let (addr, passed) = (tcp.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, _)) = udp.recv_from(&mut buffer).await {
            let _ = udp.send_to(&buffer[..len], to).await;
        }
    });
    let (counted, line) = (Arc::clone(&passed), Arc::new(tokio::sync::Mutex::new(())));
    tokio::spawn(async move {
        while let Ok((outside, _)) = tcp.accept().await {
            let (counted, line) = (Arc::clone(&counted), Arc::clone(&line));
            tokio::spawn(async move {
                let inside = TcpStream::connect(to).await?;
                let ((mut from, mut back), (mut answers, mut into)) = (outside.into_split(), inside.into_split());
                let answer = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
                let mut buffer = vec![0; STEP];
                loop {
                    let len = from.read(&mut buffer).await?;
                    if len == 0 {
                        break;
                    }
                    counted.fetch_add(len, Ordering::Relaxed);
                    let _turn = line.lock().await;
                    sleep(TICK.mul_f64(len as f64 / STEP as f64)).await;
                    into.write_all(&buffer[..len]).await?;
                }
                into.shutdown().await?;
                answer.await.map_err(std::io::Error::other)?
            });
        }
    });
    (addr, passed)
}

#[tokio::test]
async fn a_large_message_takes_its_time_on_a_slow_link_and_goes_once() {
    const SIZE: usize = 200_000;
    let tuning = || Tuning { compression: false, ..Profile::Local.tuning() };
    let (a, passed) = loop {
        let inside = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (outside, passed) = slow_link(inside).await;
        if let Ok(a) = start(config("a", &[]).tuning(tuning()).bind(inside).advertise(seed(outside))).await {
            break (a, passed);
        }
    };
    let b = start(config("b", &[a.addr()]).tuning(tuning())).await.expect("starts");
    hear(&mut b.events(), "b joins", |event| matches!(event, Event::Ready)).await;
    let (mut to_a, before, began) = (a.subscribe(), passed.load(Ordering::Relaxed), Instant::now());
    b.publish("large", &"x".repeat(SIZE)).await.unwrap();
    for i in 0..10 {
        b.publish("small", &i).await.unwrap();
    }
    assert_eq!(next(&mut to_a).await.key(), "large");
    let took = began.elapsed();
    assert!(took > 2 * tuning().tcp_timeout, "the link is not slow: {took:?}");
    for i in 0..10 {
        assert_eq!(next(&mut to_a).await.value(), i.to_string());
    }
    let passed = passed.load(Ordering::Relaxed) - before;
    assert!((SIZE..SIZE * 3 / 2).contains(&passed), "{passed} bytes passed, in {took:?}");
}
