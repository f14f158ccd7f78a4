//! Backends: choosing, reusing, retrying, relaying.

mod proxy_pass;
