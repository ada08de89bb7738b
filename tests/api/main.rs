//! What the library promises to applications, from one source on every runtime: on smol, async-std
//! and tokio in real time, and in the simulator in virtual time; there also over the transport that
//! an example explains.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../examples/custom_transport/postman.rs"]
mod postman;

mod harness;
mod leadership;
mod lifecycle;
mod membership;
mod proposals;
mod reads;
mod snapshots;
mod wires;

/// Mounts a test on every runtime.
macro_rules! on_every_runtime {
    (@ $runtime:ident $run:ident $($module:ident :: $test:ident),*) => {
        mod $runtime {
            $(#[test]
            fn $test() {
                crate::harness::$run(|cluster| Box::pin(crate::$module::$test(cluster)));
            })*
        }
    };
    ($($module:ident :: $test:ident),* $(,)?) => {
        on_every_runtime!(@ smol on_smol $($module::$test),*);
        on_every_runtime!(@ async_std on_async_std $($module::$test),*);
        on_every_runtime!(@ tokio on_tokio $($module::$test),*);
        on_every_runtime!(@ sim on_sim $($module::$test),*);
        on_every_runtime!(@ custom_transport on_custom_transport $($module::$test),*);
    };
}

on_every_runtime! {
    leadership::a_lost_leader_is_replaced,
    leadership::leadership_goes_where_it_is_sent,
    leadership::leadership_goes_right_behind_a_change_of_the_membership,
    leadership::leadership_cannot_go_to_who_cannot_lead,
    lifecycle::a_cluster_is_formed_on_empty_stores_only,
    lifecycle::a_restart_finds_everything_again,
    lifecycle::after_a_shutdown_every_verb_says_so,
    lifecycle::everyone_who_waits_is_told_of_a_shutdown,
    lifecycle::a_node_without_a_handle_ends,
    lifecycle::a_failing_store_stops_its_node_with_the_reason,
    lifecycle::a_failing_state_machine_stops_its_node_with_the_reason,
    lifecycle::a_panicking_state_machine_stops_its_node_and_not_the_process,
    lifecycle::a_config_that_cannot_work_is_refused,
    membership::a_server_joins_and_becomes_a_voter,
    membership::a_server_joins_over_a_bad_network,
    membership::a_removed_server_cannot_come_back,
    membership::a_server_that_lost_everything_needs_a_new_id,
    membership::a_leader_that_is_removed_hands_over_first,
    membership::a_change_planned_on_an_old_membership_is_refused,
    membership::a_replacement_is_one_step,
    membership::a_leader_that_is_cut_off_denies_nothing,
    membership::a_leader_that_moved_is_answered_by_who_has_not_heard_of_it,
    membership::joining_where_nobody_is_ends_with_an_error,
    proposals::any_server_takes_a_command_and_answers_it,
    proposals::many_commands_at_once_are_all_applied_once,
    proposals::what_arrives_twice_and_out_of_order_is_applied_once,
    proposals::a_command_that_is_too_long_is_refused,
    proposals::without_a_majority_the_outcome_is_not_known,
    proposals::without_a_leader_nothing_is_applied,
    proposals::more_than_may_wait_is_refused,
    reads::a_read_sees_what_was_acknowledged_before,
    reads::a_leader_that_is_cut_off_confirms_nothing,
    snapshots::a_server_far_behind_catches_up_by_a_snapshot,
    snapshots::a_server_behind_memory_catches_up_from_the_log,
    snapshots::a_restart_begins_at_the_last_snapshot,
}
