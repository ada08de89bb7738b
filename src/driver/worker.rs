//! A resource that does one job at a time: while it works, the job owns it.

use std::task::{Context, Poll};

use crate::runtime::BoxFuture;

pub(super) enum Worker<T, O> {
    Busy(BoxFuture<'static, (T, O)>),
    Idle(T),
    /// Only while it passes from one to the other.
    Taken,
}

impl<T, O> Worker<T, O> {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle(_))
    }

    /// Starts a job; the worker must be idle.
    pub(super) fn start(&mut self, job: impl FnOnce(T) -> BoxFuture<'static, (T, O)>) {
        let Self::Idle(resource) = std::mem::replace(self, Self::Taken) else {
            unreachable!("only an idle worker is started");
        };
        *self = Self::Busy(job(resource));
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<O> {
        let Self::Busy(job) = self else { return Poll::Pending };
        job.as_mut().poll(cx).map(|(resource, done)| {
            *self = Self::Idle(resource);
            done
        })
    }
}
