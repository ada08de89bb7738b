use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Sim, Stuck};
use crate::runtime::{FileId, FileOp, Files as _, Net as _, OpenMode, Runtime as _};

const MINUTE: Duration = Duration::from_secs(60);

async fn write(files: &super::SimFiles, name: &str, bytes: &'static [u8], sync: bool) {
    let file = files.open(name, OpenMode::Create).await.unwrap();
    let mut ops = vec![FileOp::Write { file, at: 0, parts: vec![bytes.into()] }];
    if sync {
        ops.extend([FileOp::SyncData { file }, FileOp::SyncDir]);
    }
    files.run(ops).await.unwrap();
}

fn echo(seed: u64) -> (u64, Duration) {
    let sim = Sim::new(seed);
    let server = sim.process(1);
    let listening = server.clone();
    server.spawn(Box::pin(async move {
        let mut listener = listening.listen("one:7").await.unwrap();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    }));
    let client = sim.process(2);
    let read = sim.run_until(MINUTE, async move {
        client.timer(client.now() + Duration::from_millis(10)).await;
        let mut stream = client.dial("one:7").await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    assert_eq!(read.unwrap(), b"hello");
    (sim.trace_hash(), sim.elapsed())
}

#[test]
fn one_seed_is_one_history_and_another_another() {
    assert_eq!(echo(1), echo(1));
    assert_ne!(echo(1).0, echo(2).0);
}

#[test]
fn a_world_that_cannot_go_on_says_so() {
    let sim = Sim::new(1);
    let stuck = sim.run_until(MINUTE, std::future::pending::<()>());
    assert!(matches!(stuck, Err(Stuck::Deadlock { seed: 1, .. })));
    let process = sim.process(1);
    let stuck = sim.run_until(MINUTE, async move {
        process.timer(process.now() + 2 * MINUTE).await;
    });
    assert_eq!(stuck, Err(Stuck::Limit { seed: 1, limit: MINUTE }));
}

#[test]
fn a_timer_can_be_moved_both_ways() {
    let sim = Sim::new(1);
    let process = sim.process(1);
    let waited = sim.run_until(MINUTE, async move {
        let start = process.now();
        let mut timer = process.timer(start + Duration::from_secs(30));
        timer.as_mut().reset(start + Duration::from_secs(2));
        timer.as_mut().await;
        let early = process.now() - start;
        timer.as_mut().reset(start + Duration::from_secs(5));
        timer.as_mut().await;
        (early, process.now() - start)
    });
    assert_eq!(waited, Ok((Duration::from_secs(2), Duration::from_secs(5))));
}

#[test]
fn a_kill_keeps_what_was_synced_and_loses_the_rest_in_some_world() {
    let mut lost = 0;
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let files = sim.process(1).files("log");
        let kept = files.clone();
        sim.run_until(MINUTE, async move {
            write(&kept, "synced", b"12345", true).await;
            write(&kept, "not", b"67890", false).await;
        })
        .unwrap();
        sim.kill(1);
        let files = sim.process(1).files("log");
        let (synced, other) = sim
            .run_until(MINUTE, async move {
                let file = files.open("synced", OpenMode::Read).await.unwrap();
                let synced = files.read(file, 0, 100).await.unwrap();
                let other = match files.open("not", OpenMode::Read).await {
                    Ok(file) => files.read(file, 0, 100).await.unwrap(),
                    Err(_) => "".into(),
                };
                (synced, other)
            })
            .unwrap();
        assert_eq!(&synced[..], b"12345");
        lost += u32::from(&other[..] != b"67890");
    }
    assert!((1..40).contains(&lost), "lost in {lost} of 40 worlds");
}

#[test]
fn a_kill_drops_tasks_resets_connections_and_frees_the_address_and_the_lock() {
    let sim = Sim::new(3);
    let server = sim.process(1);
    let listening = server.clone();
    let files = server.files("log");
    server.spawn(Box::pin(async move {
        files.lock().await.unwrap();
        let mut listener = listening.listen("one:7").await.unwrap();
        let _kept = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    }));
    sim.run_for(Duration::from_secs(1));
    let client = sim.process(2);
    let mut stream =
        sim.run_until(MINUTE, async move { client.dial("one:7").await }).unwrap().unwrap();
    sim.kill(1);
    let read = sim.run_until(MINUTE, async move { stream.read(&mut [0; 1]).await }).unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let next = sim.process(1);
    sim.run_until(MINUTE, async move {
        next.files("log").lock().await.unwrap();
        next.listen("one:7").await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_partition_holds_bytes_back_until_it_is_healed() {
    let sim = Sim::new(4);
    let server = sim.process(1);
    let listening = server.clone();
    server.spawn(Box::pin(async move {
        let mut listener = listening.listen("one:7").await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        std::future::pending::<()>().await;
    }));
    sim.run_for(Duration::from_secs(1));
    let client = sim.process(2);
    let dialing = client.clone();
    let mut stream =
        sim.run_until(MINUTE, async move { dialing.dial("one:7").await }).unwrap().unwrap();
    sim.partition(1, 2);
    let other = client.clone();
    let refused = sim.run_until(MINUTE, async move { other.dial("one:7").await.err() }).unwrap();
    assert_eq!(refused.unwrap().kind(), std::io::ErrorKind::TimedOut);
    let (world, started) = (sim.clone(), sim.elapsed());
    client.spawn(Box::pin({
        let client = client.clone();
        async move {
            client.timer(client.now() + Duration::from_secs(9)).await;
            world.heal();
        }
    }));
    let read = sim.run_until(MINUTE, async move { stream.read(&mut [0; 1]).await }).unwrap();
    assert_eq!(read.unwrap(), 1);
    assert!(sim.elapsed() - started >= Duration::from_secs(9));
}

#[test]
fn a_second_opener_of_a_directory_is_refused() {
    let sim = Sim::new(5);
    let process = sim.process(1);
    let refused = sim.run_until(MINUTE, async move {
        let first = process.files("log");
        first.lock().await.unwrap();
        let refused = process.files("log").lock().await.unwrap_err().kind();
        drop(first);
        process.files("log").lock().await.unwrap();
        refused
    });
    assert_eq!(refused, Ok(std::io::ErrorKind::WouldBlock));
}

#[test]
fn a_run_that_is_dropped_is_done_all_the_same() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    let read = sim.run_until(MINUTE, async move {
        let file = files.open("log", OpenMode::Create).await.unwrap();
        let mut run = files.run(vec![bytes(file, 0, b"1111")]);
        assert!(run.as_mut().now_or_never().is_none());
        drop(run);
        files.run(vec![bytes(file, 2, b"2222")]).await.unwrap();
        files.read(file, 0, 100).await.unwrap()
    });
    assert_eq!(read.unwrap(), "112222");
}

#[test]
fn runs_are_done_one_after_the_other() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let files = sim.process(1).files("log");
        let read = sim.run_until(MINUTE, async move {
            let file = files.open("log", OpenMode::Create).await.unwrap();
            let first = vec![bytes(file, 0, b"1111"), FileOp::SyncDir, bytes(file, 4, b"1111")];
            let second = vec![bytes(file, 2, b"2222")];
            let (first, second) = join(files.run(first), files.run(second)).await;
            first.and(second).unwrap();
            files.read(file, 0, 100).await.unwrap()
        });
        assert_eq!(read.unwrap(), "11222211");
    }
}

fn bytes(file: FileId, at: u64, bytes: &'static [u8]) -> FileOp {
    FileOp::Write { file, at, parts: vec![Bytes::from_static(bytes)] }
}

/// What a file holds, in this life of process 1.
fn contents(sim: &Sim, name: &'static str) -> Bytes {
    let files = sim.process(1).files("log");
    sim.run_until(MINUTE, async move {
        let file = files.open(name, OpenMode::Read).await.unwrap();
        files.read(file, 0, 10_000).await.unwrap()
    })
    .unwrap()
}

#[test]
fn a_file_that_is_cut_and_grows_again_has_zeros_where_it_was() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    sim.run_until(MINUTE, async move {
        write(&files, "log", &[7; 2000], true).await;
        let file = files.open("log", OpenMode::Write).await.unwrap();
        let cut = [FileOp::SetLen { file, len: 10 }, FileOp::SetLen { file, len: 2000 }];
        files.run(cut.into()).await.unwrap();
        files.run(vec![FileOp::SyncData { file }]).await.unwrap();
    })
    .unwrap();
    let before = contents(&sim, "log");
    assert_eq!((&before[..10], &before[10..]), (&[7; 10][..], &[0; 1990][..]));
    sim.kill(1);
    assert_eq!(contents(&sim, "log"), before);
}

