//! What stopped servers have on their disks, read through the store that wrote it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kontiki::runtime::OsFiles;
use kontiki::storage::{FileLogStore, FileStoreConfig, LogStore as _};

use crate::server::Server;

/// The logs of the stopped servers must agree wherever two of them hold an entry that is committed.
pub(crate) fn compare(cluster: &[Server]) -> Result<(), String> {
    let mut logs = Vec::new();
    for server in cluster {
        let read = smol::block_on(read_log(&server.directory.join("log")));
        logs.push(read.map_err(|error| format!("the log of {}: {error}", server.name))?);
    }
    let (compared, last) = agree(&logs)?;
    println!("   the {} logs agree in {compared} entries, the last at {last}", logs.len());
    Ok(())
}

/// How many entries more than one log holds, and the index of the last of them.
fn agree(logs: &[Log]) -> Result<(usize, u64), String> {
    let mut committed: BTreeMap<u64, Vec<&[u8]>> = BTreeMap::new();
    for (number, log) in logs.iter().enumerate() {
        for index in log.first..=log.commit {
            let entry = log.entries.get(&index);
            let missing =
                || format!("log {number} lacks {index}, and is committed to {}", log.commit);
            committed.entry(index).or_default().push(entry.ok_or_else(missing)?);
        }
    }
    for (index, entries) in &committed {
        if entries.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("the logs differ at index {index}: {entries:?}"));
        }
    }
    let shared = || committed.iter().filter(|(_, entries)| entries.len() > 1);
    let last = shared().next_back().ok_or("no two logs hold a committed entry in common")?;
    Ok((shared().count(), *last.0))
}

struct Log {
    first: u64,
    commit: u64,
    entries: BTreeMap<u64, Vec<u8>>,
}

async fn read_log(directory: &Path) -> Result<Log, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let files = OsFiles::new(directory).map_err(|error| text(&error))?;
    let opened = FileLogStore::open(Arc::new(files), FileStoreConfig::default()).await;
    let mut store = opened.map_err(|error| text(&error))?;
    let recovered = store.recover().await.map_err(|error| text(&error))?;
    let first = recovered.base.log_id.index + 1;
    let (mut next, end) = (first, recovered.last.index + 1);
    let mut entries = BTreeMap::new();
    while next < end {
        let read = store.reader().read(next..end, 1 << 20).await.map_err(|error| text(&error))?;
        next += read.len() as u64;
        entries.extend(read.iter().map(|entry| (entry.log_id().index, entry.encode().to_vec())));
    }
    Ok(Log { first, commit: recovered.hard_state.commit(), entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(first: u64, commit: u64, bytes: &[u8]) -> Log {
        let entries = (first..).zip(bytes).map(|(index, byte)| (index, vec![*byte]));
        Log { first, commit, entries: entries.collect() }
    }

    #[test]
    fn logs_may_differ_where_nothing_is_committed_and_nowhere_else() {
        let whole = log(3, 6, b"cdefg");
        assert_eq!(agree(&[log(1, 4, b"abcdXY"), whole]), Ok((2, 4)));
        let different = agree(&[log(1, 5, b"abcdX"), log(3, 6, b"cdefg")]).unwrap_err();
        assert!(different.contains("differ at index 5"), "{different}");
        let short = agree(&[log(1, 5, b"abc"), log(3, 6, b"cdefg")]).unwrap_err();
        assert!(short.contains("log 0 lacks 4"), "{short}");
        assert!(agree(&[log(1, 2, b"ab"), log(3, 4, b"cd")]).is_err());
    }
}
