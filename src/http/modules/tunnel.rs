//! Tunnels for clients that ask for them by CONNECT: every `tunnel_…` directive except `tunnel_pass`.
//!
//! Those that upstream protocols share are in `http/upstream/conf.rs`; a tunnel is one like that of a WebSocket
//! (`http/tunnel.rs`), which begins as soon as its peer is connected. Touches: nothing.
//! Behaviour: nginx.org, ngx_http_tunnel_module.

use crate::config::settings;
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::scope::Variable;
use crate::http::upstream::conf::{self, Family};
use crate::http::upstream::rows::upstream_rows;

static FAMILY: Family = Family::of_tunnels("tunnel_");

settings! {
    #[derive(Debug)]
    pub struct Conf {
        pub upstream: conf::Conf = &FAMILY,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = upstream_rows!("tunnel_", Conf, upstream, [], [
    accepted("tunnel_send_lowat", ANY, ONE, Accepted::Size, "Data is never held back to fill a packet.").default("0"),
]);

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        self.upstream.freeze(cx);
    }
}
