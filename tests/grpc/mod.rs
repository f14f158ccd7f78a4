//! gRPC, and HTTP/2 to upstreams underneath it.

mod calls;
mod health;
mod hostile;
mod sharing;
