//! The committed corpora, and a few mutations of each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Mutex, PoisonError};

use kontiki_fuzz_targets::{Mutator, corpus, target};

/// Targets count what is allocated in the whole process, so one runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn try_out(name: &str, mutations: usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = target(name).unwrap();
    let committed = corpus(&target);
    for (name, input) in &committed {
        println!("{name}");
        (target.run)(input);
    }
    let committed: Vec<Vec<u8>> = committed.into_iter().map(|(_, input)| input).collect();
    let mut mutator = Mutator::new(1, target.words);
    for number in 0..mutations {
        println!("mutation {number}");
        (target.run)(&mutator.next(&committed));
    }
}

#[test]
fn frames_read_as_they_stand_there() {
    try_out("frame", 2_000);
}

#[test]
fn a_message_has_one_encoding() {
    try_out("message", 5_000);
}

#[test]
fn a_session_takes_what_was_announced_and_no_more() {
    try_out("handshake", 200);
}

#[test]
fn a_damaged_log_comes_back_as_it_was_or_not_at_all() {
    try_out("log", 200);
}

#[test]
fn a_snapshot_is_the_old_or_the_new_and_never_other_bytes() {
    try_out("snapshot", 100);
}

#[test]
fn every_request_is_answered_and_the_next_one_served() {
    try_out("http", 60);
}

#[test]
fn no_message_makes_the_engine_panic() {
    try_out("engine", 300);
}

#[test]
fn memberships_change_as_a_simple_list_does() {
    try_out("membership", 200);
}
