//! Running the tools of the system.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// What a command of plain words prints; an error with what it complained of, if it fails.
pub(crate) fn sh(line: &str) -> Result<String, String> {
    with_input(line, "")
}

pub(crate) fn with_input(line: &str, input: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let program = words.next().ok_or("an empty command")?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{line}` ended with {}: {}", output.status, complaint.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// For clean-up: what is gone already need not be removed.
pub(crate) fn try_sh(line: &str) {
    drop(sh(line));
}
