//! System calls that fail or take long, in a process that knows nothing of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wall;

/// `strace` at a process; the process goes on untouched when this is dropped.
pub(crate) struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    /// Does to the syncs of a process what strace's `inject` says.
    pub(crate) fn attach(process: u32, inject: &str, log: &Path) -> Result<Self, String> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(log).args(["-e", "trace=fsync,fdatasync"]);
        command.args(["-e", &format!("inject=fsync,fdatasync:{inject}")]);
        command.args(["-p", &process.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("strace: {error}"))?;
        let mut tracer = Self { child, log: log.to_owned() };
        for _ in 0..200 {
            if is_traced(process) {
                return Ok(tracer);
            }
            if let Ok(Some(status)) = tracer.child.try_wait() {
                // What it did at once may have ended the process.
                let done = status.success() && tracer.meddled() > 0;
                return if done { Ok(tracer) } else { Err(format!("strace ended with {status}")) };
            }
            wall::pause(10);
        }
        Err("strace does not attach".to_owned())
    }

    /// How many calls it has meddled with.
    pub(crate) fn meddled(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Asked to end, it lets go first; only then may it be killed.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended with the process it was at.
            let _ = kill_process(pid, Signal::TERM);
        }
        for _ in 0..300 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            wall::pause(10);
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Each of its threads is.
fn is_traced(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return false };
    threads.flatten().all(|thread| {
        fs::read_to_string(thread.path().join("status"))
            .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}
