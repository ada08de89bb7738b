//! Transports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kontiki::conformance::{self, Broken, Fixture, Server, TransportFixture};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{AsyncStd, BoxFuture, Net, Runtime, Smol, Tokio};
use kontiki_transport_memory::{Faults, Network};
use kontiki_transport_tcp::{TcpConfig, TcpTransport};

#[path = "../../examples/custom_transport/postman.rs"]
mod postman;

pub(crate) fn run_in(sim: &Sim, case: BoxFuture<'static>) -> Result<(), Broken> {
    let day = Duration::from_secs(86_400);
    sim.run_until(day, case).map_err(|stuck| Broken::new(stuck.to_string()))
}

mod memory {
    use super::*;

    struct InMemory {
        sim: Sim,
        network: Network,
        count: AtomicU64,
    }

    fn fixture(seed: u64, delay: Duration) -> InMemory {
        let sim = Sim::new(seed);
        let network = Network::new(sim.process(0));
        network.set_faults(Faults { delay: Duration::ZERO..delay, ..Faults::default() });
        InMemory { sim, network, count: AtomicU64::new(0) }
    }

    impl Fixture for InMemory {
        fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
            run_in(&self.sim, case)
        }
    }

    #[async_trait]
    impl TransportFixture for InMemory {
        fn runtime(&self) -> Arc<dyn Runtime> {
            self.sim.process(0)
        }

        async fn server(&self) -> Server {
            let address = format!("server-{}", self.count.fetch_add(1, Ordering::SeqCst));
            Server { transport: self.network.endpoint(&address), address }
        }

        fn nowhere(&self) -> String {
            "nowhere".to_owned()
        }
    }

    mod without_delay {
        kontiki::transport_conformance!(super::fixture(1, std::time::Duration::ZERO));
    }

    mod with_delay {
        kontiki::transport_conformance!(super::fixture(2, std::time::Duration::from_millis(9)));
    }
}

mod tcp_in_the_simulator {
    use super::*;

    pub(super) struct World {
        sim: Sim,
        count: AtomicU64,
    }

    pub(super) fn fixture(seed: u64) -> World {
        World { sim: Sim::new(seed), count: AtomicU64::new(1) }
    }

    impl Fixture for World {
        fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
            run_in(&self.sim, case)
        }
    }

    #[async_trait]
    impl TransportFixture for World {
        fn runtime(&self) -> Arc<dyn Runtime> {
            self.sim.process(0)
        }

        async fn server(&self) -> Server {
            let process = self.sim.process(self.count.fetch_add(1, Ordering::SeqCst));
            bind(process, "host:0", TcpConfig::default()).await
        }

        fn nowhere(&self) -> String {
            "nowhere:1".to_owned()
        }

        fn net(&self) -> Option<Arc<dyn Net>> {
            Some(self.sim.process(0))
        }

        fn any_address(&self) -> String {
            "between:0".to_owned()
        }
    }

    kontiki::transport_conformance!(fixture(1));

    #[test]
    fn every_promise_is_kept_in_three_worlds() {
        for seed in 2..5 {
            for case in conformance::transport::CASES {
                let fixture: Arc<dyn TransportFixture> = Arc::new(fixture(seed));
                conformance::judge(conformance::transport::CASES, case.name(), fixture);
            }
        }
    }
}

/// Real sockets, which are slower and less repeatable.
mod tcp_on_real_sockets {
    use super::*;

    struct On<T>(
        Arc<T>,
        #[expect(dead_code, reason = "kept alive")] Option<::tokio::runtime::Runtime>,
    );

    impl<T: Runtime + Net> Fixture for On<T> {}

    #[async_trait]
    impl<T: Runtime + Net> TransportFixture for On<T> {
        fn runtime(&self) -> Arc<dyn Runtime> {
            Arc::<T>::clone(&self.0)
        }

        async fn server(&self) -> Server {
            let mut config = TcpConfig::default();
            config.handshake_timeout = Duration::from_millis(500);
            config.stall_timeout = Duration::from_millis(500);
            config.verdict_timeout = Duration::from_secs(5);
            bind(Arc::clone(&self.0), "127.0.0.1:0", config).await
        }

        fn nowhere(&self) -> String {
            // Below the ports that the system gives out by itself, and nobody's by convention.
            "127.0.0.1:9".to_owned()
        }

        fn net(&self) -> Option<Arc<dyn Net>> {
            Some(Arc::<T>::clone(&self.0))
        }
    }

    mod smol {
        use super::*;
        kontiki::transport_conformance!(On(Arc::new(Smol::new()), None));
    }

    mod async_std {
        use super::*;
        kontiki::transport_conformance!(On(Arc::new(AsyncStd::new()), None));
    }

    mod tokio {
        use super::*;

        fn fixture() -> On<Tokio> {
            let runtime = ::tokio::runtime::Runtime::new().unwrap();
            On(Arc::new(Tokio::new(runtime.handle().clone())), Some(runtime))
        }

        kontiki::transport_conformance!(fixture());
    }
}

/// The example that transports are copied from.
mod custom {
    use super::*;

    struct Village {
        postman: postman::Postman,
        count: AtomicU64,
    }

    fn fixture() -> Village {
        Village { postman: postman::Postman::new(), count: AtomicU64::new(0) }
    }

    impl Fixture for Village {}

    #[async_trait]
    impl TransportFixture for Village {
        fn runtime(&self) -> Arc<dyn Runtime> {
            Arc::new(Smol::new())
        }

        async fn server(&self) -> Server {
            let address = format!("house-{}", self.count.fetch_add(1, Ordering::SeqCst));
            Server { transport: self.postman.letterbox(&address), address }
        }

        fn nowhere(&self) -> String {
            "the forest".to_owned()
        }
    }

    kontiki::transport_conformance!(fixture());
}

async fn bind<T: Runtime + Net>(adapter: Arc<T>, address: &str, config: TcpConfig) -> Server {
    let net = Arc::<T>::clone(&adapter);
    let transport = TcpTransport::bind(adapter, net, address, config).await.unwrap();
    Server { address: transport.local_address().to_owned(), transport }
}
