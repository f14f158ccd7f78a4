//! MQTT with a client: the names that it connects with are replaced before a broker sees them (`mqtt`, `mqtt_set_connect`).
//!
//! Runs in the preread phase, after the modules that only look: it waits for the whole first message and puts another one
//! in its place; everything after it is passed on as it is. A broker refuses a second CONNECT (MQTT 5.0 §3.1), so no
//! client evades this. Touches: the session's first bytes. Bounded: one message by `mqtt_buffers`.
//! Behaviour: nginx.org, ngx_stream_mqtt_filter_module.

use crate::config::directive::{Accepted, accepted, custom, flag};
use crate::config::inherit::own;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, Setting, Word, params, settings};
use crate::log;
use crate::proto::mqtt::{self, Names};
use crate::runtime::buffer::Buffer;
use crate::script::Scope;
use crate::stream::config::compile::Cx;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::{Script, Variable};
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: Setting<bool> = false,
        buffers: Inherit<u64>,
        client_id: Inherit<Script> => own,
        username: Inherit<Script> => own,
        password: Inherit<Script> => own,
    }
}

/// `mqtt_buffers 100 1k`
const MESSAGE_BYTES_MAX: u64 = 100 * 1024;

const BOTH: Context = Context::IN_STREAM;
const SERVER: Context = Context::STREAM_SERVER;

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("mqtt", BOTH, |c| &mut c.is_on,
        "Requires that clients speak MQTT (3.1, 3.1.1 or 5.0): a session that does not begin with a CONNECT ends with status 400. mqtt_set_connect \
         changes it."),
    custom("mqtt_buffers", BOTH, Arity::exactly(2), buffers,
        "Limits a CONNECT, as it comes and as it is sent on, to so many buffers of this size. Memory is taken as needed.").default("100 1k"),
    accepted("mqtt_rewrite_buffer_size", SERVER, Arity::exactly(1), Accepted::Size, "mqtt_buffers limits a message instead, as in newer versions of nginx."),
    custom("mqtt_set_connect", SERVER, Arity::exactly(2), set_connect,
        "Sets a field of a client's CONNECT to a value, which may have variables: clientid, username or password. An empty value removes the user name or \
         the password. A password without a user name gets an empty one, as MQTT 3.1.1 demands."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

impl Conf {
    /// The longest CONNECT; `None`: the server has no `mqtt`.
    pub fn message_bytes_max(&self) -> Option<usize> {
        let most = usize::try_from(self.buffers.get(MESSAGE_BYTES_MAX)).unwrap_or(usize::MAX);
        self.is_on.get().then_some(most)
    }
}

fn buffers(conf: &mut Conf, _: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (count, size) = params::buffers(node)?;
    conf.buffers.put(count.saturating_mul(size), node)
}

fn set_connect(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let slot = match node.arg(0) {
        "clientid" => &mut conf.client_id,
        "username" => &mut conf.username,
        "password" => &mut conf.password,
        _ => return Err(params::invalid_value(node, 0, &["clientid", "username", "password"])),
    };
    let word: &Word = &node.args[1];
    if slot.set(Script::compile(word, cx)?, node.span) {
        return Ok(());
    }
    let message = format!("duplicate field \"{}\" in \"mqtt_set_connect\"", node.arg(0));
    Err(Diagnostic::error(node.arg_span(0), message))
}

pub fn preread(session: &mut Session) -> Verdict {
    let conf: &'static Conf = &session.server.confs.mqtt;
    let Some(bytes_max) = conf.message_bytes_max() else { return Verdict::Next };
    let message = match mqtt::message(session.preread.data(), bytes_max) {
        Ok(Some(message)) => message,
        Ok(None) => return Verdict::More,
        Err(error) => return refuse(session, error),
    };
    let value = |script: &Inherit<Script>, session: &mut Session| Some(script.as_ref()?.to_vec(session));
    let values = [&conf.client_id, &conf.username, &conf.password].map(|script| value(script, session));
    let [client_id, username, password] = &values;
    let names = Names {
        client_id: client_id.as_deref(),
        username: username.as_deref(),
        password: password.as_deref(),
    };
    if names == Names::default() {
        return Verdict::Next;
    }
    match mqtt::rewrite(&session.preread.data()[..message], &names, bytes_max) {
        Ok(mut bytes) => {
            bytes.extend_from_slice(&session.preread.data()[message..]);
            session.preread = Buffer::of(bytes);
            Verdict::Next
        }
        Err(error) => refuse(session, error),
    }
}

fn refuse(session: &Session, error: mqtt::Refusal) -> Verdict {
    let log = session.logger();
    match error {
        mqtt::Refusal::NotMqtt => log::info!(log, session, "client sent invalid MQTT CONNECT"),
        mqtt::Refusal::TooLong(bytes) => {
            log::error!(log, session, "MQTT CONNECT of {bytes} bytes is too long: raise \"mqtt_buffers\"");
        }
        mqtt::Refusal::LongValue => {
            log::error!(log, session, "a value of \"mqtt_set_connect\" is longer than 65535 bytes");
            return Verdict::Done(500);
        }
    }
    Verdict::Done(400)
}
