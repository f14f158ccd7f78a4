//! memcached as an upstream: every `memcached_…` directive except `memcached_pass`, and what becomes of its replies.
//!
//! Those that other upstream protocols share are in `http/upstream/conf.rs`; the codec is in
//! `http/upstream/memcached.rs`. Touches: nothing.
//! Behaviour: nginx.org, ngx_http_memcached_module.

use crate::config::{Setting, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::scope::Variable;
use crate::http::upstream::conf::{self, Family};
use crate::http::upstream::rows::upstream_rows;
use crate::log;
use crate::proto::header::Id;

static FAMILY: Family = Family::of_caches("memcached_");

settings! {
    /// The settings of one block: those of every family, and those specific to memcached.
    #[derive(Debug)]
    pub struct Conf {
        pub upstream: conf::Conf = &FAMILY,
        /// 0: no flag.
        gzip_flag: Setting<u64> = 0,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = upstream_rows!("memcached_", Conf, upstream, [], [
    number("memcached_gzip_flag", ANY, (0, u32::MAX as u64), |c: &mut Conf| &mut c.gzip_flag,
        "Sets the flag of values that are compressed by gzip: responses get Content-Encoding: gzip. 0: none are."),
]);

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn freeze(&mut self, cx: &mut Cx) {
        self.upstream.freeze(cx);
    }
}

/// Adds what a value does not say: its type, as that of a file, and its coding.
#[cold]
pub fn describe(request: &Request, response: &mut Response, flags: u32) {
    response.headers.push_id(Id::ContentType, &request.content_type());
    let gzip_flag = request.location.confs.memcached.gzip_flag.get();
    if u64::from(flags) & gzip_flag != 0 {
        response.headers.push_id(Id::ContentEncoding, b"gzip");
    }
}

/// Logs that there is no value.
#[cold]
pub fn tell_missing(request: &mut Request) {
    let key =
        request.location.confs.proxy_pass.key().map(|script| script.to_vec(request)).unwrap_or_default();
    let key = log::Text(&key);
    log::debug!(request.error_log(), &*request, "key: \"{key}\" was not found by memcached");
}
