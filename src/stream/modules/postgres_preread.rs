//! The user and the database that a client of PostgreSQL asks for (`postgres_preread`).
//!
//! Runs in the preread phase. Touches: the session's first bytes, which are passed on unchanged.
//! Behaviour: that of `ssl_preread`; the directive is ours.

use crate::base::frame::{Fields, put_vector16};
use crate::config::directive::flag;
use crate::config::{Context, Setting, settings};
use crate::proto::postgres::{self, First, Startup};
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

/// The names of the client; `None`: it has named nobody, or was not listened to.
#[derive(Debug, Default)]
pub struct State {
    startup: Option<Box<Startup>>,
    is_read: bool,
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    flag("postgres_preread", Context::IN_STREAM, |c| &mut c.is_on,
        "Reads the first message of a client of PostgreSQL, for $postgres_preread_user and $postgres_preread_database, and passes it on \
         unchanged. A client that first asks for encryption is passed on without them, and the server answers it. \
         Another protocol is passed on too."),
];

#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("postgres_preread_user", |s, _, out| name(s, out, |startup| &startup.user), "The user that a client of PostgreSQL connects as."),
    variable("postgres_preread_database", |s, _, out| name(s, out, |startup| &startup.database),
        "The database that a client of PostgreSQL asks for; that of its user's name if it names none."),
];

impl BlockConf for Conf {}

pub fn preread(session: &mut Session) -> Verdict {
    let state = &session.states.postgres_preread;
    if !session.server.confs.postgres_preread.is_on.get() || state.is_read {
        return Verdict::Next;
    }
    let startup = match postgres::parse(session.preread.data()) {
        Ok(None) => return Verdict::More,
        Ok(Some(First::Startup(startup))) => Some(Box::new(startup)),
        // The client waits for an answer, which is the server's, or speaks another protocol.
        Ok(Some(First::Request)) | Err(postgres::NotPostgres) => None,
    };
    session.states.postgres_preread = State { startup, is_read: true };
    Verdict::Next
}

/// Appends the names for another process.
pub fn save(session: &Session, out: &mut Vec<u8>) {
    let startup = session.states.postgres_preread.startup.as_deref();
    put_vector16(out, startup.map_or(&[], |startup| &startup.user));
    put_vector16(out, startup.map_or(&[], |startup| &startup.database));
}

/// Goes on with a session whose client another process has listened to. `None`: the bytes are something else.
pub fn restore(session: &mut Session, fields: &mut Fields<'_>) -> Option<()> {
    let (user, database) = (fields.vector16()?, fields.vector16()?);
    let startup =
        (!user.is_empty()).then(|| Box::new(Startup { user: user.into(), database: database.into() }));
    session.states.postgres_preread = State { startup, is_read: true };
    Some(())
}

fn name(session: &Session, out: &mut Vec<u8>, name: impl FnOnce(&Startup) -> &[u8]) -> bool {
    let Some(startup) = session.states.postgres_preread.startup.as_deref() else { return false };
    out.extend_from_slice(name(startup));
    true
}
