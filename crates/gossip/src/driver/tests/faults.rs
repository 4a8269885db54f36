//! Faults that change while a node runs.

use tokio::net::UdpSocket;

use super::*;
use crate::{
    Faults,
    wire::{Message as Wire, Ping, packet},
};

/// Asks the node, and gives the answer that comes first.
async fn ping(socket: &UdpSocket, node: &Handle, seq: u32) -> Vec<u8> {
    let ping = packet::encode_message(&Wire::Ping(Ping { seq, node: "".into(), source: None }));
    socket.send_to(&ping, node.addr()).await.expect("sent");
    answer(socket).await
}

async fn answer(socket: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 1500];
    let (length, _) = soon("an answer", socket.recv_from(&mut answer)).await.expect("received");
    answer.truncate(length);
    answer
}

#[tokio::test]
async fn faults_come_and_go_while_a_node_runs() {
    let node = start(config("a", &[]).faults("ready".parse().unwrap())).await.expect("starts");
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    assert_eq!(node.faults().await, None);
    let first = ping(&socket, &node, 1).await;

    let twice: Faults = "duplicate=1,seed=7".parse().unwrap();
    node.set_faults(Some(twice.clone())).await.expect("it takes them");
    assert_eq!(node.faults().await, Some(twice));
    let second = ping(&socket, &node, 2).await;
    assert_ne!(first, second, "the first was answered once");
    assert_eq!(answer(&socket).await, second);

    node.set_faults(None).await.expect("it takes none, too");
    assert_eq!(node.faults().await, None);
    let third = ping(&socket, &node, 3).await;
    assert_ne!(second, third);

    let refused = Faults { loss: 2.0, ..Faults::default() };
    assert!(matches!(node.set_faults(Some(refused)).await, Err(FaultsError::Config(_))));
    node.leave().await;
    assert_eq!(node.set_faults(None).await, Err(FaultsError::Stopped));
}

#[tokio::test]
async fn a_node_that_was_started_without_faults_takes_none() {
    let node = node("a", &[]).await;
    assert_eq!(node.set_faults(Some(Faults::default())).await, Err(FaultsError::Off));
    assert_eq!(node.faults().await, None);
}
