//! Ends that nobody planned: a panic in what the application gave, or a runtime that drops its
//! tasks. Either would leave callers waiting for ever.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;

use super::Driver;
use super::apply::{ApplyTask, JobDone};
use super::life::refuse;
use super::mailbox::Mailbox;
use super::shared::Shared;
use crate::error::{Fatal, panic_text};
use crate::runtime::Runtime;

/// Runs a future that may panic, and gives what the panic said.
pub(super) async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let ended = AssertUnwindSafe(future).catch_unwind().await;
    ended.map_err(|panic| panic_text(&*panic))
}

/// Runs a job beside the node's task, which hears of its end in any case.
pub(super) fn spawn_job(
    runtime: &dyn Runtime,
    shared: &Arc<Shared>,
    job: impl Future<Output = JobDone> + Send + 'static,
) {
    let shared = Arc::clone(shared);
    runtime.spawn(Box::pin(async move {
        let done = caught(job).await.unwrap_or_else(|panic| {
            JobDone::Fatal(Fatal::Engine(format!("a job of the node panicked: {panic}")))
        });
        // A stopped driver needs no report.
        let _ = shared.jobs.push(done);
    }));
}

/// Tells everyone who still waits when the node's task is gone, however that came about.
struct Lifeline {
    shared: Arc<Shared>,
    tasks: Arc<Mailbox<ApplyTask>>,
    fatal: Fatal,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.shared.set_ending(self.fatal.clone());
        for ask in self.shared.asks.close() {
            refuse(ask, &self.fatal);
        }
        self.shared.inbound.close();
        self.shared.jobs.close();
        self.shared.in_hand.give_up();
        // If its task is gone too, nobody takes this.
        let _ = self.tasks.push_last(ApplyTask::Stop);
        self.shared.publish(|status| {
            let running = status.stopped.is_none();
            if running {
                status.stopped = Some(self.fatal.clone());
                status.leader = None;
            }
            running
        });
    }
}

impl Driver {
    pub(super) async fn run(self) {
        let (shared, tasks) = (Arc::clone(&self.shared), Arc::clone(&self.tasks));
        let mut lifeline = Lifeline { shared, tasks, fatal: Fatal::Shutdown };
        let (transport, group) = (Arc::clone(&self.transport), self.group);
        let lived = caught(self.live()).await;
        if let Err(panic) = lived {
            lifeline.fatal = Fatal::Engine(format!("the node's task panicked: {panic}"));
            let (node, fatal) = (lifeline.shared.id(), &lifeline.fatal);
            tracing::error!(%node, %fatal, "the node has stopped");
            transport.detach(group).await;
        }
    }
}
