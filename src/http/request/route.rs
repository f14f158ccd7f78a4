//! How a request has come to its location: rewriting, internal redirects, and what they leave behind.
//!
//! Values. Behaviour: nginx.org, ngx_http_rewrite_module, ngx_http_core_module (`internal`, `try_files`, `error_page`).

use crate::config::Span;

/// A request's way from its target to the location in force.
#[derive(Debug, Default)]
pub struct Route {
    pub rewriting: Rewriting,
    /// It came from `error_page`, `try_files` or another internal redirect.
    pub is_internal: bool,
    /// Changes of the path so far.
    pub redirects: u8,
    /// `try_files` found a file below the `alias` of a regular expression.
    pub adds_uri_to_alias: bool,
    /// An `if` without the location's `proxy_pass` is in force after one that had it.
    pub left_proxy: bool,
    /// The directive that led it here from another path; `None`: a directive of the location.
    pub led_by: Option<Span>,
}

/// Maximum number of internal redirects of a request, after which it counts as a loop; nginx's limit.
pub const INTERNAL_REDIRECTS_MAX: u8 = 10;

impl Route {
    /// Counts a change of the path; false: it was one too many.
    pub fn count_redirect(&mut self) -> bool {
        self.redirects = self.redirects.saturating_add(1);
        self.redirects <= INTERNAL_REDIRECTS_MAX
    }

    /// The path may not change any more.
    pub fn is_spent(&self) -> bool {
        self.redirects > INTERNAL_REDIRECTS_MAX
    }

    /// A location is searched for by the path as it is now.
    pub fn search(&mut self) {
        self.rewriting = self.rewriting.searched();
        (self.left_proxy, self.adds_uri_to_alias) = (false, false);
    }

    /// A named location is in force, whatever the path is.
    pub fn enter_named(&mut self) {
        self.rewriting = self.rewriting.searched();
        (self.is_internal, self.left_proxy) = (true, false);
    }

    /// Another path takes the place of the request's, and its way begins anew.
    pub fn redirect(&mut self) {
        self.rewriting = self.rewriting.redirected();
        (self.is_internal, self.adds_uri_to_alias) = (true, false);
    }
}

/// How a request's path relates to the one that the client sent, and to the location in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rewriting {
    /// The path is the client's: `proxy_pass` may forward it as it came.
    #[default]
    Original,
    /// It was replaced. `left_location`: a `break` has ended the rewriting, and the path is no longer the one that found
    /// the location.
    Replaced { left_location: bool },
    /// A `rewrite` has replaced it, and the search for a location begins anew after the phase.
    Pending { left_location: bool },
}

impl Rewriting {
    pub fn is_original(self) -> bool {
        self == Self::Original
    }

    pub fn is_pending(self) -> bool {
        matches!(self, Self::Pending { .. })
    }

    pub fn left_location(self) -> bool {
        match self {
            Self::Original => false,
            Self::Replaced { left_location } | Self::Pending { left_location } => left_location,
        }
    }

    /// The path is another one, or written in another way, without a search that follows from it.
    #[must_use]
    pub fn replaced(self) -> Self {
        match self {
            Self::Original => Self::Replaced { left_location: false },
            other => other,
        }
    }

    /// A `rewrite` has replaced the path, with the flag `break` or without.
    #[must_use]
    pub fn rewritten(self, breaks: bool) -> Self {
        match breaks {
            true => Self::Replaced { left_location: true },
            false => Self::Pending { left_location: self.left_location() },
        }
    }

    /// `break` ends the rewriting.
    #[must_use]
    pub fn broken_off(self) -> Self {
        match self {
            Self::Pending { .. } => Self::Replaced { left_location: true },
            other => other,
        }
    }

    fn searched(self) -> Self {
        match self {
            Self::Pending { left_location } => Self::Replaced { left_location },
            other => other,
        }
    }

    fn redirected(self) -> Self {
        match self {
            Self::Pending { .. } => Self::Pending { left_location: false },
            Self::Original | Self::Replaced { .. } => Self::Replaced { left_location: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLACED: Rewriting = Rewriting::Replaced { left_location: false };
    const LEFT: Rewriting = Rewriting::Replaced { left_location: true };
    const PENDING: Rewriting = Rewriting::Pending { left_location: false };

    #[test]
    fn a_rewrite_asks_for_a_search_unless_it_breaks() {
        let original = Rewriting::Original;
        assert_eq!(original.rewritten(false), PENDING);
        assert_eq!(original.rewritten(true), LEFT);
        assert_eq!(original.rewritten(false).rewritten(true), LEFT);
        assert_eq!(LEFT.rewritten(false), Rewriting::Pending { left_location: true });
        assert_eq!(PENDING.searched(), REPLACED);
    }

    #[test]
    fn a_break_leaves_the_location_only_behind_a_rewrite() {
        for state in [Rewriting::Original, REPLACED, LEFT] {
            assert_eq!(state.broken_off(), state);
        }
        assert_eq!(PENDING.broken_off(), LEFT);
    }

    #[test]
    fn a_redirect_forgets_the_location_but_not_that_the_path_is_another() {
        assert_eq!(Rewriting::Original.redirected(), REPLACED);
        assert_eq!(LEFT.redirected(), REPLACED);
        assert!(!Rewriting::Original.replaced().is_original());
        assert!(Rewriting::Original.is_original() && !Rewriting::Original.left_location());
    }

    #[test]
    fn redirects_are_counted() {
        let mut route = Route::default();
        for _ in 0..INTERNAL_REDIRECTS_MAX {
            assert!(route.count_redirect());
        }
        assert!(!route.count_redirect());
        route.redirects = u8::MAX;
        assert!(!route.count_redirect());
    }

    #[test]
    fn a_named_location_is_internal_and_keeps_the_path() {
        let mut route = Route { left_proxy: true, rewriting: PENDING, ..Route::default() };
        route.enter_named();
        assert!(route.is_internal && !route.left_proxy);
        assert_eq!(route.rewriting, REPLACED);
    }
}
