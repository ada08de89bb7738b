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
