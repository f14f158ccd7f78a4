//! The record of a session in the memory that workers share.
//!
//! ```text
//! version: u8 | provider, 32 | expires_s: u64 | id token | access token | UserInfo | sid   (each with its length, u32)
//! refresh: version: u8 | not_before_s: u32 | refresh token
//! list of a provider's session (`sid`), or of a user (`sub`): keys of sessions, 32 bytes each
//! ```
//! `sid` is there only if it is not empty.
//! A hostile worker can write there: a record that is malformed is none. Touches: nothing.

use crate::base::frame::{Fields, put_vector32};
use crate::base::jose::{Token, Value};

const VERSION: u8 = 1;
/// The most sessions here that belong to one session at the provider, or to one user; the oldest makes room, and ends.
pub const OF_ONE_MAX: usize = 64;

/// A user who has logged in.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The digest of the provider and its settings: a session of another one is none.
    pub provider: [u8; 32],
    /// When the access token expires, in seconds since 1970; 0: nobody has said.
    pub expires_s: u64,
    pub id_token: String,
    pub access_token: String,
    /// JSON; empty: it was not asked for.
    pub userinfo: String,
    /// The session at the provider, if an earlier ID token has named it and this one does not; otherwise empty.
    pub sid: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Session")
    }
}

impl Session {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.provider);
        out.extend_from_slice(&self.expires_s.to_le_bytes());
        let sid = (!self.sid.is_empty()).then_some(&self.sid);
        for text in [&self.id_token, &self.access_token, &self.userinfo].into_iter().chain(sid) {
            put_vector32(&mut out, text.as_bytes());
        }
        out
    }

    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u8()? != VERSION {
            return None;
        }
        let (provider, rest) = fields.0.split_first_chunk::<32>()?;
        fields.0 = rest;
        let expires_s = fields.u64()?;
        let (id_token, access_token) = (text_of(&mut fields)?, text_of(&mut fields)?);
        let userinfo = text_of(&mut fields)?;
        let sid = if fields.0.is_empty() { String::new() } else { text_of(&mut fields)? };
        fields.0.is_empty().then_some(Self {
            provider: *provider,
            expires_s,
            id_token,
            access_token,
            userinfo,
            sid,
        })
    }

    /// The session at the provider (`sid`) that its ID tokens have named; `None`: none of them has.
    pub fn provider_session(&self) -> Option<String> {
        let kept = || (!self.sid.is_empty()).then(|| self.sid.clone());
        named_session(&self.id_token).or_else(kept)
    }
}

fn text_of(fields: &mut Fields<'_>) -> Option<String> {
    String::from_utf8(fields.vector32()?.to_vec()).ok()
}

/// The session at the provider that an ID token names.
pub fn named_session(id_token: &str) -> Option<String> {
    let token = Token::parse(id_token.as_bytes()).ok()?;
    token.claims.get("sid").and_then(Value::as_str).map(str::to_owned)
}

/// The right to refresh a session: it is taken out of the shared memory by the one worker that does so.
#[derive(Clone, PartialEq, Eq)]
pub struct Refresh {
    /// Not to be used before, on the monotonic clock, since the provider has just failed.
    pub not_before_s: u32,
    pub token: String,
}

impl std::fmt::Debug for Refresh {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Refresh")
    }
}

impl Refresh {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.not_before_s.to_le_bytes());
        put_vector32(&mut out, self.token.as_bytes());
        out
    }

    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.u8()? != VERSION {
            return None;
        }
        let not_before_s = fields.u32()?;
        let token = String::from_utf8(fields.vector32()?.to_vec()).ok()?;
        fields.0.is_empty().then_some(Self { not_before_s, token })
    }
}

/// The list with one more session, which comes first, and those that have no room in it: they must end, as a logout would not
/// reach them. `is_live`: the session is there still. It is asked only when the list is full.
pub fn listed(list: &[u8], key: &[u8; 32], is_live: impl Fn(&[u8; 32]) -> bool) -> (Vec<u8>, Vec<[u8; 32]>) {
    let mut all = vec![*key];
    all.extend(list.as_chunks::<32>().0.iter().filter(|other| *other != key));
    if all.len() > OF_ONE_MAX {
        all.retain(|other| other == key || is_live(other));
    }
    let surplus = all.split_off(all.len().min(OF_ONE_MAX));
    (all.concat(), surplus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_or_not_at_all() {
        let session = Session {
            provider: [7; 32],
            expires_s: 9,
            id_token: "a.b.c".into(),
            access_token: String::new(),
            userinfo: "{}".into(),
            sid: String::new(),
        };
        let bytes = session.to_bytes();
        assert_eq!(Session::of(&bytes).as_ref(), Some(&session));
        let named = Session { sid: "s".into(), ..session };
        let longer = named.to_bytes();
        assert_eq!((&longer[..bytes.len()], Session::of(&longer)), (&bytes[..], Some(named)));
        for end in bytes.len() + 1..longer.len() {
            assert_eq!(Session::of(&longer[..end]), None);
        }
        let refresh = Refresh { not_before_s: 3, token: "r".into() };
        assert_eq!(Refresh::of(&refresh.to_bytes()), Some(refresh));
        for end in 0..bytes.len() {
            assert_eq!(Session::of(&bytes[..end]), None);
        }
        assert_eq!(Session::of(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(Session::of(&[2; 100]), None);
    }

    #[test]
    fn a_list_has_each_session_once_and_not_too_many() {
        let mut list = Vec::new();
        for number in 0..OF_ONE_MAX as u8 {
            let (longer, surplus) = listed(&list, &[number; 32], |_| unreachable!("there is room"));
            assert_eq!(surplus, Vec::<[u8; 32]>::new());
            list = longer;
        }
        assert_eq!((list.len(), &list[..32]), (32 * OF_ONE_MAX, &[63; 32][..]));
        assert_eq!(listed(&list, &[63; 32], |_| true), (list.clone(), Vec::new()));
        let (longer, surplus) = listed(&list, &[99; 32], |_| true);
        assert_eq!((longer.len(), &longer[..32]), (32 * OF_ONE_MAX, &[99; 32][..]));
        assert_eq!(surplus, [[0; 32]], "the oldest");
        let (pruned, surplus) = listed(&list, &[99; 32], |other| other[0] < 3);
        assert_eq!((pruned.len(), surplus.len()), (4 * 32, 0), "those that have ended make room first");
    }
}
