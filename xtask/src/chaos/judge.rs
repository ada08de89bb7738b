//! What must hold once all faults are over.

use std::fs;

use kontiki_sim::linearizable::{self, Budget, Verdict};

use super::Trouble;
use super::cluster::Cluster;
use super::workload::Recorder;
use crate::{stores, wall};

/// Says by which proof the history is linearizable.
pub(crate) fn judge(cluster: &mut Cluster, recorder: &Recorder) -> Result<String, Trouble> {
    cluster.wait_until_all_answer()?;
    // Once more everybody hears how far the log is committed, before the stores are compared.
    read_everything(cluster, recorder)?;
    wall::pause(500);
    cluster.check_alive()?;
    for server in &mut cluster.servers {
        server.kill();
    }
    nobody_panicked(cluster)?;
    stores::compare(&cluster.servers).map_err(Trouble::Violation)?;
    let history = recorder.history();
    let Err(doubt) = linearizable::witness(&history) else {
        return Ok("the order of the log explains every answer".to_owned());
    };
    match linearizable::check(&history, Budget::default()) {
        Verdict::Linearizable => {
            Ok(format!("by search; the order of the log does not do: {doubt}"))
        }
        Verdict::NotLinearizable(found) => {
            Err(Trouble::Violation(format!("the history is not linearizable: {found}\n{doubt}")))
        }
        Verdict::Unknown(undecided) => {
            Err(Trouble::Harness(format!("{undecided}; in the order of the log, {doubt}")))
        }
    }
}

/// Every key through every server: what was acknowledged must be there. The reads are part of the
/// history, and judged with it.
fn read_everything(cluster: &Cluster, recorder: &Recorder) -> Result<(), Trouble> {
    let servers = cluster.addresses();
    for key in recorder.keys() {
        for (number, server) in cluster.servers.iter().enumerate() {
            if recorder.read(&servers, number, key).is_none() {
                let what = format!("all is healed, but {} cannot read k{key}", server.name);
                return Err(Trouble::Violation(what));
            }
        }
    }
    Ok(())
}

fn nobody_panicked(cluster: &Cluster) -> Result<(), Trouble> {
    for server in &cluster.servers {
        let output = server.output.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let output = output.unwrap_or_default();
        if let Some(line) = output.lines().find(|line| line.contains("panicked at")) {
            return Err(Trouble::Violation(format!("{}: {line}", server.name)));
        }
    }
    Ok(())
}
