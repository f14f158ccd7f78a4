//! Two futures in one place, polled by a plain function.
//!
//! Not a system call, but it needs a pin projection, which safe code can only avoid by storing each future
//! twice (an `async fn` keeps its argument as well as the pinned copy of it).

#![allow(unsafe_code)]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future made of two parts; `poll` receives both, pinned.
#[derive(Debug)]
#[must_use = "a future does nothing unless polled"]
pub struct Pair<A, B, F> {
    first: A,
    second: B,
    poll: F,
}

impl<A, B, F> Pair<A, B, F> {
    pub fn new<T>(first: A, second: B, poll: F) -> Self
    where
        F: FnMut(Pin<&mut A>, Pin<&mut B>, &mut Context<'_>) -> Poll<T>,
    {
        Self { first, second, poll }
    }
}

impl<A, B, F, T> Future for Pair<A, B, F>
where
    F: FnMut(Pin<&mut A>, Pin<&mut B>, &mut Context<'_>) -> Poll<T>,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // SAFETY: `first` and `second` are pinned with the whole: nothing moves them out, there is no Drop
        // impl, and Pair is Unpin only if both are (the automatic rule). `poll` is never pinned, so a plain
        // reference to it is sound.
        let (first, second, poll) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.first), Pin::new_unchecked(&mut this.second), &mut this.poll)
        };
        poll(first, second, cx)
    }
}
