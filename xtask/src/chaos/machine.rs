//! What this machine can do, found out by doing each once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::delay::{Delayer, QUEUE, Weather};
use super::disk::{Disk, FILE_SYSTEMS};
use super::filter;
use super::freezer::Freezer;
use super::plan::KINDS;
use super::shell::{sh, try_sh};
use super::{clock, tracer::Tracer};
use crate::wall;

pub(crate) struct Machine {
    /// What cannot be done here, and why.
    pub(crate) missing: BTreeMap<&'static str, String>,
    pub(crate) file_systems: Vec<&'static str>,
    pub(crate) freezer: Option<Freezer>,
    pub(crate) faketime: Option<PathBuf>,
}

/// Without one of these a run says too little.
pub(crate) const REQUIRED: [&str; 6] =
    ["kill", "stop", "cut-one", "cut-minority", "power-cut", "sync-fails"];

impl Machine {
    /// Tries everything; `base` is a directory for what that needs.
    pub(crate) fn probe(base: &Path) -> Result<Self, String> {
        let mut missing = BTreeMap::new();
        let mut lacks = |kinds: &[&'static str], why: Result<(), String>| {
            if let Err(why) = why {
                missing.extend(kinds.iter().map(|kind| (*kind, why.clone())));
            }
        };
        let cuts = ["cut-one", "cut-minority", "cut-bridge", "cut-one-way", "cut-everybody"];
        lacks(&cuts, filters(&["-A FORWARD -s 10.0.0.1 -p tcp --dport 1 -j DROP".to_owned()]));
        let reset = "-A FORWARD -p tcp -j REJECT --reject-with tcp-reset".to_owned();
        lacks(&["cut-reset"], filters(&[reset]));
        lacks(&["loss"], filters(&filter::loss_rules(10)));
        lacks(&["delay"], filters(&filter::queue_rules(QUEUE)).and_then(|()| delays()));
        lacks(&["slow-link"], slows_a_link());
        lacks(&["sync-fails", "slow-disk"], traces(base));
        let tried = FILE_SYSTEMS.map(|name| (name, loses_what_is_not_synced(base, name)));
        let mut file_systems: Vec<&str> = Vec::new();
        for (name, done) in tried {
            match done {
                Ok(()) => file_systems.push(name),
                Err(why) => println!("   no power cuts on {name}: {why}"),
            }
        }
        if file_systems.is_empty() {
            let why = "no file system whose power can be cut".to_owned();
            lacks(&["power-cut", "disk-full"], Err(why));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let freezer = Freezer::find(&mounts);
        lacks(
            &["freeze"],
            freezer.as_ref().map_or_else(|| Err("no control groups".into()), freezes),
        );
        let faketime = clock::library();
        let library = faketime.as_deref().ok_or_else(|| "no libfaketime".to_owned());
        lacks(&["clock-forth", "clock-back"], library.and_then(|at| fakes_time(at, base)));
        Ok(Self { missing, file_systems, freezer, faketime })
    }

    /// The kinds that can be done here.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        KINDS.into_iter().filter(|kind| !self.missing.contains_key(kind)).collect()
    }
}

fn filters(rules: &[String]) -> Result<(), String> {
    filter::apply(rules)?;
    let counted = filter::packets();
    filter::apply(&[])?;
    counted.map(drop)
}

fn delays() -> Result<(), String> {
    let weather = Weather { base: wall::ms(1), jitter: wall::ms(1), loss_percent: 0 };
    Delayer::start(0, weather)?.finish().map(drop)
}

fn slows_a_link() -> Result<(), String> {
    sh("ip link add probe0 type veth peer name probe1")?;
    let done = sh("tc qdisc add dev probe0 root tbf rate 100kbit burst 4k latency 400ms");
    try_sh("ip link del probe0");
    done.map(drop)
}

/// Injects an error into a program that syncs again and again.
fn traces(base: &Path) -> Result<(), String> {
    let (file, log) = (base.join("probe"), base.join("probe-trace"));
    fs::write(&file, "probe").map_err(|error| error.to_string())?;
    let script = format!("while sync {}; do sleep 0.02; done", file.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let tracer = Tracer::attach(child.id(), "error=EIO:when=1+", &log);
    let meddled = tracer.map(|tracer| {
        let failed = (0..200).any(|_| {
            wall::pause(10);
            tracer.meddled() > 0
        });
        if failed { Ok(()) } else { Err("strace injects nothing".to_owned()) }
    });
    // It has ended already if its sync failed.
    drop(child.kill());
    drop(child.wait());
    meddled?
}

fn loses_what_is_not_synced(base: &Path, file_system: &str) -> Result<(), String> {
    let disk = Disk::make(base, "probe-disk", file_system)?;
    let synced = disk.data();
    fs::write(&synced, "synced").map_err(|error| error.to_string())?;
    sh(&format!("sync {}", synced.display()))?;
    disk.write_unsynced().map_err(|error| error.to_string())?;
    disk.cut_power()?;
    if fs::write(&synced, "too late").is_ok() {
        return Err("it can be written to without power".to_owned());
    }
    disk.unmount()?;
    disk.mount()?;
    if !fs::read(&synced).is_ok_and(|bytes| bytes == b"synced") {
        return Err("it loses what was synced".to_owned());
    }
    if disk.has_lost_unsynced() { Ok(()) } else { Err("it keeps what was not synced".to_owned()) }
}

fn freezes(freezer: &Freezer) -> Result<(), String> {
    let mut command = Command::new("sleep");
    let mut child = command.arg("60").spawn().map_err(|error| error.to_string())?;
    let frozen = freezer.freeze(&super::group("probe"), child.id());
    let done = frozen.map(drop);
    drop(child.kill());
    drop(child.wait());
    done
}

fn fakes_time(library: &Path, base: &Path) -> Result<(), String> {
    let clock = clock::Clock::new(base.join("probe-clock"))?;
    clock.set(-86_400 * 365)?;
    let words = [clock.launcher(library), vec!["date".to_owned(), "+%s".to_owned()]].concat();
    let shown: u64 = sh(&words.join(" "))?.trim().parse().map_err(|_| "date shows no number")?;
    let ago = wall::since_the_epoch().as_secs().abs_diff(shown);
    if ago > 86_400 * 300 { Ok(()) } else { Err("the clock does not jump".to_owned()) }
}
