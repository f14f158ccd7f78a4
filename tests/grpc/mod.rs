//! gRPC, and HTTP/2 to upstreams underneath it.

mod calls;
mod hostile;
mod sharing;
