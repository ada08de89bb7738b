//! What the adapters promise beyond what the conformance kits ask of every runtime; those are
//! mounted in `tests/conformance`.

#![cfg(any(
    feature = "runtime-async-std",
    feature = "runtime-sim",
    feature = "runtime-smol",
    feature = "runtime-tokio"
))]

use super::{Net, Runtime};

/// The addresses of the adapters here are `host:port`.
async fn an_address_without_a_port_is_refused(net: &dyn Net) {
    assert!(net.listen("127.0.0.1").await.is_err());
    assert!(net.dial("127.0.0.1").await.is_err());
}

/// Awaited, so that the future's end is seen, which the trait does not promise.
#[cfg(any(feature = "runtime-async-std", feature = "runtime-smol", feature = "runtime-tokio"))]
#[expect(clippy::panic, reason = "it is what is tested")]
async fn a_panic_of_blocking_work_ends_its_future(runtime: &dyn Runtime) {
    runtime.spawn_blocking(Box::new(|| panic!("on purpose"))).await;
}

#[cfg(feature = "runtime-smol")]
#[test]
fn on_smol() {
    let adapter = super::Smol::new();
    smol::block_on(an_address_without_a_port_is_refused(&adapter));
    smol::block_on(a_panic_of_blocking_work_ends_its_future(&adapter));
}

#[cfg(feature = "runtime-async-std")]
#[test]
fn on_async_std() {
    let adapter = super::AsyncStd::new();
    async_std::task::block_on(an_address_without_a_port_is_refused(&adapter));
    async_std::task::block_on(a_panic_of_blocking_work_ends_its_future(&adapter));
}

#[cfg(feature = "runtime-tokio")]
#[test]
fn on_tokio() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let adapter = super::Tokio::new(runtime.handle().clone());
    runtime.block_on(an_address_without_a_port_is_refused(&adapter));
    runtime.block_on(a_panic_of_blocking_work_ends_its_future(&adapter));
}

#[cfg(feature = "runtime-sim")]
#[test]
fn on_sim() {
    let sim = super::sim::Sim::new(1);
    let process = sim.process(1);
    let minute = std::time::Duration::from_secs(60);
    let case = async move { an_address_without_a_port_is_refused(&*process).await };
    sim.run_until(minute, case).unwrap();
}
