//! A log in a redb database.
//!
//! What a log store owes is in the documentation of `LogStore`, and judged by its kit: a write is
//! all or nothing, durable when it returns if that was asked for, and final when it fails. A
//! transaction of a database is all that and more, so this is mostly a matter of telling the
//! database what belongs together.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use kontiki::runtime::Runtime;
use kontiki::storage::{
    Base, Entry, HardState, Identity, LogReader, LogStore, Recovered, StorageError, WriteBatch,
};
use kontiki::{ClusterId, GroupId, LogId, NodeId};
use redb::backends::FileBackend;
use redb::{Database, Durability, ReadableTable as _, StorageBackend, TableDefinition};

/// The entries by their index, each in its own encoded form.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
/// Everything else there is one of: the identity, the base, the hard state.
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");

/// A log in a database of its own.
pub(crate) struct Ledger {
    database: Arc<Database>,
    runtime: Arc<dyn Runtime>,
    /// Set while a write is under way, and for good if it fails or is let go of: what is in the
    /// database is not known then, and the node must stop.
    failed: bool,
}

/// Reads beside the writes: a read transaction sees the last write that was committed, whole.
struct Pages {
    database: Arc<Database>,
    runtime: Arc<dyn Runtime>,
}

impl Ledger {
    /// Opens the log in the file at `path`, or begins one.
    pub(crate) async fn open(
        runtime: Arc<dyn Runtime>,
        path: PathBuf,
    ) -> Result<Self, StorageError> {
        let opened = blocking(&*runtime, move || {
            if !path.exists() {
                // A crash while a database is made leaves a file that is none. So it is made
                // beside, and gets its name when it is whole.
                let fresh = path.with_extension("fresh");
                let empty = file(&fresh)?;
                empty.set_len(0).map_err(StorageError::io("beginning a log"))?;
                drop(database(empty)?);
                put_in_place(&fresh, &path).map_err(StorageError::io("beginning a log"))?;
            }
            database(file(&path)?)
        });
        let database = opened.await?;
        Self::new(runtime, database).await
    }

    /// Takes a database that nobody else has open.
    pub(crate) async fn new(
        runtime: Arc<dyn Runtime>,
        mut database: Database,
    ) -> Result<Self, StorageError> {
        let database = blocking(&*runtime, move || {
            // Compares every page with its checksum. Without that, damage that came while the
            // database was closed would be served as if nothing had happened.
            database.check_integrity().map_err(failed)?;
            // Made here, so that readers find them.
            let write = database.begin_write().map_err(failed)?;
            write.open_table(ENTRIES).map_err(failed)?;
            write.open_table(FACTS).map_err(failed)?;
            write.commit().map_err(failed)?;
            Ok(database)
        });
        Ok(Self { database: Arc::new(database.await?), runtime, failed: false })
    }
}

#[async_trait]
impl LogStore for Ledger {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        let database = Arc::clone(&self.database);
        blocking(&*self.runtime, move || recover(&database)).await
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        if std::mem::replace(&mut self.failed, true) {
            return Err(StorageError::Poisoned);
        }
        let database = Arc::clone(&self.database);
        blocking(&*self.runtime, move || write(&database, batch)).await?;
        self.failed = false;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        let (database, runtime) = (Arc::clone(&self.database), Arc::clone(&self.runtime));
        Arc::new(Pages { database, runtime })
    }
}

#[async_trait]
impl LogReader for Pages {
    async fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        let database = Arc::clone(&self.database);
        blocking(&*self.runtime, move || read(&database, indexes, bytes_max)).await
    }
}

/// Opens a file, or makes one; refused while another process has it.
fn file(path: &Path) -> Result<FileBackend, StorageError> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).map_err(StorageError::io("opening the database"))?;
    FileBackend::new(file).map_err(failed)
}

/// Opens the database in a file, or makes one in an empty file.
pub(crate) fn database(file: impl StorageBackend) -> Result<Database, StorageError> {
    Database::builder().create_with_backend(Steady(file)).map_err(failed)
}

/// A file whose length is durable as soon as it is set. redb takes that for granted, and a power
/// cut that keeps the rest of what it wrote, but not the length, would leave it unable to open.
#[derive(Debug)]
struct Steady<T>(T);

