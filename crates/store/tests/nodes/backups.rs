//! Backups, and stores that are founded anew from one, or from what is left of a store.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use broadcast_store::{
    Error, Store, StoreConfig, StoreError,
    backup::{self, Backup, BackupError, NewStore},
    keys::{CancelReason, KeyRange, Put, Range, Watch, WatchEvent},
    machine::Machines,
    node::{VoterChange, VoterError},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::{Disks, Node, leader, until};

/// Has a node save a backup.
async fn save(node: &Node, file: &Path) {
    let mut stream = node.store.save().await.expect("somebody leads");
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await.expect("the leader is there") {
        bytes.extend_from_slice(&piece);
    }
    fs::write(file, bytes).expect("it can be written");
}

fn restore(file: &Path, folder: &Path, node: u64, name: &str) -> Result<NewStore, BackupError> {
    backup::restore(Backup::open(file)?, &Machines::default(), folder, node, name)
}

fn recover(folder: &Path, node: u64) -> Result<NewStore, BackupError> {
    backup::recover(&Machines::default(), folder, node)
}

/// The store that a node is of.
async fn cluster(node: &Node) -> u64 {
    let status = node.store.status().await;
    let mut said = status.iter().filter_map(|(_, status)| status.as_ref().ok()?.cluster);
    said.next().expect("a voter says")
}

/// What is of the former store, and was told after the backup, is not of the new one.
#[track_caller]
fn assert_jumped(founded: &NewStore) {
    // As late as it is, so later than any store that was founded before.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than that").as_micros();
    assert!(u128::from(founded.revision) <= now && now < u128::from(founded.revision) + 60_000_000, "{founded:?}");
}

