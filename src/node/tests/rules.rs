//! The rules a driver of the engine must keep, each with what happens without it.

use bytes::Bytes;

use super::cluster::{Cluster, Disk, Server, learner, voter};
use crate::config::Config;
use crate::error::Fatal;
use crate::id::LogId;
use crate::membership::{Change, Membership};
use crate::node::ChangeOutcome;
use crate::storage::{Entry, HardState};
use crate::transport::{RaftKind, RaftMessage};

#[test]
fn three_servers_elect_a_leader_and_apply_the_same_commands() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    for command in ["a", "b", "c"] {
        cluster.propose(leader, command);
    }
    cluster.tick(4);
    for id in 1..=3 {
        assert_eq!(cluster.commands(id), [b"a", b"b", b"c"], "on server {id}");
    }
}

/// W1: a single voter elects itself; without the rule its learners hear of a term that it may
/// forget.
#[test]
fn w1_nobody_hears_of_a_term_that_is_not_durable() {
    let mut cluster = Cluster::of(&[voter(1), learner(2)]);
    cluster.server(1).prompt = false;
    for _ in 0..100 {
        cluster.server(1).node.handle_tick();
        cluster.work();
        if cluster.node(1).is_leader() {
            break;
        }
    }
    assert!(cluster.node(1).is_leader());
    let _ = cluster.node(1).handle_proposal(vec![Bytes::from("a")]);
    cluster.work();
    let term = cluster.node(1).term();
    assert!(cluster.sent.iter().all(|(_, _, m)| m.term < term), "{:?}", cluster.sent);
    while !cluster.server(1).writing.is_empty() {
        let out = cluster.server(1).finish_write();
        cluster.sent.extend(out.into_iter().map(|o| (1, o.to, o.message)));
        cluster.work();
    }
    assert!(cluster.sent.iter().any(|(_, to, m)| *to == 2 && m.term == term));
}

/// W2: what one step of the engine decided is one batch.
#[test]
fn w2_entries_and_the_hard_state_that_goes_with_them_are_one_write() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.tick(4);
    cluster.server(follower).prompt = false;
    let (term, last) = (cluster.node(leader).term(), cluster.node(follower).last());
    let entry = Entry::application(LogId { term: term + 1, index: last.index + 1 }, b"x");
    let append = RaftMessage {
        kind: RaftKind::Append,
        term: term + 1,
        log_id: last,
        commit: last.index + 1,
        entries: vec![entry],
        ..RaftMessage::default()
    };
    let from = (1..=3).find(|id| *id != leader && *id != follower).unwrap();
    cluster.node(follower).handle_message(from, append);
    cluster.work();
    let batch = &cluster.server(follower).writing[0].batch;
    assert_eq!(batch.entries.len(), 1);
    assert_eq!(batch.hard_state.unwrap().term, term + 1);
    assert_eq!(batch.hard_state.unwrap().commit, last.index + 1);
    assert!(batch.sync);
}

/// W2: a commit index that was known before an entry came is kept with the entry. Without that, a
/// restart knows the second of two membership changes, but not that the first is in force.
#[test]
fn w2_an_entry_is_not_kept_without_the_commit_index_that_came_before_it() {
    let disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let mut server = Server::new(1, disk, &Config::default());
    let append = |before: LogId, index| RaftMessage {
        kind: RaftKind::Append,
        term: 2,
        log_id: before,
        commit: before.index,
        entries: vec![Entry::application(LogId { term: 2, index }, b"x")],
        ..RaftMessage::default()
    };
    server.node.handle_message(2, append(LogId { term: 1, index: 1 }, 2));
    let heartbeat =
        RaftMessage { kind: RaftKind::Heartbeat, term: 2, commit: 2, ..RaftMessage::default() };
    server.node.handle_message(2, heartbeat);
    server.node.handle_message(2, append(LogId { term: 2, index: 2 }, 3));
    let batch = server.node.take_write().unwrap().batch;
    assert_eq!(batch.entries.last().unwrap().log_id().index, 3);
    assert_eq!(batch.hard_state, Some(HardState { term: 2, vote: 0, commit: 2 }));
}

