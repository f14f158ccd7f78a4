//! uwsgi to upstreams: every `uwsgi_…` directive except `uwsgi_pass`.
//!
//! Settings only. Those that other upstream protocols share are in `http/upstream/conf.rs`; the encoder is in
//! `http/upstream/uwsgi.rs`, the decoder in `http/upstream/cgi.rs`.
//! Behaviour: nginx.org, ngx_http_uwsgi_module.

use crate::config::inherit::replace;
use crate::config::{Inherit, Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::upstream::conf::{self, Family};
use crate::http::upstream::params::{self, Param};
use crate::http::upstream::rows::upstream_rows;
use crate::http::upstream::tls;
use crate::shared::tls::upstream_rows::Secures;

/// Fields of a response that are hidden from the client (nginx's list).
const HIDDEN: &[&str] =
    &["X-Accel-Expires", "X-Accel-Redirect", "X-Accel-Limit-Rate", "X-Accel-Buffering", "X-Accel-Charset"];

static FAMILY: Family = Family::of_applications("uwsgi_", HIDDEN);

settings! {
    /// The settings of one block: those of every family, and those specific to uwsgi.
    #[derive(Debug)]
    pub struct Conf {
        pub upstream: conf::Conf = &FAMILY,
        params: Vec<Param> => replace,
        modifier1: Setting<u64> = 0,
        modifier2: Setting<u64> = 0,
        string: Inherit<Box<str>>,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = upstream_rows!("uwsgi_", Conf, upstream, [relay, whole, tls], [
    custom("uwsgi_param", ANY, Arity::between(2, 3), |c, cx, node| params::push(&mut c.params, cx, node),
        "Sets a parameter of the request to the application. With if_not_empty it is sent only if its value is not empty."),
    number("uwsgi_modifier1", ANY, (0, 255), |c: &mut Conf| &mut c.modifier1,
        "Sets the first modifier of a packet, by which a uwsgi server chooses what handles the request."),
    number("uwsgi_modifier2", ANY, (0, 255), |c: &mut Conf| &mut c.modifier2, "Sets the second modifier of a packet."),
    custom("uwsgi_string", ANY, ONE, |c: &mut Conf, _, node| c.string.put(node.arg(0).into(), node),
        "Appends this text to the parameters of each request as it is, for applications that a modifier makes expect something else there."),
]);

pub static VARIABLES: &[Variable] = &[];

impl Conf {
    /// The parameters of requests.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The bytes that follow the parameters in a packet.
    pub fn string(&self) -> &[u8] {
        self.string.as_ref().map_or(b"", |text| text.as_bytes())
    }

    /// The modifiers of packets.
    pub fn modifiers(&self) -> (u8, u8) {
        (self.modifier1.get() as u8, self.modifier2.get() as u8)
    }
}

impl Secures for Conf {
    type Scope = Request;

    fn tls(&mut self) -> &mut tls::Settings {
        &mut self.upstream.set.tls
    }
}

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        self.upstream.freeze(cx);
    }
}
