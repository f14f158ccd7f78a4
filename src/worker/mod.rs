//! A worker process, after the fork. Never creates a listener.
