//! Backends: choosing, reusing, retrying, relaying.

mod balance;
mod buffering;
mod disconnect;
mod fail;
mod failover;
mod hold;
mod hops;
mod keepalive;
mod max_conns;
mod proxy_bind;
mod proxy_pass;
mod proxy_set_header;
mod ranges;
mod relay;
mod request_body;
mod resolve;
mod resolver;
mod response_framing;
mod response_head;
mod sockets;
mod store;
mod timeout_total;
mod tls;
mod trailers;
mod tunnel;
mod variables;
