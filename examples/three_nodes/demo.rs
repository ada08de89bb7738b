//! What a cluster does, step by step.

use indicatif::ProgressBar;
use kontiki::Consistency;
use kontiki::typed::Client;

use crate::node::Failure;
use crate::store::{Command, Hex, Store};
use crate::{Cluster, table};

pub(crate) async fn walk(cluster: &mut Cluster) -> Result<(), Failure> {
    let first = cluster.leader().await?;
    let term = cluster.raft(first)?.status().term;
    println!("\n1. {} was elected in term {term}. A hundred writes:", cluster.name(first));
    let bar = ProgressBar::new(WRITES);
    let client = Client::<Store>::new(cluster.raft(first)?);
    for number in 0..WRITES {
        let key = Hex(format!("demo/{number:03}").into_bytes());
        let value = Hex(format!("written in term {term}").into_bytes());
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
    let found = up.store.read(|store| store.keys(b"demo/").count());
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
    while back.status().applied < target {
        smol::Timer::after(std::time::Duration::from_millis(20)).await;
    }
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

const WRITES: u64 = 100;
