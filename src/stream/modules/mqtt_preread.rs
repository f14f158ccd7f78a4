//! The names that an MQTT client connects with (`mqtt_preread`).
//!
//! Runs in the preread phase. Touches: the session's first bytes, which are passed on unchanged.
//! Behaviour: nginx.org, ngx_stream_mqtt_preread_module.

use crate::base::frame::{Fields, put_vector16};
use crate::config::directive::flag;
use crate::config::{Context, Setting, settings};
use crate::proto::mqtt::{self, Connect};
use crate::script::variable::variable;
use crate::stream::modules::{BlockConf, Directive};
use crate::stream::scope::Variable;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        is_on: Setting<bool> = false,
    }
}

/// The names of the client; `None`: it does not speak MQTT, or was not listened to.
#[derive(Debug, Default)]
pub struct State {
    connect: Option<Box<Connect>>,
    is_read: bool,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("mqtt_preread", Context::IN_STREAM, |c| &mut c.is_on,
        "Reads the first message of an MQTT client, for $mqtt_preread_clientid and $mqtt_preread_username, and passes it on unchanged. \
         Another protocol is passed on too."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("mqtt_preread_clientid", |s, _, out| name(s, out, |connect| Some(&connect.client_id)), "The id that an MQTT client connects with."),
    variable("mqtt_preread_username", |s, _, out| name(s, out, |connect| connect.username.as_deref()), "The user name that an MQTT client connects with."),
];

impl BlockConf for Conf {}

pub fn preread(session: &mut Session) -> Verdict {
    let state = &session.states.mqtt_preread;
    if !session.server.confs.mqtt_preread.is_on.get() || state.is_read {
        return Verdict::Next;
    }
    let connect = match mqtt::parse(session.preread.data()) {
        Ok(None) => return Verdict::More,
        Ok(Some(connect)) => Some(Box::new(connect)),
        // Another protocol: the session goes on without the variables.
        Err(mqtt::NotMqtt) => None,
    };
    session.states.mqtt_preread = State { connect, is_read: true };
    Verdict::Next
}

/// Appends the names for another process.
pub fn save(session: &Session, out: &mut Vec<u8>) {
    let connect = session.states.mqtt_preread.connect.as_deref();
    out.push(connect.map_or(0, |connect| connect.level));
    put_vector16(out, connect.map_or(&[], |connect| &connect.client_id));
    let username = connect.and_then(|connect| connect.username.as_deref());
    out.push(u8::from(username.is_some()));
    put_vector16(out, username.unwrap_or_default());
}

/// Goes on with a session whose client another process has listened to. `None`: the bytes are something else.
pub fn restore(session: &mut Session, fields: &mut Fields<'_>) -> Option<()> {
    let (level, client_id) = (fields.u8()?, fields.vector16()?.into());
    let (has_username, username) = (fields.flag()?, fields.vector16()?);
    let username = has_username.then(|| username.into());
    let connect = (level > 0).then(|| Box::new(Connect { level, client_id, username }));
    session.states.mqtt_preread = State { connect, is_read: true };
    Some(())
}

fn name(session: &Session, out: &mut Vec<u8>, name: impl FnOnce(&Connect) -> Option<&[u8]>) -> bool {
    let Some(name) = session.states.mqtt_preread.connect.as_deref().and_then(name) else { return false };
    out.extend_from_slice(name);
    true
}