fn put(key: &str, lease: i64) -> Put {
    Put { key: key.to_owned().into(), value: "x".into(), lease, ..Put::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_all_that_was_acknowledged_and_founds_another_store() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("backup");
    let disks = Disks::new(3);
    let nodes = disks.start_all().await;
    for number in 0..20 {
        nodes[number % 3].put(&format!("key{number}"), &"value".repeat(10_000)).await;
    }
    let (lease, _) = nodes[0].store.grant(Duration::from_secs(2)).await.expect("it is granted");
    let revision = nodes[0].store.put(put("leased", lease)).await.expect("it is put").revision;
    // Whoever leads, and whoever is asked, what was acknowledged is there.
    for node in &nodes {
        save(node, &file).await;
        let header = Backup::open(&file).expect("it is whole").header();
        assert_eq!((header.revision, header.cluster), (revision, cluster(node).await));
    }
    let stranger = disks.start("stranger", &[&nodes[0]]).await;
    save(&stranger, &file).await;
    let mut backup = Backup::open(&file).expect("it is whole");
    assert!(backup.size() > 20 * 50_000, "more than fits into a few pieces");
    assert_eq!(backup.state(&Machines::default()).expect("it is read").leases().len(), 1);

    // Lost, as it is not in the backup. Somebody has seen it, and keeps its revision.
    let lost = stranger.put("lost", "x").await;
    let mut watching = stranger.store.watch_prefix("");
    assert!(matches!(watching.next().await, Ok(Some(WatchEvent::Progress { .. }))));
    let former = cluster(&nodes[0]).await;
    for node in nodes {
        node.crash().await;
    }
    let new = Disks::new(3);
    let founded = restore(&file, &new.path("node2"), new.id("node2").get(), "node2").expect("it is restored");
    assert_eq!((founded.former, founded.former_revision), (former, revision));
    assert_jumped(&founded);
    let header = Backup::open(&file).expect("it is whole").header();
    assert_eq!((founded.former_index, founded.former_term), (header.index, header.term));
    assert_ne!(founded.cluster, former);

    // Whoever founds stores does not found one beside it.
    let one = new.start("node1", &[&stranger]).await;
    let two = new.start("node2", &[&stranger, &one]).await;
    let three = new.start("node3", &[&stranger, &one]).await;
    let nodes = [one, two, three];
    assert_eq!(leader(&nodes[1..2]).await, 0);
    assert_eq!(cluster(&nodes[1]).await, founded.cluster);
    for name in ["node1", "node3"] {
        until("it is taken in", async || nodes[1].store.change_voters(VoterChange::Add(name.into())).await.is_ok())
            .await;
        // It has the state before it votes.
        let status = nodes[1].store.status().await;
        let revision =
            status.iter().find(|(other, _)| other == name).and_then(|(_, s)| Some(s.as_ref().ok()?.revision));
        assert_eq!(revision, Some(founded.revision), "{name}");
    }
    for node in &nodes {
        assert_eq!(node.get("key7").await.as_deref(), Some(&*"value".repeat(10_000)));
        assert_eq!(node.get("lost").await, None);
    }
    // Leases run in full, and end.
    until("the lease has ended", async || nodes[0].get("leased").await.is_none()).await;
    assert_eq!(nodes[2].store.keep_alive(lease).await, Ok(None));

    // Whoever knew the former store is told.
    let error = async {
        loop {
            match watching.next().await {
                Ok(Some(WatchEvent::Changes { .. } | WatchEvent::Progress { .. })) => {}
                other => return other,
            }
        }
    }
    .await;
    assert_eq!(error, Err(StoreError::OtherStore { now: founded.cluster }));
    let error = stranger.store.range(Range { revision: lost, ..Range::of("x") }).await.expect_err("it is gone");
    assert_eq!(error, StoreError::Refused(Error::Compacted { requested: lost, compacted: founded.revision }));
    let from = Watch { keys: KeyRange::all(), start_revision: lost + 1, ..Watch::default() };
    let mut watching = stranger.store.watch(from);
    watching.next().await.expect("it begins");
    let cancelled = CancelReason::Compacted { start: lost + 1, compacted: founded.revision };
    assert_eq!(watching.next().await, Ok(Some(WatchEvent::Cancelled(cancelled))));
    assert!(stranger.put("after", "x").await > founded.revision);
    // Two of three are enough again.
    let [one, two, three] = nodes;
    two.crash().await;
    assert_eq!(one.get("after").await.as_deref(), Some("x"));
    three.put("after", "y").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_store_founds_another() {
    let disks = Disks::new(3);
    let nodes = disks.start_all().await;
    for number in 0..20 {
        nodes[number % 3].put(&format!("key{number}"), "value").await;
    }
    until("all have applied all", async || {
        let status = nodes[0].store.status().await;
        status.len() == 3 && status.iter().all(|(_, status)| status.as_ref().is_ok_and(|status| status.revision == 21))
    })
    .await;
    let former = cluster(&nodes[0]).await;
    let status = nodes[0].store.status().await;
    let three = status.iter().find(|(name, _)| name == "node3").and_then(|(_, status)| status.as_ref().ok());
    let last = three.and_then(|status| status.last_term.zip(status.last));
    let path = disks.path("node3");
    let running = recover(&path, disks.id("node3").get()).expect_err("it runs");
    assert!(running.to_string().contains("another process uses this folder"), "{running}");
    for node in nodes {
        node.crash().await;
    }
    disks.wipe("node1");
    let recovered = recover(&path, disks.id("node3").get()).expect("it is left");
    assert_jumped(&recovered);
    // Somebody else may have come to lead meanwhile.
    assert!((recovered.former_term, recovered.former_index) >= last.expect("the voter has said it"), "{recovered:?}");
    assert_eq!((recovered.former, &*recovered.voter, recovered.former_revision), (former, "node3", 21));
    let three = disks.start("node3", &[]).await;
    assert_eq!(three.put("after", "x").await, recovered.revision + 1);
    for number in 0..20 {
        assert_eq!(three.get(&format!("key{number}")).await.as_deref(), Some("value"));
    }
    // An empty one is taken in, the one of the former store is not.
    let one = disks.start("node1", &[&three]).await;
    let two = disks.start("node2", &[&three]).await;
    until("it is taken in", async || three.store.change_voters(VoterChange::Add("node1".into())).await.is_ok()).await;
    let error = three.store.change_voters(VoterChange::Add("node2".into())).await.expect_err("it is of another store");
    assert!(matches!(&error, StoreError::NotPossible { why } if why.contains("another store")), "{error}");
    one.put("after", "y").await;
    // Nobody is told of the former store, at whichever node: what that one has is no news.
    let client = disks.start("client", &[&two, &three]).await;
    for node in [&two, &client, &one] {
        let mut watching = node.store.watch_prefix("");
        let begun = watching.next().await;
        let Ok(Some(WatchEvent::Progress { revision: begun })) = begun else { panic!("{begun:?}") };
        assert_eq!(watching.store(), recovered.cluster, "{}", node.name);
        let put = node.put("after", "y").await;
        assert!(begun < put, "{}: {begun}, {put}", node.name);
        // A node that lags behind also tells what was put before.
        for expected in begun + 1..=put {
            let told = watching.next().await;
            assert!(matches!(told, Ok(Some(WatchEvent::Changes { revision, .. })) if revision == expected), "{told:?}");
        }
    }
    drop(client);
    for node in [one, two, three] {
        node.crash().await;
    }

    // Once more, from its snapshot and what came after; but first, what the former recovery kept is looked at.
    let error = recover(&path, disks.id("node3").get()).expect_err("the former folder is there");
    assert!(matches!(&error, BackupError::Kept { folder } if folder.ends_with("node3.former")), "{error}");
    fs::remove_dir_all(disks.path("node3.former")).expect("it is there");
    let again = recover(&path, disks.id("node3").get()).expect("it is left");
    assert_eq!((again.former, again.former_revision), (recovered.cluster, recovered.revision + 5));
    let three = disks.start("node3", &[]).await;
    assert_eq!(three.get("after").await.as_deref(), Some("y"));
    three.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_recovered_from_its_snapshot_and_what_came_after() {
    const WRITERS: u64 = 64;
    const EACH: u64 = 90;
    let disks = Disks::new(1);
    let one = Arc::new(disks.start("node1", &[]).await);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let one = Arc::clone(&one);
        writers.spawn(async move {
            for number in 0..EACH {
                one.put(&format!("key{writer}"), &number.to_string()).await;
            }
        });
    }
    writers.join_all().await;
    let path = disks.path("node1");
    let has_snapshot = || {
        let mut files = fs::read_dir(&path).expect("it is there");
        files.any(|file| file.expect("a file").path().extension().is_some_and(|end| end == "snapshot"))
    };
    until("there is a snapshot", async || has_snapshot()).await;
    let last = one.put("last", "x").await;
    assert_eq!(last, 1 + WRITERS * EACH + 1);
    Arc::into_inner(one).expect("nobody else has it").crash().await;
    let recovered = recover(&path, disks.id("node1").get()).expect("it is left");
    assert_eq!(recovered.former_revision, last);
    let one = disks.start("node1", &[]).await;
    for writer in 0..WRITERS {
        assert_eq!(one.get(&format!("key{writer}")).await, Some((EACH - 1).to_string()));
    }
    assert_eq!(one.get("last").await.as_deref(), Some("x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_broken_off_is_done_again() {
    let disks = Disks::new(1);
    let one = disks.start("node1", &[]).await;
    one.put("x", "y").await;
    one.crash().await;
    let (path, id) = (disks.path("node1"), disks.id("node1").get());
    let first = recover(&path, id).expect("it is left");
    // As if the process had ended between the two renames.
    fs::rename(&path, disks.path("node1.new")).expect("it is there");
    let stranger = disks.start("stranger", &[]).await;
    let config = || StoreConfig::default().voters(["node1"]).data(&path);
    let error = Store::start(&stranger.sessions, config()).await.expect_err("it is half done");
    assert!(matches!(&error, VoterError::Io { .. }) && error.to_string().contains("recover again"), "{error}");
    let again = recover(&path, id).expect("it is done again");
    assert_eq!((again.former, again.former_revision), (first.former, first.former_revision));
    assert_ne!(again.cluster, first.cluster);
    let one = disks.start("node1", &[]).await;
    assert_eq!(one.get("x").await.as_deref(), Some("y"));
    assert_eq!(one.put("x", "z").await, again.revision + 1);
}

/// A store of one voter with a key, saved; its folder.
async fn saved(disks: &Disks, file: &Path) -> PathBuf {
    let one = disks.start("node1", &[]).await;
    one.put("x", "y").await;
    save(&one, file).await;
    one.crash().await;
    disks.path("node1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_or_changed_or_none_is_refused_and_nothing_is_written() {
    let folder = TempDir::new().expect("a folder");
    let (file, target) = (folder.path().join("backup"), folder.path().join("new/store"));
    saved(&Disks::new(1), &file).await;
    let whole = fs::read(&file).expect("it is there");
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("it can be written");
        let error = restore(&file, &target, 7, "node1").expect_err("it is not what was saved");
        assert!(!folder.path().join("new").exists(), "{error}");
        assert!(error.to_string().contains("/backup"), "{error}");
        error
    };
    for len in 0..whole.len() {
        let error = refused(&whole[..len]);
        assert!(matches!(error, BackupError::NoBackup { .. } | BackupError::Damaged { .. }), "{len}: {error}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        let error = refused(&changed);
        let expected = matches!(
            (at, &error),
            (0..8, BackupError::NoBackup { .. })
                | (8..12, BackupError::Format { known: 1, .. })
                | (12.., BackupError::Damaged { .. })
        );
        assert!(expected, "{at}: {error}");
    }
    let error = refused(&[&whole[..], &[0]].concat());
    assert!(error.to_string().contains("is cut short, or was changed"), "{error}");

    let missing = restore(&folder.path().join("none"), &target, 7, "node1").expect_err("it is not there");
    assert!(matches!(missing, BackupError::Io { .. }), "{missing}");
    let other = restore(folder.path(), &target, 7, "node1").expect_err("a folder");
    assert!(matches!(other, BackupError::NoBackup { .. }), "{other}");
    fs::write(&file, &whole).expect("it can be written");
    restore(&file, &target, 7, "node1").expect("it is whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_does_not_fit_is_refused_and_stays_as_it_is() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("backup");
    let disks = Disks::new(1);
    let path = saved(&disks, &file).await;
    let files = |path: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(path).expect("it is there").map(|file| file.expect("a file").file_name()).collect();
        names.sort();
        names
    };
    let before = files(&path);
    let error = restore(&file, &path, 7, "node1").expect_err("it has a store");
    assert!(matches!(error, BackupError::NotEmpty { .. }), "{error}");
    assert_eq!(files(&path), before);

    let other = folder.path().join("other");
    let no_store = |other: &Path| {
        let error = recover(other, 7).expect_err("it has no store");
        assert!(matches!(error, BackupError::NoStore { .. }), "{error}");
    };
    no_store(&other);
    assert!(!other.exists());
    fs::create_dir(&other).expect("it can be made");
    no_store(&other);
    // A voter that waits to be taken in.
    let waiting = Disks::new(2);
    waiting.start("node1", &[]).await.crash().await;
    no_store(&waiting.path("node1"));
    fs::write(other.join("00000000000000000001.log"), "x").expect("it can be written");
    no_store(&other);
    assert_eq!(files(&other).len(), 1, "nothing else is in it");
    fs::remove_dir_all(&other).expect("it is there");
    // One beside what a recovery has kept: broken off, it would be taken for that.
    let kept = folder.path().join("other.former");
    fs::create_dir(&kept).expect("it can be made");
    let error = restore(&file, &other, 7, "node1").expect_err("it has to be looked at first");
    assert!(matches!(&error, BackupError::Kept { folder } if folder.ends_with("/other.former")), "{error}");
    assert!(!other.exists());
    fs::remove_dir(&kept).expect("it is there");
    // An empty one will do.
    fs::create_dir(&other).expect("it can be made");
    let first = restore(&file, &other, 7, "node1").expect("it is empty");
    // Two stores that begin with the same: if each number is as likely, ten jump alike once in 10^27.
    let again =
        |number: u32| restore(&file, &folder.path().join(number.to_string()), 7, "node1").expect("there is none");
    assert!(
        (0..9).any(|number| again(number).revision != first.revision),
        "what they tell is mistaken for each other's"
    );
}
