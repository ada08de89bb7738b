//! Peer messages of kontiki over TCP, on any runtime.
