//! An image of one transparent pixel: `empty_gif`.
//!
//! Runs in the content phase. Touches: nothing.
//! Behaviour: nginx.org, ngx_http_empty_gif_module; GIF89a.

use std::borrow::Cow;

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::response::{Body, Response};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::proto::header::Id;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: bool => own,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("empty_gif", Context::LOCATION, Arity::exactly(0), empty_gif, "Responds with an image of one transparent pixel."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    const INHERITS: bool = false; // it is the content of its own block only
    const INHERITS_NAMELESS: bool = true;

    fn acts(&self) -> bool {
        self.is_on
    }
}

fn empty_gif(conf: &mut Conf, _: &mut Cx, _: &Node) -> Result<(), Diagnostic> {
    conf.is_on = true;
    Ok(())
}

const PIXEL: &[u8] = b"GIF89a\
    \x01\x00\x01\x00\x80\x01\x00\
    \x00\x00\x00\xff\xff\xff\
    \x21\xf9\x04\x01\x00\x00\x01\x00\
    \x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\
    \x02\x02\x4c\x01\x00\x3b";

/// The `Last-Modified` that nginx sends.
const MODIFIED: &[u8] = b"Mon, 28 Sep 1970 06:00:00 GMT";

pub fn content(request: &mut Request) -> Verdict {
    if !request.method.is_get_or_head() {
        return Verdict::Done(Reply::Status(405));
    }
    let mut response = Response::with_type(200, b"image/gif");
    response.headers.push_id(Id::LastModified, MODIFIED);
    response.first = Some(Id::LastModified);
    Verdict::Done(Reply::Response(Box::new(response), Body::Bytes(Cow::Borrowed(PIXEL))))
}
