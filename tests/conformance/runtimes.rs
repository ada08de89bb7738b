//! Runtimes, and their sockets.

use std::sync::Arc;
use std::time::Duration;

use kontiki::conformance::{self, Broken, Fixture, NetFixture, RuntimeFixture};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{AsyncStd, BoxFuture, Net, Runtime, Smol, Tokio};

/// A runtime with its sockets, and what drives the case.
struct On<T> {
    adapter: Arc<T>,
    run: fn(BoxFuture<'static>) -> Result<(), Broken>,
}

impl<T: Runtime + Net> Fixture for On<T> {
    fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
        (self.run)(case)
    }
}

impl<T: Runtime + Net> RuntimeFixture for On<T> {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::<T>::clone(&self.adapter)
    }
}

impl<T: Runtime + Net> NetFixture for On<T> {
    fn net(&self) -> Arc<dyn Net> {
        Arc::<T>::clone(&self.adapter)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::<T>::clone(&self.adapter)
    }
}

mod smol {
    use super::*;

    fn fixture() -> On<Smol> {
        let run = |case| {
            ::smol::block_on(case);
            Ok(())
        };
        On { adapter: Arc::new(Smol::new()), run }
    }

    kontiki::runtime_conformance!(fixture());
    kontiki::net_conformance!(fixture());
}

mod async_std {
    use super::*;

    fn fixture() -> On<AsyncStd> {
        let run = |case| {
            ::async_std::task::block_on(case);
            Ok(())
        };
        On { adapter: Arc::new(AsyncStd::new()), run }
    }

    kontiki::runtime_conformance!(fixture());
    kontiki::net_conformance!(fixture());
}

/// The cases are polled by tokio.
mod tokio {
    use super::*;

    struct Inside(::tokio::runtime::Runtime);

    fn fixture() -> Inside {
        Inside(new_tokio())
    }

    impl Fixture for Inside {
        fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
            self.0.block_on(case);
            Ok(())
        }
    }

    impl RuntimeFixture for Inside {
        fn runtime(&self) -> Arc<dyn Runtime> {
            Arc::new(Tokio::new(self.0.handle().clone()))
        }
    }

    impl NetFixture for Inside {
        fn net(&self) -> Arc<dyn Net> {
            Arc::new(Tokio::new(self.0.handle().clone()))
        }

        fn runtime(&self) -> Arc<dyn Runtime> {
            RuntimeFixture::runtime(self)
        }
    }

    kontiki::runtime_conformance!(fixture());
    kontiki::net_conformance!(fixture());
}

/// The cases are polled on a thread that tokio does not know.
mod tokio_from_outside {
    use super::*;

    struct Outside(::tokio::runtime::Runtime);

    impl Fixture for Outside {}

    impl RuntimeFixture for Outside {
        fn runtime(&self) -> Arc<dyn Runtime> {
            Arc::new(Tokio::new(self.0.handle().clone()))
        }
    }

    impl NetFixture for Outside {
        fn net(&self) -> Arc<dyn Net> {
            Arc::new(Tokio::new(self.0.handle().clone()))
        }

        fn runtime(&self) -> Arc<dyn Runtime> {
            RuntimeFixture::runtime(self)
        }
    }

    kontiki::runtime_conformance!(Outside(new_tokio()));
    kontiki::net_conformance!(Outside(new_tokio()));
}

mod sim {
    use super::*;

    struct World(Sim);

    impl Fixture for World {
        fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
            let hour = Duration::from_secs(3_600);
            self.0.run_until(hour, case).map_err(|stuck| Broken::new(stuck.to_string()))
        }
    }

    impl RuntimeFixture for World {
        fn runtime(&self) -> Arc<dyn Runtime> {
            self.0.process(1)
        }

        fn passes_panics_on(&self) -> bool {
            true
        }
    }

    impl NetFixture for World {
        fn net(&self) -> Arc<dyn Net> {
            self.0.process(1)
        }

        fn runtime(&self) -> Arc<dyn Runtime> {
            self.0.process(1)
        }
    }

    kontiki::runtime_conformance!(World(Sim::new(0)));
    kontiki::net_conformance!(World(Sim::new(0)));

    #[test]
    fn every_promise_is_kept_in_twenty_worlds() {
        for seed in 1..=20 {
            for case in conformance::runtime::CASES {
                let fixture: Arc<dyn RuntimeFixture> = Arc::new(World(Sim::new(seed)));
                conformance::judge(conformance::runtime::CASES, case.name(), fixture);
            }
            for case in conformance::net::CASES {
                let fixture: Arc<dyn NetFixture> = Arc::new(World(Sim::new(seed)));
                conformance::judge(conformance::net::CASES, case.name(), fixture);
            }
        }
    }
}

fn new_tokio() -> ::tokio::runtime::Runtime {
    ::tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
