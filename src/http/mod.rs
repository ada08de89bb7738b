//! HTTP serving, without a server: a [`Handler`] turns requests into responses, and can be mounted
//! anywhere.
//!
//! Feature `http-server` adds a server over any runtime ([`Server`]), feature `tower` a
//! `tower_service::Service`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::io::AsyncReadExt as _;

#[cfg(feature = "http-server")]
mod io_adapter;
#[cfg(feature = "http-server")]
mod patience;
#[cfg(feature = "http-server")]
mod server;
#[cfg(feature = "tower")]
mod tower;

#[cfg(feature = "http-server")]
pub use self::server::{Server, ServerConfig};
#[cfg(feature = "tower")]
pub use self::tower::Tower;
use crate::runtime::ByteReader;

/// Answers HTTP requests: what servers take, and what mounts wrap.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; errors are responses too.
    async fn handle(&self, request: http::Request<Body>) -> http::Response<Body>;
}

/// What a request or response carries: all of it, or a stream.
#[non_exhaustive]
pub enum Body {
    /// All of it.
    Full(Bytes),
    /// As much as comes.
    Stream(ByteReader),
}

impl Body {
    /// No bytes at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::Full(Bytes::new())
    }

    /// Reads all of it, if that is at most `bytes_max`.
    ///
    /// # Errors
    ///
    /// See [`BodyError`].
    pub async fn collect(self, bytes_max: usize) -> Result<Bytes, BodyError> {
        let too_large = BodyError::TooLarge { bytes_max };
        match self {
            Self::Full(bytes) if bytes.len() > bytes_max => Err(too_large),
            Self::Full(bytes) => Ok(bytes),
            Self::Stream(stream) => {
                let mut bytes = Vec::new();
                stream.take(bytes_max as u64 + 1).read_to_end(&mut bytes).await?;
                if bytes.len() > bytes_max { Err(too_large) } else { Ok(bytes.into()) }
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full(bytes.into())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Full(text.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Full(text.into())
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection failed.
    #[error("the body broke off: {0}")]
    Io(#[from] io::Error),
    /// It is longer than is allowed.
    #[error("the body is over the limit of {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
        let frame = |bytes| Poll::Ready(Some(Ok(http_body::Frame::data(bytes))));
        match &mut *self {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => frame(std::mem::take(bytes)),
            Self::Stream(stream) => {
                let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
                match stream.as_mut().poll_read(cx, &mut chunk) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ok(0)) => Poll::Ready(None),
                    Poll::Ready(Ok(read)) => frame(chunk.split_to(read).freeze()),
                    Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Full(bytes) => http_body::SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

/// Reads a foreign body as a stream.
#[cfg(any(feature = "http-server", feature = "tower"))]
pub(crate) fn from_foreign<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::BoxError>,
{
    use futures::TryStreamExt as _;
    if body.is_end_stream() {
        return Body::empty();
    }
    let mut body = Box::pin(body);
    // An error that is one of input and output already keeps its kind.
    let failed = |error: B::Error| match error.into().downcast::<io::Error>() {
        Ok(error) => *error,
        Err(error) => io::Error::other(error),
    };
    let frames = futures::stream::poll_fn(move |cx| body.as_mut().poll_frame(cx).map_err(failed));
    let chunks = frames.try_filter_map(async |frame| Ok(frame.into_data().ok()));
    Body::Stream(Box::pin(Box::pin(chunks).into_async_read()))
}

const CHUNK_BYTES: usize = 64 << 10;
