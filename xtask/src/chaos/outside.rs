//! The part of a run that stays outside: it gets what is needed, starts the inside, and sees to it
//! that nothing is left.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::freezer::Freezer;
use super::shell::sh;
use super::{BASE, KINDS, OWNER, Options};
use crate::tools::{self, Tool};
use crate::{server, wall};

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let options = Options::parse(words)?;
    println!("== chaos: seed {}", options.seed);
    let missing = tools::install(&TOOLS);
    if !missing.is_empty() {
        println!("   programs that are not here: {}", missing.join(", "));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let freezer = Freezer::find(&mounts);
    if let Some(freezer) = &freezer {
        freezer.remove_groups(|owner| !Path::new(&format!("/proc/{owner}")).exists());
    }
    if let Err(why) = sh(&format!("{} true", NAMESPACES.join(" "))) {
        let what = format!("all {} kinds of fault: no namespaces here: {why}", KINDS.len());
        if options.skips_missing {
            println!("   skipped: {what}");
            return Ok(());
        }
        return Err(format!("cannot do {what} (--skip-missing lets that pass)"));
    }
    server::build()?;
    fs::create_dir_all(BASE).map_err(|error| format!("{BASE}: {error}"))?;
    let done = start_inside(&options);
    if let Some(freezer) = &freezer {
        freezer.remove_groups(|owner| owner == std::process::id());
    }
    let clean = nothing_is_left();
    done.and(clean)
}

/// The inside ends when its input does, so it does not outlive this process.
fn start_inside(options: &Options) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(NAMESPACES[0]);
    command.args(&NAMESPACES[1..]).arg(program).arg("chaos-inside").args(options.words());
    command.env(OWNER, std::process::id().to_string()).env("PATH", tools::path());
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let leash = child.stdin.take();
    let status = child.wait().map_err(|error| error.to_string())?;
    drop(leash);
    if status.success() {
        return Ok(());
    }
    Err(format!("not passed; the same again: cargo xtask chaos {}", options.words().join(" ")))
}

/// The kernel takes down a namespace when its last process has ended, but not at once.
fn nothing_is_left() -> Result<(), String> {
    let ours = format!("{BASE}/{}/", std::process::id());
    let mut left = String::new();
    for _ in 0..100 {
        let loops = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let files = loops
            .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok());
        left = files.filter(|file| file.contains(&ours)).collect();
        if left.is_empty() {
            return Ok(());
        }
        wall::pause(100);
    }
    Err(format!("loop devices are left: {left}"))
}

const NAMESPACES: [&str; 9] = [
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation=private",
    "--",
];

const TOOLS: [Tool; 11] = [
    Tool { program: "unshare", package: "util-linux" },
    Tool { program: "nsenter", package: "util-linux" },
    Tool { program: "fallocate", package: "util-linux" },
    Tool { program: "mount", package: "mount" },
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "tc", package: "iproute2" },
    Tool { program: "iptables-restore", package: "iptables" },
    Tool { program: "strace", package: "strace" },
    Tool { program: "mkfs.ext4", package: "e2fsprogs" },
    // Also cuts the power of ext4.
    Tool { program: "xfs_io", package: "xfsprogs" },
    Tool { program: "faketime", package: "faketime" },
];
