//! Elections and transfers that other implementations got wrong.

use super::cluster::{Cluster, Disk, Server, learner, voter};
use crate::config::Config;
use crate::id::LogId;
use crate::membership::{Change, Membership};
use crate::node::APPLY_ENTRIES_MAX;
use crate::status::RaftRole;
use crate::storage::{Entry, EntryKind};
use crate::transport::{RaftKind, RaftMessage};

/// An election timeout, in ticks.
const TIMEOUT: usize = 20;

fn three() -> Cluster {
    Cluster::of(&[voter(1), voter(2), voter(3)])
}

fn word(kind: RaftKind, term: u64) -> RaftMessage {
    RaftMessage { kind, term, ..RaftMessage::default() }
}

/// Three servers of which the first is handing over to the second, which did not hear of it.
fn handing_over() -> (Cluster, u64, u64) {
    let mut cluster = three();
    let leader = cluster.elect();
    let heir = leader % 3 + 1;
    cluster.node(leader).handle_transfer(heir);
    cluster.node(leader).take_sends();
    (cluster, leader, heir)
}

/// P2: otherwise it would refuse commands for ever once it leads again.
#[test]
fn a_transfer_does_not_outlive_the_leadership_that_began_it() {
    let (mut cluster, leader, heir) = handing_over();
    assert!(!cluster.node(leader).can_propose());
    // Another server leads meanwhile.
    let term = cluster.node(leader).term() + 1;
    cluster.node(leader).handle_message(heir, word(RaftKind::Heartbeat, term));
    assert_eq!(cluster.node(leader).role(), RaftRole::Follower);
    cluster.node(leader).handle_message(heir, word(RaftKind::TimeoutNow, term));
    cluster.settle();
    assert!(cluster.node(leader).is_established());
    cluster.propose(leader, "a");
    assert_eq!(cluster.commands(leader), [b"a"]);
}

/// Its word may be lost, or come when the heir has a change of the membership to take in first.
#[test]
fn a_leader_that_hands_over_says_so_until_it_is_heard() {
    let (mut cluster, _, heir) = handing_over();
    assert!(!cluster.node(heir).is_leader());
    cluster.tick(1);
    assert!(cluster.node(heir).is_leader());
}

/// P6.
#[test]
fn a_server_that_is_behind_helps_to_elect_another() {
    let mut cluster = three();
    let leader = cluster.elect();
    let (heir, behind) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.cut.insert(behind);
    cluster.propose(leader, "a");
    cluster.cut = [leader].into();
    assert_eq!(cluster.elect(), heir);
    cluster.propose(heir, "b");
    assert_eq!(cluster.commands(behind), [b"a", b"b"]);
}

/// P7.
#[test]
fn whoever_asks_again_and_again_postpones_nobodys_election() {
    let ticks_until_it_campaigns = |asked_with: Option<LogId>| {
        let disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
        let mut server = Server::new(1, disk, &Config::default());
        for ticks in 1..3 * TIMEOUT {
            server.node.handle_tick();
            if server.node.role() == RaftRole::Candidate {
                return ticks;
            }
            if let Some(log_id) = asked_with {
                let ask = RaftMessage { log_id, ..word(RaftKind::PreVote, 2) };
                server.node.handle_message(2, ask);
            }
        }
        panic!("it does not campaign");
    };
    let undisturbed = ticks_until_it_campaigns(None);
    for granted in [true, false] {
        let index = u64::from(granted);
        let asked = ticks_until_it_campaigns(Some(LogId { term: index, index }));
        assert_eq!(asked, undisturbed, "granted: {granted}");
    }
}

/// P8.
#[test]
fn a_removed_server_that_has_not_heard_of_it_deposes_nobody() {
    let mut cluster = three();
    let leader = cluster.elect();
    let gone = leader % 3 + 1;
    cluster.cut.insert(gone);
    cluster.change(leader, Change::Remove(gone.into()));
    cluster.tick(3 * TIMEOUT);
    cluster.cut.clear();
    let term = cluster.node(leader).term();
    cluster.tick(20 * TIMEOUT);
    assert!(cluster.sent.iter().any(|(from, _, m)| *from == gone && m.kind == RaftKind::PreVote));
    assert_eq!((cluster.node(leader).is_leader(), cluster.node(leader).term()), (true, term));
}

/// P9.
#[test]
fn a_learner_never_campaigns_though_nobody_has_a_longer_log() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), learner(3)]);
    let leader = cluster.elect();
    cluster.cut.insert(leader % 2 + 1);
    cluster.propose(leader, "a");
    assert!(cluster.node(3).last() > cluster.node(leader % 2 + 1).last());
    cluster.node(leader).handle_transfer(3);
    assert_eq!(cluster.node(leader).transferee(), None);
    cluster.cut.insert(leader);
    let term = cluster.node(3).term();
    cluster.node(3).handle_message(leader, word(RaftKind::TimeoutNow, term));
    cluster.tick(20 * TIMEOUT);
    assert_eq!((cluster.node(3).role(), cluster.node(3).term()), (RaftRole::Follower, term));
}

/// Two voters and a learner that was made one while it was cut off; gives who leads.
fn promoted_unawares(cluster: &mut Cluster) -> u64 {
    let leader = cluster.elect();
    cluster.tick(4);
    cluster.cut.insert(3);
    cluster.change(leader, Change::Promote(3.into()));
    assert_eq!(cluster.node(leader).membership().voters().count(), 3);
    assert_eq!(cluster.node(3).membership().voters().count(), 2);
    leader
}