/// W3: entries of an old leader were being written when they were replaced and replaced back.
/// Without the rule, the first write makes them count as stored while the disk may hold the ones
/// between.
#[test]
fn w3_entries_do_not_count_as_stored_while_their_replacement_is_being_written() {
    let members = [voter(1), voter(2), voter(3)];
    let disk = Disk::bootstrapped(&Membership::first(members));
    let mut server = Server::new(1, disk, &Config::default());
    server.prompt = false;
    let base = LogId { term: 1, index: 1 };
    let append = |term: u64, entry_term: u64| RaftMessage {
        kind: RaftKind::Append,
        term,
        log_id: base,
        commit: 2,
        entries: vec![Entry::application(LogId { term: entry_term, index: 2 }, b"x")],
        ..RaftMessage::default()
    };
    let mut jobs = Vec::new();
    for (from, term, entry_term) in [(2, 2, 2), (3, 3, 3)] {
        let mut message = append(term, entry_term);
        message.commit = 1;
        server.node.handle_message(from, message);
        jobs.push(server.node.take_write().unwrap());
    }
    // The entry of term 2 again, from the leader of term 4 that has it, and committed.
    server.node.handle_message(2, append(4, 2));
    jobs.push(server.node.take_write().unwrap());
    server.node.handle_persisted(jobs[0].number);
    assert!(server.node.take_apply(1 << 20).is_none(), "the disk may lose it yet");
    server.node.handle_persisted(jobs[2].number);
    assert_eq!(server.node.take_apply(1 << 20).unwrap().last, LogId { term: 2, index: 2 });
}

/// W4: a vote that is answered finds the write that carried it reported; the engine insists on
/// that.
#[test]
fn w3_an_entry_that_is_replaced_before_it_is_written_is_not_acknowledged() {
    let disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let mut server = Server::new(1, disk, &Config::default());
    for (from, term) in [(2, 2), (3, 3)] {
        let append = RaftMessage {
            kind: RaftKind::Append,
            term,
            log_id: LogId { term: 1, index: 1 },
            commit: 1,
            entries: vec![Entry::application(LogId { term, index: 2 }, b"x")],
            ..RaftMessage::default()
        };
        server.node.handle_message(from, append);
    }
    let job = server.node.take_write().unwrap();
    let acknowledged: Vec<_> = job.then_send.iter().map(|o| (o.to, o.message.term)).collect();
    assert_eq!(acknowledged, [(3, 3)]);
}

#[test]
fn w4_persistence_is_reported_before_what_it_released_is_sent() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    cluster.cut.insert(leader);
    for server in cluster.servers.values_mut() {
        server.prompt = false;
    }
    let heir = (1..=3).find(|id| *id != leader).unwrap();
    for _ in 0..400 {
        cluster.servers.values_mut().for_each(|server| server.node.handle_tick());
        cluster.settle();
        for id in 1..=3 {
            // The report comes first, then what had to wait for it.
            for outgoing in cluster.server(id).finish_write() {
                cluster.wire.push_back((id, outgoing));
            }
        }
        cluster.settle();
    }
    assert!((1..=3).filter(|id| *id != leader).any(|id| cluster.node(id).is_leader()));
    assert_eq!(cluster.node(heir).fatal(), None);
}

/// W5: a configuration change leaves one voter, whose last entries are still being written. Without
/// the rule it elects itself at once, and the engine panics.
#[test]
fn w5_the_only_voter_does_not_campaign_while_its_log_is_not_durable() {
    let alone = Membership::first([voter(1), learner(2)]);
    // While one learner takes the place of another, both configurations have the same one voter.
    let mut joint = Membership::first([voter(1), learner(3)]);
    joint.outgoing.insert(1.into(), voter(1));
    alone_with_a_log_that_is_not_durable(&alone);
    alone_with_a_log_that_is_not_durable(&joint);
}

