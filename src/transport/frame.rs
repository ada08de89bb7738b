//! Frames on a byte stream: a length that is checked before anything is reserved, a checksum, a
//! kind.
//!
//! Shared by the transports that run over streams. A frame is its length (`u32`, little-endian, of
//! the payload), the CRC-32C of kind and payload, the kind (one byte), the payload.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncReadExt as _};

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload is not what was sent.
    #[error("a frame fails its checksum")]
    Checksum,
    /// The stream has ended, between two frames.
    #[error("the stream has ended")]
    Closed,
    /// The stream failed, or ended in the middle of a frame.
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
    /// It would be longer than is allowed; nothing of it was read.
    #[error("a frame of {bytes} bytes is over the limit of {bytes_max}")]
    TooLong {
        /// What it says its length is.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
}

/// The bytes in front of a payload that consists of `parts`.
///
/// # Panics
///
/// Panics on a payload of 4 GiB or more, which no limit allows.
#[must_use]
pub fn frame_head(kind: u8, parts: &[Bytes]) -> Bytes {
    let len: usize = parts.iter().map(Bytes::len).sum();
    let checksum =
        parts.iter().fold(crc32c::crc32c(&[kind]), |sum, part| crc32c::crc32c_append(sum, part));
    let mut head = BytesMut::with_capacity(FRAME_HEAD_LEN);
    head.put_u32_le(u32::try_from(len).expect("frames are limited far below 4 GiB"));
    head.put_u32_le(checksum);
    head.put_u8(kind);
    head.freeze()
}

/// A whole frame in one piece.
#[must_use]
pub fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let payload = Bytes::copy_from_slice(payload);
    let mut whole = BytesMut::from(&frame_head(kind, std::slice::from_ref(&payload))[..]);
    whole.put_slice(&payload);
    whole.freeze()
}

/// Reads one frame: its kind and its payload.
///
/// # Errors
///
/// See [`FrameError`]. After any of them the stream is of no more use.
pub async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: u64,
) -> Result<(u8, Bytes), FrameError> {
    let mut head = [0; FRAME_HEAD_LEN];
    if stream.read(&mut head[..1]).await? == 0 {
        return Err(FrameError::Closed);
    }
    stream.read_exact(&mut head[1..]).await?;
    let mut fields = &head[..];
    let (len, checksum, kind) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u8());
    if u64::from(len) > bytes_max {
        return Err(FrameError::TooLong { bytes: len.into(), bytes_max });
    }
    let mut payload = vec![0; len as usize];
    stream.read_exact(&mut payload).await?;
    if crc32c::crc32c_append(crc32c::crc32c(&[kind]), &payload) != checksum {
        return Err(FrameError::Checksum);
    }
    Ok((kind, payload.into()))
}

/// How many bytes stand in front of a payload.
pub const FRAME_HEAD_LEN: usize = 9;

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn a_frame_reads_back_and_every_damage_is_found() {
        let whole = frame(3, b"payload");
        let read = |bytes: &[u8], max| block_on(read_frame(&mut &bytes[..], max));
        assert_eq!(read(&whole, 7).unwrap(), (3, Bytes::from_static(b"payload")));
        assert!(matches!(read(&whole, 6), Err(FrameError::TooLong { bytes: 7, bytes_max: 6 })));
        assert!(matches!(read(b"", 7), Err(FrameError::Closed)));
        for len in 1..whole.len() {
            assert!(matches!(read(&whole[..len], 7), Err(FrameError::Io(_))), "cut to {len}");
        }
        for at in 4..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1;
            assert!(matches!(read(&flipped, 7), Err(FrameError::Checksum)), "byte {at}");
        }
    }
}
