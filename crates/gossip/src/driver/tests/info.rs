//! What nodes on sockets tell each other about themselves.

use super::*;

#[tokio::test]
async fn nodes_know_each_others_identity_roles_and_endpoints_and_hear_when_they_change() {
    let id = NodeId::from(7);
    let http = SocketAddr::from(([0, 0, 0, 0], 8946));
    let info = NodeInfo::new(id).role("cache").endpoint("http", http);
    let a = start(config("a", &[]).info(info.clone())).await.expect("starts");
    let b = node("b", &[a.addr()]).await;
    assert_eq!(a.id(), id);
    let (mut to_a, mut to_b) = (a.events(), b.events());
    let introduced = |event: &Event, who: &str, told: &NodeInfo| match event {
        Event::InfoReceived { name, info } => *name == *who && **info == *told,
        _ => false,
    };
    hear(&mut to_b, "who a is", |event| introduced(event, "a", &info)).await;
    hear(&mut to_a, "who b is", |event| introduced(event, "b", &NodeInfo::new(b.id()))).await;
    assert_eq!(b.info_of(&"a".into()).await, Some(info.clone()));
    assert_eq!(b.info_of(&"b".into()).await, Some(NodeInfo::new(b.id())));
    assert_eq!(b.info_of(&"c".into()).await, None);
    let overview = b.overview().await;
    let seen: &MemberOverview = overview.members.iter().find(|seen| seen.member.name == *"a").expect("it is a member");
    let at = SocketAddr::new(a.addr().ip(), 8946);
    assert_eq!(seen.endpoints().collect::<Vec<_>>(), [("http", at)]);

    let changed = info.role("voter");
    a.update_info(changed.clone()).await.expect("it runs");
    hear(&mut to_b, "what is new of a", |event| introduced(event, "a", &changed)).await;
    let refused = a.update_info(NodeInfo::new(NodeId::from(8))).await.expect_err("another id").to_string();
    assert!(refused.contains("0000000000000007") && refused.contains("0000000000000008"), "{refused}");
    a.leave().await;
    assert_eq!(a.update_info(changed).await, Err(UpdateError::Stopped));
}