fn alone_with_a_log_that_is_not_durable(membership: &Membership) {
    let mut cluster = Cluster::of(&[voter(1)]);
    let server = Server::new(1, Disk::bootstrapped(membership), &Config::default());
    cluster.servers.insert(1, server);
    cluster.server(1).prompt = false;
    // The leader that has just demoted itself still sends the end of its log.
    let append = RaftMessage {
        kind: RaftKind::Append,
        term: 2,
        log_id: LogId { term: 1, index: 1 },
        commit: 1,
        entries: vec![Entry::application(LogId { term: 2, index: 2 }, b"x")],
        ..RaftMessage::default()
    };
    cluster.node(1).handle_message(2, append);
    cluster.work();
    let now = RaftMessage { kind: RaftKind::TimeoutNow, term: 2, ..RaftMessage::default() };
    cluster.node(1).handle_message(2, now);
    for _ in 0..100 {
        cluster.node(1).handle_tick();
        cluster.work();
    }
    assert_eq!(cluster.node(1).fatal(), None);
    assert!(!cluster.node(1).is_leader());
    cluster.server(1).prompt = true;
    assert_eq!(cluster.elect(), 1);
}

/// W5: in a joint configuration too a vote of one's own can be all that it takes.
#[test]
fn w5_holds_while_a_learner_is_replaced() {
    let mut cluster = Cluster::of(&[voter(1), learner(2)]);
    assert_eq!(cluster.elect(), 1);
    cluster.server(1).prompt = false;
    let replace = Change::Replace { old: 2.into(), new: learner(3) };
    cluster.node(1).handle_change(&replace, None).unwrap().unwrap();
    cluster.work();
    // The change is durable and in force; the entry that leaves the joint configuration is neither.
    cluster.server(1).finish_write();
    cluster.work();
    assert!(cluster.node(1).membership().is_joint());
    let term = cluster.node(1).term() + 1;
    let heartbeat = RaftMessage { kind: RaftKind::Heartbeat, term, ..RaftMessage::default() };
    let now = RaftMessage { kind: RaftKind::TimeoutNow, term, ..RaftMessage::default() };
    cluster.node(1).handle_message(2, heartbeat);
    cluster.node(1).handle_message(2, now);
    assert_eq!(cluster.node(1).fatal(), None);
    assert!(!cluster.node(1).is_leader());
    cluster.server(1).prompt = true;
    cluster.work();
    assert_eq!(cluster.elect(), 1);
}

/// W5: a leader that is told of a higher term is none any more, and campaigns at once if told to.
#[test]
fn w5_holds_for_a_leader_that_is_told_to_campaign() {
    let mut cluster = Cluster::of(&[voter(1), learner(2)]);
    assert_eq!(cluster.elect(), 1);
    cluster.server(1).prompt = false;
    cluster.node(1).handle_proposal(vec![Bytes::from_static(b"a")]).unwrap();
    let term = cluster.node(1).term() + 1;
    let now = RaftMessage { kind: RaftKind::TimeoutNow, term, ..RaftMessage::default() };
    cluster.node(1).handle_message(2, now);
    assert_eq!(cluster.node(1).fatal(), None);
}

/// W5: nobody can have voted for a log that is not durable, since nobody was asked yet.
#[test]
fn w5_a_vote_that_was_not_asked_for_is_not_counted() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    cluster.server(1).prompt = false;
    let append = RaftMessage {
        kind: RaftKind::Append,
        term: 2,
        log_id: LogId { term: 1, index: 1 },
        commit: 1,
        entries: vec![Entry::application(LogId { term: 2, index: 2 }, b"x")],
        ..RaftMessage::default()
    };
    let now = RaftMessage { kind: RaftKind::TimeoutNow, term: 2, ..RaftMessage::default() };
    let vote = RaftMessage { kind: RaftKind::VoteResponse, term: 3, ..RaftMessage::default() };
    for message in [append, now, vote.clone()] {
        cluster.node(1).handle_message(2, message);
        cluster.work();
    }
    assert_eq!(cluster.node(1).fatal(), None);
    assert!(!cluster.node(1).is_leader());
    cluster.server(1).prompt = true;
    cluster.work();
    cluster.node(1).handle_message(2, vote);
    assert!(cluster.node(1).is_leader());
}

