//! Groups of peers: who is picked, who has failed, which connections are kept.
