//! The tokio runtimes that openraft's own benchmark has: one for the servers, one for the clients.

use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// As many threads as there are processors: its default of 16 is slower on few.
pub(crate) fn servers() -> Runtime {
    runtime(available_parallelism().map_or(2, usize::from))
}

/// The one thread that its published figures were measured with.
pub(crate) fn clients() -> Runtime {
    runtime(1)
}

fn runtime(threads: usize) -> Runtime {
    let built = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    built.expect("threads can be started")
}
