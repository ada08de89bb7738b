//! Programs of the system that a step needs: found, or installed where that is possible.

use std::path::Path;
use std::process::{Command, Stdio};

/// A program with the Debian package that has it.
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

/// Where a program may be that is not in everybody's path.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Everybody's path and the system's.
pub(crate) fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:{}", SYSTEM.join(":"))
}

pub(crate) fn is_there(program: &str) -> bool {
    // A file is named by its whole path.
    program.starts_with('/') && Path::new(program).exists()
        || path().split(':').any(|place| Path::new(place).join(program).exists())
}

/// Installs what is missing, if this system has Debian's packages and we may; says what is missing
/// afterwards.
pub(crate) fn install(tools: &[Tool]) -> Vec<&'static str> {
    let missing = || tools.iter().filter(|tool| !is_there(tool.program));
    let mut packages: Vec<&str> = missing().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() && is_there("apt-get") && rustix::process::geteuid().is_root() {
        println!("   installing {}", packages.join(" "));
        // The lists may be missing or old; then they are fetched, and it is tried once more.
        if !apt(&[&["install", "-y", "--no-install-recommends"], &packages[..]].concat()) {
            apt(&["update"]);
            apt(&[&["install", "-y", "--no-install-recommends"], &packages[..]].concat());
        }
    }
    missing().map(|tool| tool.program).collect()
}

fn apt(words: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(["-qq"]).args(words).env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
