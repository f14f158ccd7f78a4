//! Memory shared by master and workers: tables of atomics, mapped before the fork.
