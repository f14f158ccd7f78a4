//! Requests: framing, routing, answers.

mod keepalive;
