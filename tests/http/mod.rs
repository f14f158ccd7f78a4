//! Requests: framing, routing, answers.

mod access;
mod access_log;
mod add_header;
mod body;
mod conditions;
pub mod configurations;
mod error_page;
mod framing;
mod keepalive;
mod limit_conn;
mod limit_rate;
mod limit_req;
mod limits;
mod listen;
mod location;
mod proxy_protocol;
mod returns;
mod rewrite;
mod root;
mod server_name;
mod slow;
mod ssi;
mod stub_status;
mod termination;
mod userid;
mod variables;