/// W7: whoever restarts with less than it acknowledged finds out, and stops with the reason.
#[test]
fn w7_a_log_that_is_shorter_than_what_was_promised_is_found_out() {
    let members = [voter(1), voter(2), voter(3)];
    let mut disk = Disk::bootstrapped(&Membership::first(members));
    disk.hard_state = HardState { term: 5, vote: 0, commit: 9 };
    let error = disk.start(1, &Config::default()).err().unwrap();
    assert!(error.contains("committed"), "{error}");
    disk.hard_state = HardState { term: 1, vote: 0, commit: 1 };
    disk.entries = vec![Entry::application(LogId { term: 4, index: 2 }, b"x")];
    let error = disk.start(1, &Config::default()).err().unwrap();
    assert!(error.contains("term"), "{error}");

    disk.entries.clear();
    let mut node = disk.start(1, &Config::default()).unwrap();
    let heartbeat =
        RaftMessage { kind: RaftKind::Heartbeat, term: 3, commit: 10, ..RaftMessage::default() };
    node.handle_message(2, heartbeat);
    assert!(matches!(node.fatal(), Some(Fatal::DataLoss(_))), "{:?}", node.fatal());
}

#[test]
fn a_state_machine_of_another_history_is_found_out() {
    let mut disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let entry = |term, index| Entry::application(LogId { term, index }, b"x");
    disk.entries = vec![entry(2, 2), entry(2, 3), entry(4, 4)];
    disk.hard_state = HardState { term: 4, vote: 0, commit: 1 };
    let start = |term, index| disk.start_at(1, &Config::default(), LogId { term, index });
    let node = start(2, 3).unwrap();
    assert_eq!(node.commit(), 3, "what is applied is committed");
    for (term, index, words) in [(1, 3, "another entry"), (4, 5, "ends"), (0, 0, "begins")] {
        let error = start(term, index).err().unwrap();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_panic_of_the_engine_ends_the_node_and_not_the_process() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    let follower = leader % 3 + 1;
    cluster.tick(4);
    std::panic::set_hook(Box::new(|_| {}));
    // What is applied can only grow; the engine panics if it is told otherwise.
    cluster.node(follower).guarded(|node| node.raw.advance_apply_to(u64::MAX));
    let _ = std::panic::take_hook();
    assert!(matches!(cluster.node(follower).fatal(), Some(Fatal::Engine(_))));
    cluster.tick(10);
    assert_eq!(cluster.node(follower).take_sends(), []);
}

#[test]
fn a_command_that_a_panic_of_the_engine_interrupts_is_not_promised_to_be_lost() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    // The log refuses the entry when the engine has it already.
    let last = cluster.node(leader).last();
    let beyond = LogId { index: last.index + 9, ..last };
    cluster.node(leader).raw.mut_store().compact(beyond);
    let place = cluster.node(leader).handle_proposal(vec![Bytes::from("x")]);
    assert!(matches!(cluster.node(leader).fatal(), Some(Fatal::Engine(_))));
    assert!(place.is_some());
}

#[test]
fn a_change_that_another_leaders_entry_replaced_did_not_happen() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    cluster.cut.insert(leader);
    cluster.node(leader).handle_change(&Change::Add(learner(4)), None).unwrap();
    cluster.settle();
    let heir = cluster.elect();
    cluster.propose(heir, "a");
    cluster.cut.clear();
    cluster.tick(20);
    let outcome = cluster.server(leader).changes.pop();
    assert!(matches!(outcome, Some(ChangeOutcome::Superseded)), "{outcome:?}");
    assert_eq!(cluster.node(leader).membership().members().count(), 3);
}
