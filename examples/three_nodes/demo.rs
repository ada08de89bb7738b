//! What a cluster does, step by step.

use indicatif::ProgressBar;
use kontiki::typed::Client;
use kontiki::{Consistency, Status};

use crate::node::Failure;
use crate::store::{Command, Hex, Store};
use crate::{Cluster, table};

pub(crate) async fn walk(cluster: &mut Cluster) -> Result<(), Failure> {
    let first = cluster.leader().await?;
    let term = cluster.raft(first)?.status().term;
    println!("\n1. {} was elected in term {term}. A hundred writes:", cluster.name(first));
    let bar = ProgressBar::new(WRITES);
    let client = Client::<Store>::new(cluster.raft(first)?);
    // Of this run alone, so that what an earlier one left is not taken for it.
    let written = Hex(format!("written in term {term}").into_bytes());
    for number in 0..WRITES {
        let (key, value) = (Hex(key(number)), written.clone());
        client.propose(&Command::Put { key, value, only_if: None }).await?;
        bar.inc(1);
    }
    bar.finish();
    drop(client);

    println!("2. {} is taken down.", cluster.name(first));
    cluster.bring_down(first).await?;
    let second = cluster.leader().await?;
    let raft = cluster.raft(second)?;
    println!("3. {} was elected in term {}.", cluster.name(second), raft.status().term);

    let guarantee = raft.read(Consistency::Linearizable).await?;
    let up = cluster.up[second].as_ref().ok_or("the new leader is down")?;
    let found = up.store.read(|store| {
        let is_there =
            |number: &u64| store.value(&key(*number)).is_some_and(|s| s.value == written);
        (0..WRITES).filter(is_there).count()
    });
    println!(
        "4. A linearizable read there, at index {}, finds {found} of {WRITES}.",
        guarantee.index
    );
    if found as u64 != WRITES {
        return Err(format!("{} writes are missing", WRITES - found as u64).into());
    }

    cluster.bring_up(first).await?;
    let target = raft.status().commit;
    let back = cluster.raft(first)?;
    let caught_up = |status: &Status| status.id == back.id() && status.applied >= target;
    cluster.until("the old leader catches up", caught_up).await?;
    println!(
        "5. {} is back, and has caught up to index {}.",
        cluster.name(first),
        back.status().applied
    );

    raft.transfer_leadership(back.id()).await?;
    let leader = cluster.leader().await?;
    println!("6. Leadership was handed back to {}:\n", cluster.name(leader));
    println!("{}", table(&cluster.raft(leader)?.status()));
    Ok(())
}

fn key(number: u64) -> Vec<u8> {
    format!("demo/{number:03}").into_bytes()
}

const WRITES: u64 = 100;
