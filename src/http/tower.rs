//! The mount for axum, hyper-util and everything else that takes a tower service.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{Body, Handler, from_foreign};
use crate::runtime::BoxFuture;

/// A [`Handler`] as a `tower_service::Service`.
#[derive(Clone)]
pub struct Tower {
    handler: Arc<dyn Handler>,
}

impl Tower {
    /// Wraps a handler.
    #[must_use]
    pub fn new(handler: Arc<dyn Handler>) -> Self {
        Self { handler }
    }
}

impl std::fmt::Debug for Tower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tower").finish_non_exhaustive()
    }
}

impl<B> tower_service::Service<http::Request<B>> for Tower
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<crate::BoxError>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let handler = Arc::clone(&self.handler);
        let request = request.map(from_foreign);
        Box::pin(async move { Ok(handler.handle(request).await) })
    }
}
