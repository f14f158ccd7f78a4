//! The host name of an SMTP client, which the authentication server and XCLIENT are told.
//!
//! It counts only if it leads back to the client's address. Touches: the name servers of `resolver`; without them no name is looked
//! up. Behaviour: nginx.org, ngx_mail_core_module (`resolver`).

use crate::log;
use crate::mail::service::Service;
use crate::mail::session::Session;
use crate::net::resolver::Failure;
use crate::proto::dns::{Code, Name};
use crate::script::Scope;

/// In the place of a name: there is none.
pub const UNAVAILABLE: &str = "[UNAVAILABLE]";
/// There may be one, but it could not be found out now.
pub const TEMPORARILY: &str = "[TEMPUNAVAIL]";

/// Finds the name of a session's client.
pub async fn find(service: Service, session: &mut Session) -> Box<str> {
    let conf = &session.server.confs.resolver;
    let Some(settings) = conf.settings() else { return UNAVAILABLE.into() };
    let Some(ip) = session.peer.ip() else { return TEMPORARILY.into() };
    let timeout_ms = conf.servers.timeout_ms();
    let resolver = service.resolvers().get(settings);
    session.action = "in resolving client address";
    let name = match resolver.host(ip, timeout_ms).await {
        Ok(name) => name,
        Err(failure) => {
            log::error!(session.logger(), &*session, "{ip} could not be resolved {failure}");
            return instead(failure).into();
        }
    };
    if !is_host(&name) {
        log::error!(session.logger(), &*session, "{ip} resolved to invalid host name \"{name}\"");
        return TEMPORARILY.into();
    }
    let name = name.to_string();
    session.action = "in resolving client hostname";
    match resolver.addresses(&name, timeout_ms).await {
        Ok(found) if found.list.contains(&ip) => name.into(),
        Ok(_) => UNAVAILABLE.into(),
        Err(failure) => {
            log::error!(session.logger(), &*session, "\"{name}\" could not be resolved {failure}");
            instead(failure).into()
        }
    }
}

fn instead(failure: Failure) -> &'static str {
    if matches!(failure, Failure::Code(Code::NotFound)) { UNAVAILABLE } else { TEMPORARILY }
}

/// True if a name has only letters, digits, dashes and dots (RFC 1034 §3.5).
fn is_host(name: &Name) -> bool {
    name.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_hosts_count() {
        let is_host = |text: &str| is_host(&Name::new(text.as_bytes()).expect("a name"));
        assert!(is_host("mail-1.example.com"));
        assert!(!is_host("a_b.example.com") && !is_host("a b.example.com") && !is_host("a\r\nb"));
    }

    #[test]
    fn a_failure_that_may_pass_is_another_word() {
        assert_eq!(instead(Failure::Code(Code::NotFound)), UNAVAILABLE);
        for failure in [Failure::TimedOut, Failure::Busy, Failure::Code(Code::Server), Failure::BadName] {
            assert_eq!(instead(failure), TEMPORARILY);
        }
    }
}
