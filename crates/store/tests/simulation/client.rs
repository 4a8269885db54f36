//! Clients: they put, delete, compare and swap, and read, ask again with the same id until there is an answer, and note all
//! of it.

use std::time::Duration;

use broadcast_store::{
    keys::{self, Compare, CompareOp, CompareTarget, Delete, KeyRange, Op, Put, Range, RangeOutcome, Txn},
    machine::{Command, Outcome},
    raft::{ConsensusError, read_index},
};
use bytes::Bytes;
use openraft::type_config::TypeConfigExt as _;

use crate::{
    history::{Answer, Ask, Operation},
    network::{C, Peer, World},
    session::{RequestFailure, Session},
};

/// Keys that all clients use.
const KEYS: u64 = 4;

/// Reads all keys, as they were when this was called or later.
async fn read(session: &mut Session) -> Option<RangeOutcome> {
    session
        .ask(|peer| async move {
            match read_index(&peer.raft).await {
                Ok(()) => Ok(range(&peer)),
                Err(ConsensusError::NotLeader { leader }) => Err(RequestFailure::NotLeader(leader)),
                Err(_) => Err(RequestFailure::Lost),
            }
        })
        .await
}

fn range(peer: &Peer) -> RangeOutcome {
    let range = Range::in_range(KeyRange::prefix("k"));
    peer.state.read(|replica, _| replica.state.keys().range(&range)).expect("the newest revision is there")
}

fn command(ask: &Ask) -> Option<Command> {
    let put = |key: &Bytes, value: &Bytes| Put { key: key.clone(), value: value.clone(), ..Put::default() };
    let command = match ask {
        Ask::Put { key, value } => keys::KeysCommand::Put(put(key, value)),
        Ask::Delete { key } => keys::KeysCommand::Delete(Delete { keys: KeyRange::one(key.clone()), prev_kv: true }),
        Ask::Swap { key, expected, value } => keys::KeysCommand::Txn(Txn {
            compare: vec![Compare {
                keys: KeyRange::one(key.clone()),
                op: CompareOp::Equal,
                target: CompareTarget::Mod(*expected),
            }],
            success: vec![Op::Put(put(key, value))],
            failure: vec![Op::Range(Range::of(key.clone()))],
        }),
        Ask::Read | Ask::ReadLocally => return None,
    };
    Some(Command::keys(&command).expect("a command as good as any"))
}

/// Asks for one thing after the other, until the faults are over.
pub(crate) async fn run(world: World, number: u64, voters: u64) {
    let mut session = Session::open(world.clone(), voters).await;
    // What it has read last of the key that it swaps next.
    let mut seen = (Bytes::from_static(b"k0"), 0);
    for count in 0u64.. {
        if world.done() {
            return;
        }
        C::sleep(Duration::from_millis(world.below(400))).await;
        let key = Bytes::from(format!("k{}", world.below(KEYS)));
        let value = Bytes::from(format!("{number}/{count}/{}", "x".repeat(world.below(100) as usize)));
        let ask = match world.below(12) {
            0..4 => Ask::Put { key, value },
            4 => Ask::Delete { key },
            5..8 => Ask::Swap { key: seen.0.clone(), expected: seen.1, value },
            8 => Ask::ReadLocally,
            _ => Ask::Read,
        };
        let began = world.lock().history.moment();
        let answer = match (&ask, command(&ask)) {
            (_, Some(command)) => session.execute(command).await.map(|outcome| match outcome {
                Outcome::Keys(outcome) => Answer::Changed(outcome),
                other => panic!("{other:?} answers {ask:?}"),
            }),
            (Ask::ReadLocally, _) => world.peer(1 + world.below(voters)).map(|peer| Answer::Found(range(&peer))),
            _ => read(&mut session).await.map(Answer::Found),
        };
        if let Some(Answer::Found(found)) = &answer
            && matches!(ask, Ask::Read)
        {
            let key = Bytes::from(format!("k{}", world.below(KEYS)));
            let changed = found.kvs.iter().find(|kv| kv.key == key).map_or(0, |kv| kv.mod_revision);
            seen = (key, changed);
        }
        let history = &mut world.lock().history;
        let ended = if answer.is_some() { history.moment() } else { u64::MAX };
        history.operations.push(Operation { ask, answer: answer.unwrap_or(Answer::Nothing), began, ended });
    }
}
