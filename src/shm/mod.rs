//! Memory shared by master and workers: tables of atomics, mapped before the fork.

pub mod zone;

pub use self::zone::Zone;