impl<T: StorageBackend> StorageBackend for Steady<T> {
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        self.0.sync_data(false)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.0.read(offset, len)
    }

    fn sync_data(&self, eventual: bool) -> io::Result<()> {
        self.0.sync_data(eventual)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn put_in_place(fresh: &Path, path: &Path) -> io::Result<()> {
    fs::rename(fresh, path)?;
    // The new name is durable when its directory is; Windows sees to that by itself.
    match path.parent() {
        Some(directory) if cfg!(unix) => fs::File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

/// One transaction: all of the batch, or nothing of it.
fn write(database: &Database, batch: WriteBatch) -> Result<(), StorageError> {
    let mut write = database.begin_write().map_err(failed)?;
    // A batch that need not be durable yet becomes so with the next that must be.
    write.set_durability(if batch.sync { Durability::Immediate } else { Durability::None });
    {
        let mut entries = write.open_table(ENTRIES).map_err(failed)?;
        let mut facts = write.open_table(FACTS).map_err(failed)?;
        let mut base = base_of(&facts)?;
        if let Some(identity) = batch.identity {
            facts.insert("identity", &encode_identity(&identity)[..]).map_err(failed)?;
        }
        if let Some(to) = batch.reset_to {
            entries.retain(|_, _| false).map_err(failed)?;
            base = to;
        }
        if let Some(to) = batch.compact_to {
            if to.log_id.index < base.log_id.index {
                return Err(refused("it brings back what was compacted"));
            }
            entries.retain_in(..=to.log_id.index, |_, _| false).map_err(failed)?;
            base = to;
        }
        if let Some(first) = batch.entries.first() {
            // Whatever stands at the place of the first and behind it is replaced.
            entries.retain_in(first.log_id().index.., |_, _| false).map_err(failed)?;
        }
        let last = entries.last().map_err(failed)?.map(|(index, _)| index.value());
        let next = last.unwrap_or(base.log_id.index) + 1;
        for (index, entry) in (next..).zip(batch.entries) {
            if entry.log_id().index != index {
                return Err(refused("it leaves a hole, or brings back what was compacted"));
            }
            entries.insert(index, &entry.encode()[..]).map_err(failed)?;
        }
        if let Some(hard_state) = batch.hard_state {
            facts.insert("hard state", &hard_state.encode()[..]).map_err(failed)?;
        }
        facts.insert("base", &encode_base(&base)[..]).map_err(failed)?;
    }
    // An error before this line drops the transaction, and nothing has happened.
    write.commit().map_err(failed)
}

/// Everything that a node must know of its log when it starts.
fn recover(database: &Database) -> Result<Recovered, StorageError> {
    let read = database.begin_read().map_err(failed)?;
    let (entries, facts) = (read.open_table(ENTRIES), read.open_table(FACTS));
    let (entries, facts) = (entries.map_err(failed)?, facts.map_err(failed)?);
    let base = base_of(&facts)?;
    let mut recovered = Recovered { last: base.log_id, base, ..Recovered::default() };
    if let Some(identity) = facts.get("identity").map_err(failed)? {
        recovered.identity = Some(decode_identity(identity.value()).ok_or_else(damaged)?);
    }
    if let Some(hard_state) = facts.get("hard state").map_err(failed)? {
        recovered.hard_state = HardState::decode(hard_state.value()).map_err(|_| damaged())?;
    }
    for found in entries.iter().map_err(failed)? {
        let entry = decode(found.map_err(failed)?.1.value())?;
        // The first of each run of terms, and what changes the membership.
        if recovered.terms.last().is_none_or(|run| run.term != entry.log_id().term) {
            recovered.terms.push(entry.log_id());
        }
        recovered.last = entry.log_id();
        if entry.is_change() {
            recovered.changes.push(entry);
        }
    }
    Ok(recovered)
}

/// At least one entry, then as many as fit.
fn read(
    database: &Database,
    indexes: Range<u64>,
    bytes_max: u64,
) -> Result<Vec<Entry>, StorageError> {
    let read = database.begin_read().map_err(failed)?;
    let first = base_of(&read.open_table(FACTS).map_err(failed)?)?.log_id.index + 1;
    if indexes.start < first {
        return Err(StorageError::Compacted { first });
    }
    let (mut all, mut bytes) = (Vec::new(), 0);
    let entries = read.open_table(ENTRIES).map_err(failed)?;
    for found in entries.range(indexes).map_err(failed)? {
        let entry = decode(found.map_err(failed)?.1.value())?;
        bytes += entry.encoded_len() as u64;
        if bytes > bytes_max && !all.is_empty() {
            break;
        }
        all.push(entry);
    }
    Ok(all)
}

/// Runs `work` where it may block: a commit waits for the disk, and nothing else may wait for it.
pub(crate) async fn blocking<T: Send + 'static>(
    runtime: &dyn Runtime,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let (done, result) = oneshot::channel();
    // The work is done whether anybody waits for this future or not.
    drop(runtime.spawn_blocking(Box::new(move || {
        let _ = done.send(work());
    })));
    // Dropped without an answer if the work panics.
    result.await.unwrap_or(Err(StorageError::Poisoned))
}

fn base_of(
    facts: &impl redb::ReadableTable<&'static str, &'static [u8]>,
) -> Result<Base, StorageError> {
    let Some(found) = facts.get("base").map_err(failed)? else { return Ok(Base::default()) };
    let (place, system) = found.value().split_at_checked(16).ok_or_else(damaged)?;
    let log_id = LogId { term: number(&place[..8]), index: number(&place[8..]) };
    Ok(Base { log_id, system: Bytes::copy_from_slice(system) })
}

fn encode_base(base: &Base) -> Vec<u8> {
    let mut bytes = base.log_id.term.to_le_bytes().to_vec();
    bytes.extend(base.log_id.index.to_le_bytes());
    bytes.extend(&base.system);
    bytes
}

fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut bytes = identity.cluster.to_bytes().to_vec();
    bytes.extend(identity.node.to_bytes());
    bytes.extend(identity.group.0.to_le_bytes());
    bytes
}

fn decode_identity(bytes: &[u8]) -> Option<Identity> {
    let (cluster, rest) = bytes.split_first_chunk::<16>()?;
    let (node, group) = rest.split_first_chunk::<16>()?;
    let node = NodeId::from_bytes(*node).ok()?;
    let group = GroupId(u64::from_le_bytes(group.try_into().ok()?));
    Some(Identity { cluster: ClusterId::from_bytes(*cluster), node, group })
}

fn decode(bytes: &[u8]) -> Result<Entry, StorageError> {
    Entry::decode(Bytes::copy_from_slice(bytes)).map_err(|_| damaged())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn failed(error: impl Into<redb::Error>) -> StorageError {
    StorageError::Other(Arc::new(error.into()))
}

fn refused(what: &str) -> StorageError {
    let wrong = io::Error::new(io::ErrorKind::InvalidInput, what);
    StorageError::io("taking a batch")(wrong)
}

fn damaged() -> StorageError {
    let what = "it holds what no log is made of".to_owned();
    StorageError::Corrupt { place: "the database".to_owned(), offset: 0, what }
}
