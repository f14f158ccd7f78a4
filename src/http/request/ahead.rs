//! The pipe of a subrequest that runs ahead of its turn.
//!
//! It is in memory, between two tasks of one loop: the subrequest writes, and waits while [`HELD_BYTES_MAX`]
//! are held; the request that it becomes part of reads when its own body has got that far. Each end notices
//! when the other one is gone.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::http::downstream::Downstream;
use crate::http::request::error::Error;
use crate::runtime;

/// Maximum bytes that one subrequest may hold.
const HELD_BYTES_MAX: usize = 32 * 1024;
/// Bytes that are copied in a microsecond.
const COPIED_BYTES: usize = 4096;

#[derive(Debug, Default)]
struct Pipe {
    held: Vec<u8>,
    /// How the response ended.
    end: Option<Result<(), Error>>,
    has_left: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Waits for the reader to leave.
    watcher: Option<Waker>,
}

/// The writing end; the task of the subrequest keeps a second one to report how it ended.
#[derive(Clone, Debug)]
pub struct Sink(Rc<RefCell<Pipe>>);

/// The reading end. Dropping it ends the subrequest.
#[derive(Debug)]
pub struct Source(Rc<RefCell<Pipe>>);

pub fn pipe() -> (Sink, Source) {
    let pipe = Rc::default();
    (Sink(Rc::clone(&pipe)), Source(pipe))
}

impl Sink {
    /// Passes bytes on; waits until there is room for all of them. Errors: the reader is gone.
    pub async fn write(&self, mut data: &[u8]) -> Result<(), Error> {
        poll_fn(|cx| self.poll_write(cx, &mut data)).await?;
        runtime::worked(0).await; // the reader may keep up, so that writing never waits: yield here
        Ok(())
    }

    fn poll_write(&self, cx: &mut Context<'_>, data: &mut &[u8]) -> Poll<Result<(), Error>> {
        let mut pipe = self.0.borrow_mut();
        if pipe.has_left {
            return Poll::Ready(Err(Error::left()));
        }
        let (now, later) = data.split_at(data.len().min(HELD_BYTES_MAX.saturating_sub(pipe.held.len())));
        pipe.held.extend_from_slice(now);
        runtime::charge(1 + (now.len() / COPIED_BYTES) as u32);
        *data = later;
        let reader = pipe.reader.take_if(|_| !now.is_empty());
        let polled = match later {
            b"" => Poll::Ready(Ok(())),
            _ => {
                pipe.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        };
        drop(pipe);
        wake(reader);
        polled
    }

    /// Reports how the response ended.
    pub fn end(&self, outcome: Result<(), Error>) {
        let mut pipe = self.0.borrow_mut();
        pipe.end = Some(outcome);
        let reader = pipe.reader.take();
        drop(pipe);
        wake(reader);
    }

    /// Ready when the reader is gone.
    pub async fn left(&self) {
        poll_fn(|cx| {
            let mut pipe = self.0.borrow_mut();
            if pipe.has_left {
                return Poll::Ready(());
            }
            pipe.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Source {
    /// The next bytes; `None` at the end. Errors: the response broke off, or the client has gone.
    pub async fn read(&self, client: Downstream<'_>) -> Result<Option<Vec<u8>>, Error> {
        poll_fn(|cx| {
            let polled = self.poll_read(cx);
            if polled.is_pending() && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Error::left()));
            }
            polled
        })
        .await
    }

    fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Error>> {
        let mut pipe = self.0.borrow_mut();
        if !pipe.held.is_empty() {
            let data = std::mem::take(&mut pipe.held);
            let writer = pipe.writer.take();
            drop(pipe);
            wake(writer);
            return Poll::Ready(Ok(Some(data)));
        }
        match pipe.end.take() {
            Some(outcome) => {
                pipe.end = Some(Ok(()));
                Poll::Ready(outcome.map(|()| None))
            }
            None => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut pipe = self.0.borrow_mut();
        pipe.has_left = true;
        pipe.held = Vec::new();
        let (writer, watcher) = (pipe.writer.take(), pipe.watcher.take());
        drop(pipe);
        wake(writer);
        wake(watcher);
    }
}

/// No cell may be borrowed here: this calls into the runtime.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Runtime, spawn};

    #[test]
    fn bytes_wait_for_their_reader_and_for_room() {
        Runtime::new().unwrap().block_on(async {
            let (sink, source) = pipe();
            let writer = sink.clone();
            spawn(async move {
                for _ in 0..10 {
                    writer.write(&[b'x'; 10_000]).await.unwrap();
                }
                writer.end(Ok(()));
            });
            let (client, mut count) = (Downstream::Nobody, 0);
            while let Some(data) = source.read(client).await.unwrap() {
                assert!(data.len() <= HELD_BYTES_MAX);
                count += data.len();
            }
            assert_eq!(count, 100_000);
            assert!(source.read(client).await.unwrap().is_none());
        });
    }

    #[test]
    fn each_end_hears_of_the_other_s() {
        Runtime::new().unwrap().block_on(async {
            let (sink, source) = pipe();
            sink.write(b"half").await.unwrap();
            sink.end(Err(Error::ours("broken")));
            let client = Downstream::Nobody;
            assert_eq!(source.read(client).await.unwrap().unwrap(), b"half");
            assert!(source.read(client).await.is_err());
            drop(source);
            sink.left().await;
            assert!(sink.write(b"more").await.is_err());
        });
    }
}
