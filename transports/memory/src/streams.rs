//! Streams that are under way.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{AbortHandle, Shared};

use crate::{Network, Place};

/// The streams under way, by number.
#[derive(Default)]
pub(crate) struct Streams {
    all: BTreeMap<u64, Stream>,
    count: u64,
}

struct Stream {
    ends: [Place; 2],
    handle: AbortHandle,
    ended: Ended,
}

/// Comes about by being cancelled, when a stream has ended.
pub(crate) type Ended = Shared<oneshot::Receiver<()>>;

impl Streams {
    /// Notes a stream; it has ended when what is given back is dropped.
    pub(crate) fn begin(
        &mut self,
        ends: [Place; 2],
        handle: AbortHandle,
    ) -> (u64, oneshot::Sender<()>) {
        let (sender, receiver) = oneshot::channel();
        self.count += 1;
        self.all.insert(self.count, Stream { ends, handle, ended: receiver.shared() });
        (self.count, sender)
    }

    /// Breaks off every stream that begins or ends at a place; gives back what to wait for.
    pub(crate) fn break_off(&self, place: &Place) -> Vec<Ended> {
        let theirs = self.all.values().filter(|stream| stream.ends.contains(place));
        let break_off = |stream: &Stream| {
            stream.handle.abort();
            stream.ended.clone()
        };
        theirs.map(break_off).collect()
    }
}

/// A stream under way, for as long as its sender's future lives.
pub(crate) struct UnderWay {
    pub(crate) network: Network,
    pub(crate) number: u64,
    pub(crate) _ended: oneshot::Sender<()>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.network.lock().streams.all.remove(&self.number);
    }
}
