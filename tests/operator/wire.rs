use std::sync::Arc;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::http::{Server, ServerConfig};
use kontiki::operator::{AllowAll, ApiConfig};
use kontiki::runtime::Net as _;

use crate::{Cluster, id, on_cluster};

/// What comes back for these very bytes, up to the end of the connection.
async fn talk(cluster: &Cluster, address: &str, request: &str) -> String {
    let mut stream = cluster.process.dial(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A response without what differs from one to the next.
fn stripped(answer: &str) -> String {
    let lines = answer.split("\r\n").filter(|line| !line.starts_with("date: "));
    lines.collect::<Vec<_>>().join("\n")
}

async fn served(cluster: &Cluster) -> Server {
    let api = Arc::new(cluster.api(2, Arc::new(AllowAll::new()), ApiConfig::default()));
    let (runtime, net) = (cluster.process.clone(), cluster.process.clone());
    Server::bind(runtime, net, "api:4646", api, ServerConfig::default()).await.unwrap()
}

#[test]
fn every_byte_of_an_answer_is_as_nomads() {
    on_cluster(|cluster| async move {
        let _server = served(&cluster).await;
        for (request, expected) in [
            (
                "POST /v1/operator/raft/configuration",
                "405 Method Not Allowed\nvary: Accept-Encoding\nconnection: close\n\
                 content-length: 0\n\n",
            ),
            (
                "HEAD /v1/operator/raft/transfer-leadership",
                "405 Method Not Allowed\nvary: Accept-Encoding\n\
                 content-type: text/plain; charset=utf-8\nconnection: close\n\
                 content-length: 14\n\n",
            ),
            (
                "GET /v1/operator/raft/bogus",
                "404 Not Found\nvary: Accept-Encoding\n\
                 content-type: text/plain; charset=utf-8\nconnection: close\n\
                 content-length: 14\n\nInvalid method",
            ),
            (
                "GET /v1/unknown/endpoint",
                "404 Not Found\nvary: Accept-Encoding\nconnection: close\n\
                 content-length: 0\n\n",
            ),
            (
                "GET /v1/status/leader",
                "200 OK\nvary: Accept-Encoding\ncontent-type: application/json\n\
                 connection: close\ncontent-length: 15\n\n\"10.0.0.1:4647\"",
            ),
            (
                "DELETE /v1/operator/raft/peer?address=10.0.0.4:4647",
                "200 OK\nvary: Accept-Encoding\nconnection: close\ncontent-length: 0\n\n",
            ),
        ] {
            let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let answer = talk(&cluster, "api:4646", &request).await;
            assert!(answer.contains("\r\ndate: "), "{answer}");
            let expected = format!("HTTP/1.1 {expected}");
            assert_eq!(stripped(&answer), expected, "{request}");
        }
    });
}

#[test]
fn a_body_that_nobody_asked_for_is_read_past() {
    on_cluster(|cluster| async move {
        let _server = served(&cluster).await;
        // What the body looks like is the next request; it must not be taken for one.
        let smuggled = "GET /v1/operator/raft/bogus HTTP/1.1\r\nHost: x\r\n\r\n";
        let transfer = format!(
            "PUT /v1/operator/raft/transfer-leadership?id={} HTTP/1.1\r\nHost: x\r\n",
            id(1)
        );
        let next = "GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let counted = format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len());
        let chunked = format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
            smuggled.len()
        );
        for body in [counted, chunked] {
            let answer = talk(&cluster, "api:4646", &format!("{transfer}{body}{next}")).await;
            assert!(!answer.contains("Invalid method"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
            assert!(answer.contains("\"Noop\":true") && answer.ends_with("\"10.0.0.1:4647\""));
        }
    });
}
