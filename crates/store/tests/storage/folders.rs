//! Whose a folder is.

use broadcast_store::disk::{CrashOutcome, DataFolder, DataFolderError, Disk, DiskFile, Folder, SimDisk};
use tempfile::TempDir;

#[test]
fn a_second_process_on_a_folder_is_kept_away() {
    let directory = TempDir::new().expect("a folder");
    let path = directory.path().join("node1/store");
    let first = DataFolder::open(Folder::open(&path).expect("a folder"), 1).expect("it is free");
    let second = DataFolder::open(Folder::open(&path).expect("a folder"), 2).expect_err("it is in use");
    assert!(matches!(&second, DataFolderError::InUse { folder } if folder.ends_with("node1/store")), "{second}");
    drop(first);
    let third = DataFolder::open(Folder::open(&path).expect("a folder"), 3).expect("it is free again");
    assert_eq!(third.node(), 1, "the id is drawn once");
}

#[test]
fn a_folder_belongs_to_one_cluster() {
    let disk = SimDisk::new(0);
    let mut folder = DataFolder::open(disk.clone(), 5).expect("empty");
    assert_eq!(folder.cluster(), None);
    folder.join(0xaa).expect("of no cluster yet");
    drop(folder);
    let mut folder = DataFolder::open(disk, 6).expect("free");
    assert_eq!((folder.node(), folder.cluster()), (5, Some(0xaa)));
    folder.join(0xaa).expect("its own cluster");
    let error = folder.join(0xbb).expect_err("another cluster");
    assert!(matches!(error, DataFolderError::OtherCluster { found: 0xaa, expected: 0xbb, .. }), "{error}");
    assert!(error.to_string().contains("00000000000000aa"), "{error}");
}

#[test]
fn an_id_is_kept_or_was_never_told() {
    let landings = [CrashOutcome::Nothing, CrashOutcome::Torn, CrashOutcome::Everything, CrashOutcome::ProcessOnly];
    for (steps, landing) in (0..40).flat_map(|steps| landings.map(|landing| (steps, landing))) {
        let disk = SimDisk::new(steps);
        disk.end_after(steps);
        let told = DataFolder::open(disk.clone(), 7).map(|mut folder| (folder.node(), folder.join(9).is_ok()));
        disk.reboot(landing);
        let folder = DataFolder::open(disk.clone(), 8).expect("whole, or empty");
        if let Ok((node, joined)) = told {
            assert_eq!(folder.node(), node, "ended after {steps} steps");
            assert!(!joined || folder.cluster() == Some(9), "ended after {steps} steps");
        }
        let told = (folder.node(), folder.cluster());
        disk.reboot(CrashOutcome::Nothing);
        let folder = DataFolder::open(disk, 10).expect("whole");
        assert_eq!((folder.node(), folder.cluster()), told, "ended after {steps} steps, then without power");
    }
}

#[test]
fn a_damaged_identity_is_an_error() {
    let disk = SimDisk::new(0);
    DataFolder::open(disk.clone(), 5).expect("empty").join(0xaa).expect("of no cluster yet");
    let size = disk.open("identity").expect("written").size().expect("a length");
    for at in 0..size {
        disk.flip("identity", at);
        let error = DataFolder::open(disk.clone(), 6).expect_err("damaged");
        assert!(
            matches!(error, DataFolderError::Damaged { .. } | DataFolderError::Format { .. }),
            "byte {at}: {error}"
        );
        disk.flip("identity", at);
    }
    DataFolder::open(disk.clone(), 6).expect("as it was");
    disk.create("00000000000000000001.log").expect("a file");
    disk.remove("identity").expect("it is there");
    let error = DataFolder::open(disk, 6).expect_err("a log without an identity");
    assert!(matches!(error, DataFolderError::NoIdentity { .. }), "{error}");
}