/// P10.
#[test]
fn whoever_does_not_know_yet_that_it_votes_is_asked_and_answers() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), learner(3)]);
    let leader = promoted_unawares(&mut cluster);
    cluster.cut = [leader].into();
    assert_eq!(cluster.elect(), leader % 2 + 1);
    cluster.tick(2);
    assert_eq!(cluster.node(3).membership().voters().count(), 3);
}

/// P11: what its caller hears is tested where a server that is down is to take over.
#[test]
fn a_transfer_to_who_does_not_know_yet_that_it_votes_ends() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), learner(3)]);
    let leader = promoted_unawares(&mut cluster);
    let term = cluster.node(3).term();
    cluster.node(leader).handle_transfer(3);
    assert_eq!(cluster.node(leader).transferee(), Some(3));
    cluster.node(3).handle_message(leader, word(RaftKind::TimeoutNow, term));
    assert_eq!((cluster.node(3).role(), cluster.node(3).term()), (RaftRole::Follower, term));
    cluster.tick(TIMEOUT);
    assert_eq!(cluster.node(leader).transferee(), None);
    cluster.propose(leader, "a");
    assert_eq!(cluster.commands(leader), [b"a"]);
    // When it knows, it may be asked again.
    cluster.cut.clear();
    cluster.tick(4);
    cluster.node(leader).handle_transfer(3);
    cluster.settle();
    assert!(cluster.node(3).is_leader());
}

/// Who refused an earlier campaign may grant this one.
#[test]
fn a_late_refusal_tells_of_the_commit_and_costs_no_vote() {
    let mut disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let entry = |index| Entry::application(LogId { term: 1, index }, b"x");
    disk.entries = (2..=3).map(entry).collect();
    disk.hard_state.term = 5;
    let mut server = Server::new(1, disk, &Config::default());
    while server.node.role() != RaftRole::Candidate {
        server.node.handle_tick();
    }
    let refusal =
        |kind, commit| RaftMessage { reject: true, commit, commit_term: 1, ..word(kind, 3) };
    for (kind, commit) in [(RaftKind::PreVoteResponse, 2), (RaftKind::VoteResponse, 3)] {
        server.node.handle_message(2, refusal(kind, commit));
        assert_eq!((server.node.role(), server.node.commit()), (RaftRole::Candidate, commit));
        // Nobody knows of a commit that it does not have.
        for commit_term in [0, 1] {
            server.node.handle_message(3, RaftMessage { commit_term, ..refusal(kind, 9) });
        }
        server.node.handle_message(2, word(kind, 6));
        assert_eq!((server.node.fatal(), server.node.commit()), (None, commit));
    }
    assert!(server.node.is_leader());
}

/// It counts votes of the members it had when it asked for them.
#[test]
fn a_candidate_that_learns_of_other_members_begins_anew() {
    let membership = Membership::first([voter(1), voter(2), voter(3)]);
    let mut disk = Disk::bootstrapped(&membership);
    let change = membership.plan(&Change::Remove(3.into())).unwrap().unwrap();
    let entry = Entry::application(LogId { term: 1, index: 2 }, b"");
    disk.entries = vec![Entry { kind: EntryKind::Change, data: change.encode(), ..entry }];
    disk.hard_state.term = 5;
    let mut server = Server::new(1, disk, &Config::default());
    while server.node.role() != RaftRole::Candidate {
        server.node.handle_tick();
    }
    let reject = RaftMessage { reject: true, ..word(RaftKind::PreVoteResponse, 3) };
    server.node.handle_message(3, RaftMessage { commit: 2, commit_term: 1, ..reject });
    assert_eq!(server.node.membership().voters().count(), 2);
    assert_eq!((server.node.role(), server.node.term()), (RaftRole::Follower, 5));
}

/// P44.
#[test]
fn restarts_of_followers_do_not_disturb_their_leader() {
    let mut cluster = three();
    let leader = cluster.elect();
    let term = cluster.node(leader).term();
    for _ in 0..3 {
        for follower in (1..=3).filter(|id| *id != leader) {
            cluster.crash(follower);
            cluster.tick(5);
            cluster.propose(leader, "a");
        }
    }
    cluster.tick(3 * TIMEOUT);
    assert_eq!((cluster.node(leader).is_leader(), cluster.node(leader).term()), (true, term));
}

/// P31: the engine looks for membership changes in all that is not applied. P33: what waits to be
/// applied is handed out in pieces.
#[test]
fn a_backlog_is_neither_read_to_campaign_nor_handed_out_at_once() {
    let mut disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let count = 3 * APPLY_ENTRIES_MAX;
    let entry = |index| Entry::application(LogId { term: 1, index }, b"a long command");
    disk.entries = (2..2 + count).map(entry).collect();
    disk.hard_state.commit = 1 + count;
    let mut server = Server::new(1, disk, &Config::default());
    for _ in 0..2 * TIMEOUT {
        server.node.handle_tick();
    }
    assert_eq!((server.node.role(), server.node.fatal()), (RaftRole::Candidate, None));
    assert!(server.node.take_fetches().is_empty());
    assert_eq!(server.node.cached_bytes(), 0);
    for piece in 0..3 {
        let from = 2 + piece * APPLY_ENTRIES_MAX;
        let job = server.node.take_apply(u64::MAX).unwrap();
        assert_eq!(job.missing, from..from + APPLY_ENTRIES_MAX);
        server.node.handle_applied(job.last);
    }
}
