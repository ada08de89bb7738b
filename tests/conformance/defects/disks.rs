//! Disks with a defect.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kontiki::conformance::files::CASES;
use kontiki::conformance::{Disk, FilesFixture, Fixture};
use kontiki::runtime::{FileId, FileOp, Files, OpenMode};

use super::breaks;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    AnyoneMayWrite,
    BeginsWhenAsked,
    CutsNothing,
    GoesOnAfterErrors,
    KeepsWhatWasThere,
    ListsAsItLikes,
    LocksNobodyOut,
    MixesRuns,
    ReadsShort,
    RenamesByCopying,
    ReversesParts,
    WipesWhatItRemoves,
}

#[derive(Debug)]
struct Odd(Flaw, Arc<dyn Files>);

impl Odd {
    async fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let (old, new) = (self.open(from, OpenMode::Read), self.open(to, OpenMode::Create));
        let (old, file) = (old.await?, new.await?);
        let parts = vec![self.1.read(old, 0, 1 << 20).await?];
        self.1.run(vec![FileOp::Write { file, at: 0, parts }]).await
    }

    /// One operation, as the flaw would have it.
    async fn act(&self, op: FileOp) -> io::Result<()> {
        let op = match (self.0, op) {
            (Flaw::CutsNothing, FileOp::SetLen { .. }) => return Ok(()),
            (Flaw::RenamesByCopying, FileOp::Rename { from, to }) => {
                self.copy(&from, &to).await?;
                FileOp::Remove { name: from }
            }
            (Flaw::ReversesParts, FileOp::Write { file, at, mut parts }) => {
                parts.reverse();
                FileOp::Write { file, at, parts }
            }
            (Flaw::WipesWhatItRemoves, FileOp::Remove { name }) => {
                self.1.open(&name, OpenMode::Create).await?;
                FileOp::Remove { name }
            }
            (_, op) => op,
        };
        self.1.run(vec![op]).await
    }
}

#[async_trait]
impl Files for Odd {
    async fn lock(&self) -> io::Result<()> {
        if self.0 == Flaw::LocksNobodyOut { Ok(()) } else { self.1.lock().await }
    }

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut listed = self.1.list().await?;
        if self.0 == Flaw::ListsAsItLikes {
            listed.reverse();
        }
        Ok(listed)
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        let there = self.1.open(name, OpenMode::Write).await;
        match (self.0, mode) {
            (Flaw::AnyoneMayWrite, OpenMode::Read) => there,
            (Flaw::KeepsWhatWasThere, OpenMode::Create) if there.is_ok() => there,
            _ => self.1.open(name, mode).await,
        }
    }

    async fn run(&self, ops: Vec<FileOp>) -> io::Result<()> {
        if self.0 == Flaw::BeginsWhenAsked {
            once_pending().await;
        }
        let mut done = Ok(());
        for op in ops {
            match self.act(op).await {
                Err(error) if self.0 == Flaw::GoesOnAfterErrors => done = Err(error),
                acted => acted?,
            }
            if self.0 == Flaw::MixesRuns {
                once_pending().await;
            }
        }
        done
    }

    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes> {
        let short = self.0 == Flaw::ReadsShort && at > 0;
        self.1.read(file, at, len - usize::from(short)).await
    }

    fn close(&self, file: FileId) {
        self.1.close(file);
    }
}

/// Lets others run first.
async fn once_pending() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::replace(&mut waited, true) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

struct OnOdd(Flaw, Disk);

impl Fixture for OnOdd {}

impl FilesFixture for OnOdd {
    fn files(&self) -> Arc<dyn Files> {
        Arc::new(Odd(self.0, self.1.files()))
    }
}

#[test]
fn each_flaw_is_caught_by_the_promise_it_breaks() {
    for (flaw, name, how) in [
        (Flaw::AnyoneMayWrite, "ids_are_checked", "opened to read can be written"),
        (Flaw::BeginsWhenAsked, "a_run_that_is_let_go_of_undoes_nothing", "left"),
        (Flaw::CutsNothing, "set_len_cuts_and_extends", "cut to 3 bytes"),
        (Flaw::GoesOnAfterErrors, "a_run_stops_at_the_first_error", "stopped in the middle"),
        (Flaw::KeepsWhatWasThere, "modes_are_kept", "`Create` keeps"),
        (Flaw::ListsAsItLikes, "files_are_listed_by_name", "is listed"),
        (Flaw::LocksNobodyOut, "a_directory_is_one_owners", "is refused as None"),
        (Flaw::MixesRuns, "runs_do_not_mix", "two runs"),
        (Flaw::ReadsShort, "what_was_written_is_read", "bytes at 3 are"),
        (Flaw::RenamesByCopying, "rename_replaces", "an open file changes"),
        (Flaw::ReversesParts, "parts_stand_one_behind_the_other", "one behind the other:"),
        (Flaw::WipesWhatItRemoves, "remove_leaves_open_files_readable", "an open file changes"),
    ] {
        let fixture = || Arc::new(OnOdd(flaw, Disk::new())) as Arc<dyn FilesFixture>;
        breaks(CASES, fixture, &[(name, how)]);
    }
}
