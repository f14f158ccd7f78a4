//! The `stream` block: servers that pass connections of any protocol on.

mod balance;
mod ftp;
mod health;
mod modules;
mod mqtt;
mod pass;
mod peers;
mod pen;
mod preread;
mod proxy;
mod proxy_protocol;
mod reload;
mod session_drop;
mod tls;
mod udp;
mod udp_reload;
