//! The decisions of a session's handlers.
//!
//! Pure data. A handler does not wait: the pipeline does (`pipeline.rs`).

/// The continuation after a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Next,
    /// More of the client's bytes are needed to decide; only in the preread phase.
    More,
    /// The session ends with this status.
    Done(u16),
}
