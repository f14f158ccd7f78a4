//! Sockets as the proxy uses them: addresses, connecting, connections as the protocols see them, their number
//! and which of them give way to others, draining, and the memory that requests share.

pub mod acme;
pub mod address;
pub mod budget;
pub mod clients;
pub mod connect;
pub mod datagram;
pub mod drain;
pub mod fetch;
pub mod handover;
pub mod linger;
pub mod listener;
pub mod lookup;
pub mod newcomer;
pub mod open;
pub mod pace;
pub mod proxy_header;
pub mod quic;
pub mod resolv_conf;
pub mod resolver;
pub mod room;
pub mod tls;
pub mod transport;
pub mod tunnel;

pub use address::Address;
pub use transport::Transport;
