//! How a connection begins: who is there, who is wanted, and what for.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use kontiki::transport::frame::{FrameError, frame, read_frame};
use kontiki::transport::{Local, Peer, StreamRefused};
use kontiki::{ClusterId, GroupId, NodeId};

/// What the dialer says first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hello {
    pub(crate) purpose: Purpose,
    pub(crate) cluster: ClusterId,
    pub(crate) group: GroupId,
    pub(crate) from: NodeId,
    pub(crate) wanted: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Purpose {
    Messages = 0,
    Stream = 1,
}

/// What the other side answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Welcome {
    Accepted = 0,
    WrongCluster = 1,
    WrongNode = 2,
    NoSuchGroup = 3,
    Version = 4,
}

impl Hello {
    pub(crate) fn new(local: &Local, peer: &Peer, purpose: Purpose) -> Self {
        let Local { cluster, group, node } = *local;
        Self { purpose, cluster, group, from: node, wanted: peer.id }
    }

    pub(crate) async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        bytes.put_u8(VERSION);
        bytes.put_u8(self.purpose as u8);
        bytes.put_slice(&self.cluster.to_bytes());
        bytes.put_u64_le(self.group.0);
        bytes.put_slice(&self.from.to_bytes());
        bytes.put_slice(&self.wanted.map_or([0; 16], NodeId::to_bytes));
        let mut whole = MAGIC.to_vec();
        whole.extend_from_slice(&frame(KIND_HELLO, &bytes));
        stream.write_all(&whole).await?;
        stream.flush().await
    }

    /// Reads it; `Ok(Err(_))` if it is of another version, which can be answered.
    pub(crate) async fn read(
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Result<Self, Welcome>, FrameError> {
        let mut magic = [0; 8];
        stream.read_exact(&mut magic).await?;
        if magic != *MAGIC {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        let (kind, bytes) = read_frame(stream, HELLO_BYTES_MAX).await?;
        if kind != KIND_HELLO || bytes.first() != Some(&VERSION) {
            return Ok(Err(Welcome::Version));
        }
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        Ok(Ok(Self::parse(bytes.slice(1..)).ok_or_else(invalid)?))
    }

    fn parse(mut bytes: Bytes) -> Option<Self> {
        let purpose = match bytes.try_get_u8().ok()? {
            0 => Purpose::Messages,
            1 => Purpose::Stream,
            _ => return None,
        };
        let cluster = ClusterId::from_bytes(id(&mut bytes)?);
        let group = GroupId(bytes.try_get_u64_le().ok()?);
        let from = NodeId::from_bytes(id(&mut bytes)?).ok()?;
        let wanted = match id(&mut bytes)? {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => None,
            id => Some(NodeId::from_bytes(id).ok()?),
        };
        bytes.is_empty().then_some(Self { purpose, cluster, group, from, wanted })
    }
}

impl Welcome {
    pub(crate) async fn write(self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        stream.write_all(&frame(KIND_WELCOME, &[self as u8])).await?;
        stream.flush().await
    }

    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, FrameError> {
        let (kind, bytes) = read_frame(stream, HELLO_BYTES_MAX).await?;
        match (kind, &bytes[..]) {
            (KIND_WELCOME, [0]) => Ok(Self::Accepted),
            (KIND_WELCOME, [1]) => Ok(Self::WrongCluster),
            (KIND_WELCOME, [2]) => Ok(Self::WrongNode),
            (KIND_WELCOME, [3]) => Ok(Self::NoSuchGroup),
            (KIND_WELCOME, [4]) => Ok(Self::Version),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }
}

/// How the receiver of a stream judged it.
pub(crate) fn encode_verdict(verdict: &Result<(), StreamRefused>) -> Bytes {
    let (code, text) = match verdict {
        Ok(()) => (0, ""),
        Err(StreamRefused::Busy) => (1, ""),
        Err(StreamRefused::NotNeeded) => (2, ""),
        Err(StreamRefused::Stopped) => (3, ""),
        Err(StreamRefused::Failed(reason)) => (4, reason.as_str()),
        Err(_) => (4, "refused"),
    };
    let mut bytes = vec![code];
    bytes.extend(text.bytes().take(VERDICT_TEXT_MAX));
    frame(KIND_VERDICT, &bytes)
}

pub(crate) fn decode_verdict(kind: u8, bytes: &[u8]) -> Option<Result<(), StreamRefused>> {
    let (code, text) = bytes.split_first().filter(|_| kind == KIND_VERDICT)?;
    Some(match code {
        0 => Ok(()),
        1 => Err(StreamRefused::Busy),
        2 => Err(StreamRefused::NotNeeded),
        3 => Err(StreamRefused::Stopped),
        _ => Err(StreamRefused::Failed(String::from_utf8_lossy(text).into_owned())),
    })
}

fn id(bytes: &mut Bytes) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    bytes.try_copy_to_slice(&mut id).ok()?;
    Some(id)
}

const MAGIC: &[u8; 8] = b"kontiki\n";
const VERSION: u8 = 1;
pub(crate) const HELLO_BYTES_MAX: u64 = 256;
pub(crate) const VERDICT_TEXT_MAX: usize = 1_024;
const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
pub(crate) const KIND_MESSAGE: u8 = 3;
pub(crate) const KIND_CHUNK: u8 = 4;
pub(crate) const KIND_END: u8 = 5;
const KIND_VERDICT: u8 = 6;
