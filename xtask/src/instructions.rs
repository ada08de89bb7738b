//! Counts the instructions of fixed scripts with callgrind, and compares them with the counts kept
//! in the repository: a figure that a noisy machine cannot disturb.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::steps::cargo;

/// Instructions by script, and which compiler made them.
#[derive(Debug, PartialEq)]
struct Counts {
    compiler: String,
    scripts: BTreeMap<String, u64>,
}

/// Fails if a script takes noticeably more instructions than the counts that are kept say.
pub(crate) fn compare() -> Result<(), String> {
    let Some(now) = count()? else { return Ok(()) };
    let text = std::fs::read_to_string(KEPT).map_err(|error| format!("{KEPT}: {error}"))?;
    let kept = Counts::parse(&text)?;
    if kept.compiler != now.compiler {
        println!("   kept are those of {}: not compared", kept.compiler);
        return Ok(());
    }
    let worse = now.worse_than(&kept);
    if worse.is_empty() { Ok(()) } else { Err(worse.join("; ")) }
}

/// Replaces the counts that are kept.
pub(crate) fn write() -> Result<(), String> {
    let now = count()?.ok_or("valgrind is needed")?;
    std::fs::write(KEPT, now.to_text()).map_err(|error| format!("{KEPT}: {error}"))
}

fn count() -> Result<Option<Counts>, String> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("   valgrind is not installed: nothing is counted");
        return Ok(None);
    }
    cargo("build --quiet --profile bench --package instructions")?;
    let mut scripts = BTreeMap::new();
    for script in ["alone", "crowd"] {
        let count = count_script(script)?;
        println!("   {script}: {count}");
        scripts.insert(script.to_owned(), count);
    }
    Ok(Some(Counts { compiler: compiler()?, scripts }))
}

fn count_script(script: &str) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    // The environment lies on the stack; without it that is alike everywhere.
    let program = Path::new("target/release/instructions");
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.arg(program).arg(script).env_clear().env("PATH", path);
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    count.filter(|_| output.status.success()).ok_or_else(|| format!("callgrind: {said}"))
}

fn compiler() -> Result<String, String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    let (release, host) =
        field("release: ").zip(field("host: ")).ok_or("rustc -vV is not clear")?;
    Ok(format!("{release} {host}"))
}

impl Counts {
    fn parse(text: &str) -> Result<Self, String> {
        let mut counts = Self { compiler: String::new(), scripts: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(' ') {
                Some(("rustc", compiler)) => compiler.clone_into(&mut counts.compiler),
                Some((script, count)) => {
                    let count = count.parse().map_err(|error| format!("{line}: {error}"))?;
                    counts.scripts.insert(script.to_owned(), count);
                }
                None => return Err(format!("{KEPT}: {line}")),
            }
        }
        Ok(counts)
    }

    fn to_text(&self) -> String {
        let mut text = format!("# `cargo xtask instructions --write`\nrustc {}\n", self.compiler);
        for (script, count) in &self.scripts {
            text += &format!("{script} {count}\n");
        }
        text
    }

    /// What takes noticeably more than in `kept`, in words.
    fn worse_than(&self, kept: &Self) -> Vec<String> {
        let mut worse = Vec::new();
        for (script, &now) in &self.scripts {
            let Some(&before) = kept.scripts.get(script) else {
                worse.push(format!("{script} is not in {KEPT}"));
                continue;
            };
            let ratio = now as f64 / before as f64;
            println!("   {script}: {ratio:.3} of what is kept");
            if ratio > RATIO_MAX {
                worse.push(format!("{script} takes {ratio:.3} of the {before} instructions kept"));
            }
        }
        worse
    }
}

const KEPT: &str = "benches/instructions/kept.txt";
/// Two runs of one build differ by less than a millionth; a harmless change moves some percent,
/// since another order of tasks makes other batches.
const RATIO_MAX: f64 = 1.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_twentieth_is_worse_and_so_is_a_script_that_is_not_kept() {
        let counts = |alone, crowd| Counts {
            compiler: "1.0.0 here".to_owned(),
            scripts: [("alone", alone), ("crowd", crowd)].map(|(a, n)| (a.to_owned(), n)).into(),
        };
        let mut kept = counts(1_000, 2_000);
        assert_eq!(Counts::parse(&kept.to_text()).as_ref(), Ok(&kept));
        assert!(counts(1_049, 1_000).worse_than(&kept).is_empty());
        assert_eq!(counts(1_051, 2_000).worse_than(&kept).len(), 1);
        kept.scripts.remove("crowd");
        assert_eq!(counts(1_000, 2_000).worse_than(&kept).len(), 1);
    }
}
