//! Ports for servers that leave and come back at the same address.
//!
//! A port that the system picked is in the range out of which it serves everybody who asks for any
//! port, and every outgoing connection: while a server is down, another test may get its port, and
//! a connection to it may even be given that very port as its own and so reach itself. These are
//! below that range (from 32,768 on Linux, 49,152 on macOS and Windows).

use std::net::TcpListener;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_000;
/// So many in all; other processes begin elsewhere among them.
const COUNT: u32 = 20_000;
const PER_PROCESS: u32 = 200;
/// How many places are looked at before there is said to be none.
const TRIES: u32 = 1_000;

/// A port of 127.0.0.1 that is free, with the `span - 1` above it; each is given once.
pub(crate) fn own(span: u16) -> Result<u16, String> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = process::id() % (COUNT / PER_PROCESS) * PER_PROCESS;
    let places = (0..TRIES).filter_map(|_| {
        let offset = begin + GIVEN.fetch_add(span.into(), Ordering::Relaxed);
        u16::try_from(FIRST + offset % COUNT).ok()
    });
    first_free(places, span).ok_or_else(|| format!("no {span} free ports in a row"))
}

/// The first of these places at which that many ports in a row are nobody's.
pub(crate) fn first_free(mut places: impl Iterator<Item = u16>, span: u16) -> Option<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    places.find(|first| (*first..first + span).all(is_free))
}

/// Where a server may listen that comes back.
pub(crate) fn own_address() -> Result<String, String> {
    Ok(format!("127.0.0.1:{}", own(1)?))
}
