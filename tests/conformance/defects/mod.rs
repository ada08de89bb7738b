//! Things with a defect, which the kits must catch: by the case that is named for the promise they
//! break.

mod disks;
mod logs;
mod machines;
mod naive;
mod naive_log;
mod runtimes;
mod snapshots;
mod sockets;
mod transports;

use std::sync::Arc;

use kontiki::conformance::{Case, Fixture};

/// Checks that each of `names` is broken, and says how.
fn breaks<F: Fixture + ?Sized>(
    cases: &[Case<F>],
    fixture: impl Fn() -> Arc<F>,
    names: &[(&str, &str)],
) {
    for (name, how) in names {
        let case = cases.iter().find(|case| case.name() == *name).unwrap();
        let broken = case.check(&fixture()).expect_err(name).to_string();
        assert!(broken.contains(how), "{name} says: {broken}");
    }
}

/// Checks that these are broken, and no others.
fn breaks_only<F: Fixture + ?Sized>(
    cases: &[Case<F>],
    fixture: impl Fn() -> Arc<F>,
    names: &[&str],
) {
    let broken = cases.iter().filter(|case| case.check(&fixture()).is_err());
    assert_eq!(broken.map(Case::name).collect::<Vec<_>>(), names);
}
