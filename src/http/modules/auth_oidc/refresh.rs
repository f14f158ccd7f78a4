//! New tokens for a session whose access token has expired, by its refresh token.
//!
//! Exactly one worker takes the right to do so out of the shared memory; the requests of other workers go on with the old
//! tokens meanwhile. The work is a task of its own, so that a client that leaves does not lose the session.
//! Touches: the provider, the store of sessions. RFC 6749 §6; OpenID Connect Core 1.0 §12.

use super::flow::{self, Failure, enlist, verify};
use super::kept::Reach;
use super::provider::{Provider, named_in_log, wall_s};
use super::{know, store};
use crate::base::jose::{Token, Value};
use crate::http::request::Request;
use crate::http::verdict::{Call, Verdict};
use crate::log;
use crate::proto::oidc::Form;
use crate::proto::oidc::session::{Refresh, Session, named_session};
use crate::runtime::channel::oneshot;
use crate::runtime::spawn;

/// How long to wait after the provider has failed.
const RETRY_S: u32 = 30;

/// The outcome for a session.
enum Outcome {
    Renewed(Box<Session>),
    /// The provider refuses: the user has to log in again.
    Ended,
    /// The provider has failed: the session goes on until its own end.
    Later,
}

/// The right to refresh a session, if that is due and nobody else does so.
pub fn due(provider: &Provider, key: &store::Key, session: &Session) -> Option<Refresh> {
    let has_expired = session.expires_s != 0 && wall_s() >= session.expires_s;
    if has_expired { provider.store.take_right(key, provider.session_timeout_s) } else { None }
}

/// Refreshes a session, and continues with the new one.
pub fn refresh(
    request: &mut Request,
    provider: &'static Provider,
    (key, session): (store::Key, Session),
    right: Refresh,
) -> Verdict {
    let reach = Reach::of(request, provider);
    let (sender, receiver) = oneshot();
    spawn(async move {
        let outcome = renew(&reach, &key, session, right).await;
        let _ = sender.send(outcome);
    });
    Call::wait(async move {
        let outcome = receiver.recv().await.unwrap_or(Outcome::Later);
        Box::new(move |request: &mut Request| match outcome {
            Outcome::Renewed(session) => {
                know(request, provider, Some((key, *session)));
                Verdict::Granted
            }
            Outcome::Later => Verdict::Granted,
            Outcome::Ended => {
                know(request, provider, None);
                flow::begin(request, provider)
            }
        })
    })
}

/// Asks for new tokens, and keeps what comes of it.
async fn renew(reach: &Reach, key: &store::Key, session: Session, right: Refresh) -> Outcome {
    let (provider, log) = (reach.provider, reach.log);
    let name = named_in_log(provider);
    let asked = ask(reach, &session, &right).await;
    match asked {
        Ok((renewed, token)) => {
            // A session that has ended meanwhile, by a logout, stays ended.
            if provider.store.session(key, provider.session_timeout_s).is_none() {
                return Outcome::Ended;
            }
            let token = token.unwrap_or(right.token);
            let timeout_s = provider.session_timeout_s;
            if let Err(too_large) = provider.store.put(key, &renewed, Some(&token), timeout_s, log) {
                log::error!(log, &(), "a session of {} cannot be refreshed: {}", name, too_large);
                return Outcome::Later;
            }
            enlist(provider, key, &renewed, log);
            Outcome::Renewed(Box::new(renewed))
        }
        Err(Failure { status: 403, why }) => {
            log::info!(log, &(), "a session is not refreshed by {}: {}", name, why);
            provider.store.remove(key);
            Outcome::Ended
        }
        Err(Failure { why, .. }) => {
            log::error!(log, &(), "a session cannot be refreshed by {}: {}", name, why);
            let right = Refresh { not_before_s: store::now_s().saturating_add(RETRY_S), ..right };
            let _ = provider.store.put_right(key, &right, provider.session_timeout_s, log);
            Outcome::Later
        }
    }
}

/// Returns the new session, and the new refresh token if there is one.
async fn ask(
    reach: &Reach,
    session: &Session,
    right: &Refresh,
) -> Result<(Session, Option<String>), Failure> {
    let metadata = reach.metadata().await;
    let metadata = metadata.map_err(|why| Failure::faulty(format!("its metadata: {why}")))?;
    let form = Form::default().with("grant_type", "refresh_token").with("refresh_token", &right.token);
    let mut tokens = flow::tokens(reach, &metadata, form).await?;
    match &tokens.id {
        Some(id_token) => {
            let known = Token::parse(session.id_token.as_bytes()).ok();
            let subject = known.as_ref().and_then(|token| token.claims.get("sub")).and_then(Value::as_str);
            let checked = verify(reach, &metadata, id_token, (None, subject), tokens.access.as_deref());
            let (_, id_token) = checked.await?;
            tokens.id = Some(id_token);
        }
        // An answer without one changes nothing about who the user is.
        None => tokens.id = Some(session.id_token.clone()),
    }
    let token = tokens.refresh.take();
    if tokens.access.is_none() {
        return Err(Failure::faulty("its token endpoint gives no access token"));
    }
    let mut renewed = flow::session(reach.provider, tokens, session.userinfo.clone());
    if named_session(&renewed.id_token).is_none() {
        // A logout from the provider may name nothing else.
        renewed.sid = session.provider_session().unwrap_or_default();
    }
    Ok((renewed, token))
}
