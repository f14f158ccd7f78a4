//! The modules' states for one request, and how its subrequests get them.
//!
//! Touches: the request. The table of modules makes one field of each state (`modules::States`), and asks it here
//! whenever a subrequest begins or ends.

use crate::http::request::Request;

/// What a module keeps of a request: the column `state` of the modules' table.
///
/// A request begins with the default. What a subrequest begins with is one of three:
///
/// - its own: the default, which is what this trait does of itself;
/// - lent: it goes to a subrequest that is made in its turn, for which the outer request waits, and comes back
///   ([`State::lend`], [`State::take_back`]);
/// - copied: also for one that runs beside the outer request, and may outlive it ([`State::copy`]).
pub trait State: Default {
    /// What a subrequest begins with that is made in its turn.
    fn lend(_outer: &mut Request) -> Self {
        Self::default()
    }

    /// Takes back what was lent, as the subrequest has left it.
    fn take_back(_outer: &mut Request, _inner: &mut Request) {}

    /// What a subrequest begins with that runs beside the outer request.
    fn copy(_outer: &Request) -> Self {
        Self::default()
    }

    /// Takes out what a tunnel keeps of it for the log; `None`: there is nothing to keep.
    fn park(&mut self) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::modules::States;
    use crate::http::tests::with_request;
    use crate::proto::header::Id;

    const SERVER: &str = "http { access_log off; server { listen 127.0.0.1:1; } }";

    #[test]
    fn what_is_lent_comes_back_and_the_rest_is_a_request_s_own() {
        with_request(SERVER, "/", |request| {
            request.states.ssi = Some(Box::default());
            request.states.limit_rate.told = 7.into();
            request.states.userid = Some(Box::default());
            let mut sub = request.sub(b"/sub".to_vec(), Vec::new());
            assert!(request.states.ssi.is_none() && sub.states.ssi.is_some());
            assert!(sub.states.userid.is_none() && sub.states.limit_rate.told.get().is_none());
            sub.states.limit_rate.told = 9.into();
            request.take_back(&mut sub);
            assert!(request.states.ssi.is_some() && sub.states.ssi.is_none());
            assert!(request.states.userid.is_some());
            assert_eq!(request.states.limit_rate.told.get(), Some(7));
        });
    }

    #[test]
    fn what_runs_beside_a_request_has_copies() {
        with_request(SERVER, "/", |request| {
            request.states.ssi = Some(Box::default());
            let ahead = request.sub_ahead(b"/sub".to_vec(), Vec::new());
            assert!(request.states.ssi.is_some() && ahead.states.ssi.is_some());
        });
    }

    #[test]
    fn a_part_of_an_answer_has_the_charset_of_the_whole() {
        with_request(SERVER, "/", |request| {
            request.response.headers.push_id(Id::ContentType, b"text/html; charset=koi8-r");
            let mut sub = request.sub(b"/sub".to_vec(), Vec::new());
            assert_eq!(sub.states.charset.told(), Some(&b"koi8-r"[..]));
            // the answer inside has a type of its own, which says nothing of the whole
            sub.response.headers.push_id(Id::ContentType, b"text/html; charset=utf-8");
            let inner = sub.sub(b"/inner".to_vec(), Vec::new());
            assert_eq!(inner.states.charset.told(), Some(&b"koi8-r"[..]));
        });
    }

    #[test]
    fn a_tunnel_keeps_what_the_log_may_show() {
        let mut states = States { ssi: Some(Box::default()), ..States::default() };
        assert!(states.park().is_none());
        states.userid = Some(Box::default());
        let parked = states.park().expect("a cookie");
        assert!(parked.userid.is_some() && parked.ssi.is_none());
    }

    #[test]
    fn states_fit_their_budget() {
        assert!(size_of::<States>() <= 96, "{}", size_of::<States>());
        assert!(size_of::<Request>() <= 1200, "{}", size_of::<Request>());
    }
}
