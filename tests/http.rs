//! The HTTP server: its limits, its patience and its end, in virtual time; and the tower mount.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use http::{Method, Request, Response, StatusCode};
use kontiki::http::{Body, Handler, Server, ServerConfig, Tower};
use kontiki::runtime::sim::{Sim, SimProcess};
use kontiki::runtime::{BoxStream, Net, Runtime};
use tower_service::Service as _;

/// GET /slow takes three seconds, GET /panic panics, GET /large is a mebibyte; a body comes back as
/// its length.
struct Echo {
    process: Arc<SimProcess>,
    handled: AtomicUsize,
}

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        self.handled.fetch_add(1, Ordering::SeqCst);
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/slow") => pause(&self.process, 3_000).await,
            (&Method::GET, "/panic") => panic!("planted"),
            (&Method::GET, "/large") => return Response::new(Body::from(vec![b'x'; 1 << 20])),
            (&Method::DELETE, _) => return Response::new(Body::from("unread")),
            _ => {}
        }
        let collected = request.into_body().collect(1 << 20).await;
        let mut response = Response::new(Body::from(match &collected {
            Ok(bytes) => bytes.len().to_string(),
            Err(error) => error.to_string(),
        }));
        if collected.is_err() {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    }
}

struct World {
    sim: Sim,
    client: Arc<SimProcess>,
    echo: Arc<Echo>,
    server: Option<Server>,
}

const ADDRESS: &str = "server:80";

fn serving<F: Future<Output = ()> + Send + 'static>(
    config: ServerConfig,
    test: impl FnOnce(World) -> F + Send + 'static,
) {
    let sim = Sim::new(3);
    let world = sim.clone();
    let run = async move {
        let process = world.process(1);
        let echo = Arc::new(Echo { process: process.clone(), handled: AtomicUsize::new(0) });
        let server = Server::bind(process.clone(), process, ADDRESS, echo.clone(), config).await;
        let client = world.process(2);
        test(World { sim: world, client, echo, server: Some(server.unwrap()) }).await;
    };
    sim.run_until(Duration::from_secs(600), run).unwrap();
}

async fn pause(process: &SimProcess, ms: u64) {
    process.timer(process.now() + Duration::from_millis(ms)).await;
}