#[test]
fn names_that_were_not_synced_are_lost_in_any_order_but_a_rename_is_one_step() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let files = sim.process(1).files("log");
        sim.run_until(MINUTE, async move {
            write(&files, "a", b"1", true).await;
            write(&files, "b", b"2", true).await;
            let rename = FileOp::Rename { from: "a".into(), to: "c".into() };
            files.run(vec![rename, FileOp::Remove { name: "b".into() }]).await.unwrap();
        })
        .unwrap();
        sim.kill(1);
        let files = sim.process(1).files("log");
        let names = sim.run_until(MINUTE, async move { files.list().await.unwrap() }).unwrap();
        seen.insert(names.into_iter().map(|(name, _)| name).collect::<String>());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a", "ab", "bc", "c"]);
}

#[test]
fn what_a_failed_sync_did_not_write_is_lost_whatever_a_second_one_says() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    sim.run_until(MINUTE, async move {
        write(&files, "log", b"1111", true).await;
        let file = files.open("log", OpenMode::Write).await.unwrap();
        files.run(vec![bytes(file, 0, b"2222")]).await.unwrap();
        files.fail_next_sync();
        files.run(vec![FileOp::SyncData { file }]).await.unwrap_err();
        files.run(vec![FileOp::SyncData { file }]).await.unwrap();
    })
    .unwrap();
    assert_eq!(contents(&sim, "log"), "2222");
    sim.kill(1);
    assert_eq!(contents(&sim, "log"), "1111");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    let full = sim.run_until(MINUTE, async move {
        write(&files, "log", b"1111", true).await;
        files.set_bytes_max(Some(6));
        let file = files.open("log", OpenMode::Write).await.unwrap();
        files.run(vec![bytes(file, 2, b"222222")]).await.unwrap_err().kind()
    });
    assert_eq!(full, Ok(std::io::ErrorKind::StorageFull));
    assert_eq!(contents(&sim, "log"), "112222");
}

#[test]
fn a_directory_is_locked_until_what_was_under_way_is_done() {
    let sim = Sim::new(1);
    let process = sim.process(1);
    let refused = sim.run_until(MINUTE, async move {
        let first = process.files("log");
        first.lock().await.unwrap();
        let file = first.open("log", OpenMode::Create).await.unwrap();
        assert!(first.run(vec![bytes(file, 0, b"1")]).now_or_never().is_none());
        drop(first);
        let refused = process.files("log").lock().await.map_err(|error| error.kind());
        process.timer(process.now() + Duration::from_secs(1)).await;
        process.files("log").lock().await.unwrap();
        refused
    });
    assert_eq!(refused, Ok(Err(std::io::ErrorKind::WouldBlock)));
}
