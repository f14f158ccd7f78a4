//! Groups of upstream servers: choosing the next peer, keeping connections, and trying again after a fault.
//!
//! Speaks no protocol: the rooms above bring a request, and this one returns a peer or a connection to it.
//!
//! ```text
//! configuration (plain data, made by the master)    block → groups → group
//! one worker (made after the fork)                  worker → state → peer → load, timing; pool, links → link; follow, unresolved: names
//! one request                                       session → balance; trace: its record
//! the prober (one process for all workers)          prober: checks; check: their rules; talk, agent: probes over plain connections
//! spans of traced requests (one task of a worker)   otlp: batches; otlp/call: on a link
//! all processes (words in shared memory)            shm/peers.rs, sticky → shm/affinity.rs
//! ```

pub mod agent;
pub mod balance;
pub mod block;
pub mod budget;
pub mod check;
pub mod edits;
pub mod fault;
pub mod follow;
pub mod group;
pub mod groups;
pub mod known;
pub mod link;
pub mod links;
pub mod load;
pub mod otlp;
pub mod outlier;
pub mod peer;
pub mod pool;
pub mod prober;
pub mod session;
pub mod state;
pub mod state_file;
pub mod sticky;
mod succession;
pub mod talk;
pub mod timing;
pub mod trace;
mod turns;
pub mod unresolved;
pub mod waiting;
pub mod worker;

pub use block::Block;
pub use fault::{Fault, Faults};
pub use group::Group;
pub use groups::Groups;
pub use peer::{Peer, Server};
pub use session::{Outcome, Resting, Session};
pub use state::GroupState;
pub use trace::Trace;
pub use worker::Upstreams;
