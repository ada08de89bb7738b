//! Logs, snapshots, and the disk below them.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kontiki::conformance::{
    Disk, FilesFixture, Fixture, LogOnDisk, LogStoreFixture, SnapshotStoreFixture, SnapshotsOnDisk,
};
use kontiki::runtime::{Files, OsFiles};
use kontiki::storage::{
    FileLogStore, FileSnapshotStore, FileStoreConfig, LogStore, MemoryLogStore,
    MemorySnapshotStore, SnapshotStore, StorageError,
};

/// The log in files, on a disk that is crashed and damaged.
mod file_log {
    use super::*;

    pub(super) fn small() -> FileStoreConfig {
        let mut config = FileStoreConfig::default();
        config.segment_bytes = 4_096;
        config
    }

    fn fixture() -> LogOnDisk {
        LogOnDisk::new(|files| {
            Box::pin(async move {
                let store = FileLogStore::open(files, small()).await?;
                Ok(Box::new(store) as Box<dyn LogStore>)
            })
        })
    }

    kontiki::log_store_conformance!(fixture());
}

/// The same on the disk of this machine, as far as it can be tried there.
mod file_log_on_this_machine {
    use super::*;

    struct Directory(tempfile::TempDir);

    impl Fixture for Directory {}

    #[async_trait]
    impl LogStoreFixture for Directory {
        async fn open(&self) -> Result<Box<dyn LogStore>, StorageError> {
            let files = OsFiles::new(self.0.path()).map_err(StorageError::io("opening"))?;
            let store = FileLogStore::open(Arc::new(files), file_log::small()).await?;
            Ok(Box::new(store))
        }

        async fn crash(&self) {}
    }

    kontiki::log_store_conformance!(Directory(tempfile::tempdir().unwrap()));
}

mod memory_log {
    use super::*;

    #[derive(Default)]
    struct Memory(Mutex<MemoryLogStore>, Mutex<usize>);

    impl Fixture for Memory {}

    #[async_trait]
    impl LogStoreFixture for Memory {
        async fn open(&self) -> Result<Box<dyn LogStore>, StorageError> {
            let mut store = self.0.lock().unwrap();
            // A start on the disk as it is; who had it before is cut off.
            *store = store.crash(usize::MAX);
            Ok(Box::new(store.clone()))
        }

        async fn crash(&self) {
            let (mut store, mut count) = (self.0.lock().unwrap(), self.1.lock().unwrap());
            *count += 1;
            *store = store.crash(*count % 3);
        }
    }

    kontiki::log_store_conformance!(Memory::default());
}

/// The example that log stores are copied from, on a database whose disk crashes.
mod custom_log {
    use std::io;

    use bytes::Bytes;
    use kontiki::conformance::{self, block_on};
    use kontiki::runtime::{FileId, FileOp, OpenMode, Smol};
    use redb::{Database, StorageBackend};

    use super::*;
    use crate::ledger::{self, Ledger};

    struct Redb {
        disk: Disk,
        /// Whether the kit may do to the disk what it likes. Not where it wants a sync to be
        /// waited for: here a sync blocks, and must not in the thread of the kit.
        faults: bool,
    }

    fn fixture(faults: bool) -> Redb {
        Redb { disk: Disk::new(), faults }
    }

    impl Fixture for Redb {}

    #[async_trait]
    impl LogStoreFixture for Redb {
        async fn open(&self) -> Result<Box<dyn LogStore>, StorageError> {
            let files = self.disk.files();
            files.lock().await.map_err(StorageError::io("locking"))?;
            let names = files.list().await.map_err(StorageError::io("listing"))?;
            if !names.iter().any(|(name, _)| name == "ledger") {
                // As `Ledger::open` does: what a crash leaves of a new database is none.
                drop(database(&files, "fresh", OpenMode::Create).await?);
                let rename = FileOp::Rename { from: "fresh".into(), to: "ledger".into() };
                let done = files.run(vec![rename, FileOp::SyncDir]).await;
                done.map_err(StorageError::io("beginning"))?;
            }
            let database = database(&files, "ledger", OpenMode::Write).await?;
            Ok(Box::new(Ledger::new(Arc::new(Smol::new()), database).await?))
        }

        async fn crash(&self) {
            self.disk.crash();
        }

        fn disk(&self) -> Option<Disk> {
            self.faults.then(|| self.disk.clone())
        }
    }

    /// The file of the database, on the disk of the kit, whose answers are there at once.
    #[derive(Debug)]
    struct File {
        files: Arc<dyn Files>,
        name: &'static str,
        file: FileId,
    }

    async fn database(
        files: &Arc<dyn Files>,
        name: &'static str,
        mode: OpenMode,
    ) -> Result<Database, StorageError> {
        let file = files.open(name, mode).await.map_err(StorageError::io("opening"))?;
        let backend = File { files: Arc::clone(files), name, file };
        // As in `Ledger::open`; and redb panics on a file that is shorter than it should be.
        ledger::blocking(&Smol::new(), move || ledger::database(backend)).await
    }

    impl File {
        fn run(&self, op: FileOp) -> io::Result<()> {
            block_on(self.files.run(vec![op])).unwrap()
        }
    }

    impl StorageBackend for File {
        fn len(&self) -> io::Result<u64> {
            let names = block_on(self.files.list()).unwrap()?;
            Ok(names.iter().find(|(name, _)| name == self.name).map_or(0, |(_, len)| *len))
        }

        fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
            let bytes = block_on(self.files.read(self.file, offset, len)).unwrap()?;
            if bytes.len() < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(bytes.to_vec())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.run(FileOp::SetLen { file: self.file, len })
        }

        fn sync_data(&self, _: bool) -> io::Result<()> {
            self.run(FileOp::SyncData { file: self.file })
        }

        fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
            let parts = vec![Bytes::copy_from_slice(data)];
            self.run(FileOp::Write { file: self.file, at, parts })
        }
    }

    kontiki::log_store_conformance!(fixture(false));

    /// The same on the disk of this machine, as the example does it.
    mod on_this_machine {
        use super::*;

        struct Directory(tempfile::TempDir);

        impl Fixture for Directory {}

        #[async_trait]
        impl LogStoreFixture for Directory {
            async fn open(&self) -> Result<Box<dyn LogStore>, StorageError> {
                let path = self.0.path().join("ledger.redb");
                Ok(Box::new(Ledger::open(Arc::new(Smol::new()), path).await?))
            }

            async fn crash(&self) {}
        }

        kontiki::log_store_conformance!(Directory(tempfile::tempdir().unwrap()));

        #[test]
        fn what_a_crash_leaves_of_a_new_database_is_in_nobodys_way() {
            let directory = Directory(tempfile::tempdir().unwrap());
            std::fs::write(directory.0.path().join("ledger.fresh"), [7; 5_000]).unwrap();
            for _ in 0..2 {
                block_on(directory.open()).unwrap().unwrap();
            }
        }
    }

    /// Without `a_crash_during_recovery_changes_nothing`: redb 2.6 does not survive every crash in
    /// the middle of its repair. It then cannot be opened, which loses nothing in silence.
    mod on_a_disk_that_fails {
        use super::*;

        fn judge(name: &str) {
            let fixture: Arc<dyn LogStoreFixture> = Arc::new(fixture(true));
            conformance::judge(conformance::log_store::CASES, name, fixture);
        }

        #[test]
        fn a_crash_at_any_step_loses_nothing_that_was_synced() {
            judge("a_crash_at_any_step_loses_nothing_that_was_synced");
        }

        #[test]
        fn a_failing_disk_loses_nothing_that_was_acknowledged() {
            judge("a_failing_disk_loses_nothing_that_was_acknowledged");
            judge("a_failed_write_is_final");
        }

        #[test]
        fn damage_is_found() {
            judge("a_flipped_bit_is_found");
            judge("a_cut_log_shows_nothing_that_was_not_written");
        }
    }
}

mod file_snapshots {
    use super::*;

    fn fixture() -> SnapshotsOnDisk {
        SnapshotsOnDisk::new(|files| {
            Box::pin(async move {
                let store = FileSnapshotStore::open(files).await?;
                Ok(Arc::new(store) as Arc<dyn SnapshotStore>)
            })
        })
    }

    kontiki::snapshot_store_conformance!(fixture());
}

mod file_snapshots_on_this_machine {
    use super::*;

    struct Directory(tempfile::TempDir);

    impl Fixture for Directory {}

    #[async_trait]
    impl SnapshotStoreFixture for Directory {
        async fn open(&self) -> Result<Arc<dyn SnapshotStore>, StorageError> {
            let files = OsFiles::new(self.0.path()).map_err(StorageError::io("opening"))?;
            Ok(Arc::new(FileSnapshotStore::open(Arc::new(files)).await?))
        }

        async fn crash(&self) {}
    }

    kontiki::snapshot_store_conformance!(Directory(tempfile::tempdir().unwrap()));
}

mod memory_snapshots {
    use super::*;

    #[derive(Default)]
    struct Memory(MemorySnapshotStore);

    impl Fixture for Memory {}

    #[async_trait]
    impl SnapshotStoreFixture for Memory {
        async fn open(&self) -> Result<Arc<dyn SnapshotStore>, StorageError> {
            Ok(Arc::new(self.0.clone()))
        }

        async fn crash(&self) {}
    }

    kontiki::snapshot_store_conformance!(Memory::default());
}

mod disk_of_this_machine {
    use super::*;

    struct Directory(tempfile::TempDir);

    impl Fixture for Directory {}

    impl FilesFixture for Directory {
        fn files(&self) -> Arc<dyn Files> {
            Arc::new(OsFiles::new(self.0.path()).unwrap())
        }
    }

    kontiki::files_conformance!(Directory(tempfile::tempdir().unwrap()));
}

mod simulated_disk {
    use std::time::Duration;

    use kontiki::conformance::Broken;
    use kontiki::runtime::BoxFuture;
    use kontiki::runtime::sim::Sim;

    use super::*;

    struct World(Sim);

    impl Fixture for World {
        fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
            let hour = Duration::from_secs(3_600);
            self.0.run_until(hour, case).map_err(|stuck| Broken::new(stuck.to_string()))
        }
    }

    impl FilesFixture for World {
        fn files(&self) -> Arc<dyn Files> {
            self.0.process(1).files("directory")
        }
    }

    kontiki::files_conformance!(World(Sim::new(3)));
}

/// The kit's own disk keeps the promises that it judges stores by.
mod disk_of_the_kit {
    use super::*;

    struct OnDisk(Disk);

    impl Fixture for OnDisk {}

    impl FilesFixture for OnDisk {
        fn files(&self) -> Arc<dyn Files> {
            self.0.files()
        }
    }

    kontiki::files_conformance!(OnDisk(Disk::new()));
}
