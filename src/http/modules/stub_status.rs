//! The page of seven numbers about all workers (`stub_status`).
//!
//! Runs in the content phase. Touches: shared memory.
//! Behaviour: nginx.org, ngx_http_stub_status_module.

use std::io::Write;

use crate::config::directive::custom;
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Node, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::script::variable::variable;
use crate::shm::counter::{Total, total};
use crate::shm::heartbeat;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: bool => own,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("stub_status", Context::SERVER.or(Context::LOCATION), Arity::between(0, 1), stub_status,
        "Responds with the connection and request counts of all workers."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("connections_active", |_, _, out| write!(out, "{}", total(Total::Active)).is_ok(),
        "The number of client connections of all workers, including idle ones."),
    variable("connections_reading", |_, _, out| write!(out, "{}", total(Total::Reading)).is_ok(),
        "The number of connections whose request head is being read."),
    variable("connections_writing", |_, _, out| write!(out, "{}", total(Total::Writing)).is_ok(), "The number of connections whose request is being answered."),
    variable("connections_waiting", |_, _, out| write!(out, "{}", total(Total::Waiting)).is_ok(),
        "The number of idle connections, which wait for their next request."),
    // not shown on the page, which other programs parse
    variable("connections_reused", |_, _, out| write!(out, "{}", total(Total::Reused)).is_ok(),
        "The number of idle connections that were asked to close because others needed their places."),
    variable("longest_turn", |_, _, out| { let ms = heartbeat::longest_turn_us() / 1000; write!(out, "{}.{:03}", ms / 1000, ms % 1000).is_ok() },
        "The longest turn of the event loop in any running worker since its start, in seconds with milliseconds. The other connections of that worker had to \
         wait that long."),
    variable("memory_drawn", |_, _, out| write!(out, "{}", total(Total::Drawn)).is_ok(),
        "The bytes of memory that the requests of all workers currently draw from their budgets."),
    variable("memory_degraded", |_, _, out| write!(out, "{}", total(Total::Degraded)).is_ok(),
        "The number of requests of all workers that had to make do with less memory (worker_memory_budget)."),
];

impl BlockConf for Conf {
    const INHERITS: bool = false; // it is the content of its own block only
    const INHERITS_NAMELESS: bool = true;

    fn acts(&self) -> bool {
        self.is_on
    }
}

fn stub_status(conf: &mut Conf, _: &mut Cx, _: &Node) -> Result<(), Diagnostic> {
    conf.is_on = true;
    Ok(())
}

pub fn content(request: &mut Request) -> Verdict {
    if !request.location.confs.stub_status.is_on {
        return Verdict::Next;
    }
    if !request.method.is_get_or_head() {
        return Verdict::Done(Reply::Status(405));
    }
    let [accepted, handled, requests, active, reading, writing, waiting, _] = Total::ALL.map(total);
    let page = format!(
        "Active connections: {active} \nserver accepts handled requests\n {accepted} {handled} {requests} \n\
         Reading: {reading} Writing: {writing} Waiting: {waiting} \n"
    );
    Verdict::Done(Reply::text(200, b"text/plain", page.into_bytes()))
}