impl World {
    /// Connects and says this.
    async fn say(&self, bytes: &str) -> BoxStream {
        let mut stream = self.client.dial(ADDRESS).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// What comes back for this, up to the end of the connection.
    async fn talk(&self, bytes: &str) -> String {
        heard(&mut self.say(bytes).await).await
    }

    async fn seconds(&self, task: impl Future<Output = ()>) -> u64 {
        let began = self.sim.elapsed();
        task.await;
        (self.sim.elapsed() - began).as_secs()
    }
}

async fn heard(stream: &mut BoxStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is cut may end with an error; what came before counts.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

#[test]
fn requests_on_one_connection_are_answered_in_order_and_a_panic_is_one_answer() {
    serving(ServerConfig::default(), |world| async move {
        let put = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        let panic = "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n";
        let answers = world.talk(&format!("{put}{panic}{}", get("/"))).await;
        let found: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|one| &one[..3]).collect();
        assert_eq!(found, ["200", "500", "200"], "{answers}");
        assert!(answers.contains("\r\n\r\n3HTTP"), "{answers}");
        assert_eq!(answers.matches("\r\ndate: ").count(), 3);
    });
}

#[test]
fn a_head_that_does_not_come_and_a_connection_that_idles_are_closed() {
    serving(ServerConfig::default(), |world| async move {
        for begun in ["", "GET / HTTP/1.1\r\nHo", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut stream = world.say(begun).await;
            let took = world.seconds(async { drop(heard(&mut stream).await) }).await;
            assert!((9..12).contains(&took), "{begun:?} was waited for {took} s");
        }
        // A byte now and then does not help.
        let mut stream = world.say("GET / HTTP/1.1\r\nX: ").await;
        let took = world.seconds(async {
            while stream.write_all(b"x").await.is_ok() {
                pause(&world.client, 1_000).await;
            }
        });
        assert!((9..13).contains(&took.await));
    });
}

#[test]
fn a_body_that_stalls_or_drips_is_given_up() {
    serving(ServerConfig::default(), |world| async move {
        let head = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc";
        let mut stalled = world.say(head).await;
        let took = world.seconds(async {
            let answer = heard(&mut stalled).await;
            assert!(status(&answer) == "400" && answer.ends_with("timed out"), "{answer}");
        });
        assert!((29..32).contains(&took.await));
        let mut dripping = world.say(head).await;
        let took = world.seconds(async {
            while dripping.write_all(b"x").await.is_ok() {
                pause(&world.client, 1_000).await;
            }
        });
        assert!((29..40).contains(&took.await));
    });
}

#[test]
fn a_body_that_comes_steadily_may_take_long() {
    serving(ServerConfig::default(), |world| async move {
        let head =
            "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 240000\r\n\r\n";
        let mut steady = world.say(head).await;
        for _ in 0..60 {
            pause(&world.client, 2_000).await;
            steady.write_all(&[b'x'; 4_000]).await.unwrap();
        }
        let answer = heard(&mut steady).await;
        assert!(answer.ends_with("240000"), "{answer}");
    });
}

#[test]
fn who_does_not_read_the_answer_is_given_up() {
    serving(ServerConfig::default(), |mut world| async move {
        let mut deaf = world.say("GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        // The server ends only when this connection has.
        let server = world.server.take().unwrap();
        let took = world.seconds(async {
            pause(&world.client, 1_000).await;
            server.shutdown().await;
        });
        assert!((29..33).contains(&took.await));
        assert!(heard(&mut deaf).await.len() < 1 << 20);
    });
}

#[test]
fn heads_are_limited() {
    let mut config = ServerConfig::default();
    config.head_bytes_max = 16 << 10;
    serving(config, |world| async move {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20 << 10));
        assert_eq!(status(&world.talk(&long).await), "431");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101));
        assert_eq!(status(&world.talk(&many).await), "431");
        let path = format!("/{}", "x".repeat(8 << 10));
        assert_eq!(status(&world.talk(&get(&path)).await), "200");
        assert_eq!(world.echo.handled.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn what_could_be_read_in_two_ways_is_not_read() {
    serving(ServerConfig::default(), |world| async move {
        for head in [
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: 3, 4",
            "Content-Length: +3",
            "Content-Length: -1",
            "Transfer-Encoding: chunked, identity",
            "Content-Length : 3",
            " folded: x",
        ] {
            let request = format!("PUT / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\nabc{}", get("/"));
            let answer = world.talk(&request).await;
            assert_eq!(status(&answer), "400", "{head}: {answer}");
        }
        assert_eq!(world.echo.handled.load(Ordering::SeqCst), 0);
        // Both: the chunks count, and what is behind them is the next request.
        let both = "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked";
        let answers = world.talk(&format!("{both}\r\n\r\n1\r\na\r\n0\r\n\r\n{}", get("/"))).await;
        assert!(answers.contains("\r\n\r\n1"), "{answers}");
        assert!(world.echo.handled.load(Ordering::SeqCst) <= 2);
        for garbage in ["\u{16}\u{3}\u{1}\u{2}", "hello\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
            assert_ne!(status(&world.talk(garbage).await), "200", "{garbage}");
        }
    });
}

#[test]
fn a_body_that_is_not_read_does_not_keep_the_connection() {
    serving(ServerConfig::default(), |world| async move {
        let head = "DELETE / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc";
        let took = world.seconds(async {
            let answer = world.talk(head).await;
            assert!(answer.ends_with("unread"), "{answer}");
        });
        assert!(took.await < 2);
    });
}

#[test]
fn too_many_connections_of_one_client_are_told_so() {
    let mut config = ServerConfig::default();
    config.connections_per_client_max = 2;
    serving(config, |world| async move {
        let (first, second) = (world.say("").await, world.say("").await);
        pause(&world.client, 10).await;
        let refused = heard(&mut world.client.dial(ADDRESS).await.unwrap()).await;
        let head = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\n\
                    Connection: close\r\n\r\n";
        assert!(refused.starts_with(head), "{refused}");
        assert!(refused.ends_with("please rate limit your calls\n"), "{refused}");
        // Another client is another matter, and so is a place that has become free.
        let mut other = world.sim.process(3).dial(ADDRESS).await.unwrap();
        other.write_all(get("/").as_bytes()).await.unwrap();
        assert_eq!(status(&heard(&mut other).await), "200");
        drop((first, second));
        pause(&world.client, 10).await;
        assert_eq!(status(&world.talk(&get("/")).await), "200");
    });
}

#[test]
fn too_many_connections_in_all_are_refused() {
    let mut config = ServerConfig::default();
    config.connections_max = 2;
    serving(config, |world| async move {
        let _held = (world.say("").await, world.say("").await);
        pause(&world.client, 10).await;
        let refused = heard(&mut world.sim.process(3).dial(ADDRESS).await.unwrap()).await;
        assert_eq!(status(&refused), "429");
    });
}

#[test]
fn a_shutdown_answers_what_is_under_way_and_closes_the_rest() {
    serving(ServerConfig::default(), |mut world| async move {
        let mut slow = world.say("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut idle = world.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut silent = world.say("").await;
        pause(&world.client, 100).await;
        let server = world.server.take().unwrap();
        let took = world.seconds(async {
            server.shutdown().await;
        });
        assert_eq!(took.await, 2, "as long as the slow one took");
        assert_eq!(status(&heard(&mut slow).await), "200");
        assert_eq!(status(&heard(&mut idle).await), "200");
        assert_eq!(heard(&mut silent).await, "");
        let refused = world.client.dial(ADDRESS).await.err().unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_dropped_server_lets_go_of_its_address() {
    serving(ServerConfig::default(), |mut world| async move {
        let mut slow = world.say("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
        pause(&world.client, 100).await;
        drop(world.server.take());
        pause(&world.client, 100).await;
        assert!(world.client.dial(ADDRESS).await.is_err());
        assert_eq!(status(&heard(&mut slow).await), "200", "what is under way is answered");
    });
}

#[test]
fn a_handler_is_a_tower_service() {
    serving(ServerConfig::default(), |world| async move {
        let mut tower = Tower::new(world.echo.clone());
        let request = Request::put("/").body(Body::from("abcd")).unwrap();
        let response = tower.call(request).await.unwrap();
        assert_eq!(response.into_body().collect(10).await.unwrap(), "4");
    });
}
