//! openraft's own tests of a storage: on real files with Tokio, and on a disk in memory with the simulated runtime.

use broadcast_store::disk::{DataFolder, Folder, SimDisk};
use broadcast_store::log::{Log, LogOptions};
use broadcast_store::raft::{LogStore, SimTypeConfig, StateMachine, TypeConfig};
use broadcast_store::snapshot::Snapshots;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use crate::table::Table;

// Small, so that the few entries of the tests need several segments, and reads go to the disk.
fn options() -> LogOptions {
    LogOptions { segment: 1024, reserve: 128, queue: 4096, cache: 200, read: 200 }
}

struct RealFiles;

impl StoreBuilder<TypeConfig, LogStore<Folder>, StateMachine<TypeConfig, Table, Folder>, (TempDir, DataFolder<Folder>)>
    for RealFiles
{
    async fn build(
        &self,
    ) -> Result<
        ((TempDir, DataFolder<Folder>), LogStore<Folder>, StateMachine<TypeConfig, Table, Folder>),
        StorageError<TypeConfig>,
    > {
        let directory = TempDir::new().expect("a folder");
        let disk = Folder::open(directory.path()).expect("a folder");
        let mut folder = DataFolder::open(disk.clone(), 1).expect("an empty folder");
        let ids = folder.join(1).expect("an empty folder");
        let (log, writer) = Log::open(disk.clone(), ids, options()).expect("an empty log");
        let snapshots = Snapshots::open(disk, ids.cluster, log.state().purged).expect("no snapshots");
        writer.spawn(|ended| ended.expect("the disk works")).expect("a thread");
        Ok(((directory, folder), LogStore::new(log), StateMachine::new(Table::default(), snapshots)))
    }
}

struct Simulated;

impl StoreBuilder<SimTypeConfig, LogStore<SimDisk>, StateMachine<SimTypeConfig, Table, SimDisk>> for Simulated {
    async fn build(
        &self,
    ) -> Result<((), LogStore<SimDisk>, StateMachine<SimTypeConfig, Table, SimDisk>), StorageError<SimTypeConfig>> {
        let disk = SimDisk::new(1);
        let ids = broadcast_store::disk::Ids { cluster: 1, node: 1 };
        let (log, writer) = Log::open(disk.clone(), ids, options()).expect("an empty log");
        let snapshots = Snapshots::open(disk, ids.cluster, log.state().purged).expect("no snapshots");
        let pause = || SimTypeConfig::sleep(std::time::Duration::from_millis(3));
        SimTypeConfig::spawn(async move { writer.run(pause).await.expect("the disk works") });
        Ok(((), LogStore::new(log), StateMachine::new(Table::default(), snapshots)))
    }
}

#[test]
fn openrafts_suite_passes_on_real_files() {
    TypeConfig::run(async { Suite::test_all(RealFiles).await.expect("the suite passes") });
}

#[test]
fn openrafts_suite_passes_in_a_simulation() {
    SimTypeConfig::run(async { Suite::test_all(Simulated).await.expect("the suite passes") });
}
