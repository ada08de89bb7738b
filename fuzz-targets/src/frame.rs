//! F1: frames on a byte stream, against a second reading of the same bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::executor::block_on;
use futures::io::AsyncRead;
use kontiki::transport::frame::{FRAME_HEAD_LEN, FrameError, frame, read_frame};

use crate::input::Input;
use crate::{Target, meter};

pub(crate) const TARGET: Target = Target { name: "frame", run, seeds, words: &[] };

/// First what the reader does (limit, how it splits), then what comes over the stream.
fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let bytes_max = input.pick(&[0, 1, 16, 256, 4_096, 1 << 16]);
    let steps: Vec<u8> = input.bytes(16).to_vec();
    let stream = stream(input);
    let expected = read_again(&stream, bytes_max);
    let mut reader = Splitter { rest: &stream, steps: &steps, step: 0, ready: false };
    // Two lengths: a payload, and its copy in what is read back below.
    let allowed = 2 * bytes_max as usize + 8 * stream.len() + 4_096;
    let read = meter::within(allowed, || {
        let mut frames = Vec::new();
        loop {
            match block_on(read_frame(&mut reader, bytes_max)) {
                Ok(read) => frames.push(read),
                Err(error) => return (frames, error),
            }
        }
    });
    let (frames, error) = read;
    assert_eq!((frames.clone(), End::of(&error)), expected, "{error}");
    let mut whole = Vec::new();
    frames.iter().for_each(|(kind, payload)| whole.extend_from_slice(&frame(*kind, payload)));
    assert!(stream.starts_with(&whole), "what was read is not what stands there");
}

/// How a stream of frames ends.
#[derive(Debug, PartialEq)]
enum End {
    Between,
    Inside,
    TooLong(u64),
    WrongChecksum,
}

impl End {
    fn of(error: &FrameError) -> Self {
        match error {
            FrameError::Checksum => Self::WrongChecksum,
            FrameError::Closed => Self::Between,
            FrameError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Inside,
            FrameError::TooLong { bytes, .. } => Self::TooLong(*bytes),
            other => panic!("no other error can be: {other:?}"),
        }
    }
}

/// The same by another hand: all bytes at once.
fn read_again(mut bytes: &[u8], bytes_max: u64) -> (Vec<(u8, Bytes)>, End) {
    let mut frames = Vec::new();
    loop {
        if bytes.is_empty() {
            return (frames, End::Between);
        }
        let Some((head, rest)) = bytes.split_at_checked(FRAME_HEAD_LEN) else {
            return (frames, End::Inside);
        };
        let field = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| head[at + n]));
        if u64::from(field(0)) > bytes_max {
            return (frames, End::TooLong(field(0).into()));
        }
        let Some((payload, after)) = rest.split_at_checked(field(0) as usize) else {
            return (frames, End::Inside);
        };
        if crc32c::crc32c(&bytes[8..FRAME_HEAD_LEN + payload.len()]) != field(4) {
            return (frames, End::WrongChecksum);
        }
        frames.push((head[8], Bytes::copy_from_slice(payload)));
        bytes = after;
    }
}

fn stream(mut input: Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() {
        match input.below(6) {
            0 => stream.extend_from_slice(input.bytes(64)),
            1 => {
                let len = input.pick(&[0, 1, 255, 256, 4_096, 65_535, 65_536, 65_537]);
                stream.extend_from_slice(&frame(input.byte(), &vec![input.byte(); len]));
            }
            2 => {
                let mut whole = frame(input.byte(), input.bytes(64)).to_vec();
                let at = input.below(whole.len());
                whole[at] ^= 1 << input.below(8);
                stream.extend_from_slice(&whole);
            }
            3 => {
                let whole = frame(input.byte(), input.bytes(64));
                stream.extend_from_slice(&whole[..input.below(whole.len())]);
                return stream;
            }
            4 => {
                stream.extend_from_slice(&(input.number() as u32).to_le_bytes());
                stream.extend_from_slice(input.bytes(16));
            }
            _ => stream.extend_from_slice(&frame(input.byte(), input.bytes(255))),
        }
    }
    stream
}

/// Gives a few bytes at a time, and sometimes nothing yet.
struct Splitter<'a> {
    rest: &'a [u8],
    steps: &'a [u8],
    step: usize,
    ready: bool,
}

impl AsyncRead for Splitter<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let step = self.steps.get(self.step % self.steps.len().max(1)).copied().unwrap_or(u8::MAX);
        if step & 0x80 != 0 && step != u8::MAX && !self.ready {
            self.ready = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = false;
        self.step += 1;
        let many = if step == u8::MAX { usize::MAX } else { usize::from(step & 0x7f) + 1 };
        let len = into.len().min(self.rest.len()).min(many);
        let (now, rest) = self.rest.split_at(len);
        into[..len].copy_from_slice(now);
        self.rest = rest;
        Poll::Ready(Ok(len))
    }
}

fn seeds() -> Vec<Vec<u8>> {
    crate::corpus::choices(&[], 24, 200)
}
