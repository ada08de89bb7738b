//! Kills random servers of a real three-process cluster while it is written to, and looks whether
//! anything that was acknowledged is missing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::kv::{Answer, Client, If};
use crate::ports;
use crate::server::{self, First, Server};
use crate::stores;
use crate::wall::{self, pause};

struct Options {
    cycles: u32,
    seed: u64,
}

/// What was acknowledged: the value of each key.
type Acknowledged = Arc<Mutex<BTreeMap<String, String>>>;

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let options = parse(words)?;
    println!("== crash: {} kills, seed {}", options.cycles, options.seed);
    server::build()?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut cluster = Vec::new();
    for number in 0..3 {
        cluster.push(Server {
            name: format!("n{number}"),
            http: ports::own_address()?,
            peer: ports::own_address()?,
            directory: directory.path().join(format!("n{number}")),
            launcher: Vec::new(),
            options: Vec::new(),
            output: None,
            child: None,
        });
    }
    let first = cluster[0].peer.clone();
    for server in &mut cluster {
        let join = if server.peer == first { First::Bootstrap } else { First::Join(&first) };
        server.start(Some(join))?;
        server.wait_until_up()?;
    }
    let acknowledged = Acknowledged::default();
    let killed = under_load(&mut cluster, &options, &acknowledged);
    let checked = killed.and_then(|()| check(&mut cluster, &acknowledged));
    for server in &mut cluster {
        server.kill();
    }
    checked?;
    stores::compare(&cluster)
}

fn parse(words: &[&str]) -> Result<Options, String> {
    let mut options = Options { cycles: 20, seed: wall::new_seed() };
    for pair in words.chunks(2) {
        let number = pair.get(1).and_then(|text| text.parse::<u64>().ok());
        match (pair[0], number) {
            ("--cycles", Some(number)) => {
                options.cycles = u32::try_from(number).map_err(|error| error.to_string())?;
            }
            ("--seed", Some(number)) => options.seed = number,
            _ => return Err("crash [--cycles N] [--seed N]".to_owned()),
        }
    }
    Ok(options)
}

/// Kills and restarts servers while clients write.
fn under_load(
    cluster: &mut [Server],
    options: &Options,
    acknowledged: &Acknowledged,
) -> Result<(), String> {
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let servers: Vec<String> = cluster.iter().map(|server| server.http.clone()).collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (stop, writes, servers) = (Arc::clone(&stop), Arc::clone(&writes), servers.clone());
            let acknowledged = Arc::clone(acknowledged);
            wall::spawn(move || write(client, &servers, &stop, &writes, &acknowledged))
        })
        .collect();
    let mut outcome = Ok(());
    for cycle in 1..=options.cycles {
        pause(dice.u64(200..2_500));
        // Now and then two at once: nobody may write then, but nothing may be lost either.
        let victims = if dice.u8(..5) == 0 { 2 } else { 1 };
        let from = dice.usize(..3);
        let chosen = (0..victims).map(|offset| (from + offset) % 3);
        for victim in chosen.clone() {
            cluster[victim].kill();
        }
        pause(dice.u64(0..300));
        outcome = chosen.into_iter().try_for_each(|victim| cluster[victim].start(None));
        if outcome.is_err() {
            break;
        }
        if cycle % 10 == 0 {
            println!("   {cycle} kills, {} writes acknowledged", writes.load(Ordering::Relaxed));
        }
    }
    pause(3_000);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().map_err(|_| "a client panicked")?;
    }
    outcome
}

fn write(
    client: usize,
    servers: &[String],
    stop: &AtomicBool,
    writes: &AtomicU64,
    acknowledged: &Acknowledged,
) {
    let kv = Client::new(Duration::from_secs(3));
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{client}-{number}");
        let value = format!("value of {key}");
        let server = &servers[usize::try_from(number).unwrap_or(0) % servers.len()];
        if matches!(kv.put(server, &key, &value, &If::Always), Answer::Done { .. }) {
            writes.fetch_add(1, Ordering::Relaxed);
            let mut all = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(key, value);
        } else {
            pause(20);
        }
    }
}

/// Everything that was acknowledged must be readable, from every server.
fn check(cluster: &mut [Server], acknowledged: &Acknowledged) -> Result<(), String> {
    let all = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    if all.is_empty() {
        return Err("not one write was acknowledged".to_owned());
    }
    let kv = Client::new(Duration::from_secs(15));
    for server in cluster.iter_mut() {
        server.wait_until_up()?;
        for (key, value) in all.iter() {
            match kv.get(&server.http, key) {
                Answer::Found { value: found, .. } if found == *value => {}
                other => return Err(format!("{key} is {other:?} on server {}", server.name)),
            }
        }
    }
    println!("   {} acknowledged writes are all there, on each of the three", all.len());
    // Once more everybody hears how far the log is committed, before the stores are compared.
    pause(500);
    Ok(())
}

const CLIENTS: usize = 6;
