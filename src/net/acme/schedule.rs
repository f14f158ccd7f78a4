//! When to ask for a certificate: the first one at once, the next after two thirds of the lifetime or when the
//! authority says (RFC 9773), and again after an error ever more rarely.
//!
//! Pure: times go in, times come out, in seconds since 1970.

use std::time::Duration;

/// The wait after the first error; each further one doubles it.
const RETRY_S_MIN: i64 = 60;
const RETRY_S_MAX: i64 = 24 * 3600;
/// An error of an earlier run of the program delays the next attempt no longer than this, unless the authority has
/// asked for it: the operator may have mended what was wrong.
const RETRY_S_OF_OTHERS: i64 = 60;
/// The waits that an authority may ask for with `Retry-After`.
const RETRY_AFTER_S: std::ops::RangeInclusive<i64> = 1..=7 * 24 * 3600;

/// The last attempt that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// Errors since the last certificate.
    pub count: u32,
    /// The earliest time of the next attempt.
    pub retry_at_s: i64,
    /// The authority asked for that time.
    pub is_asked_for: bool,
}

impl Failed {
    /// Notes one more error.
    pub fn again(self, now_s: i64, retry_after: Option<Duration>) -> Self {
        let count = self.count.saturating_add(1);
        let asked = retry_after.map(|it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX));
        let asked = asked.map(|s| s.clamp(*RETRY_AFTER_S.start(), *RETRY_AFTER_S.end()));
        let own = RETRY_S_MIN << count.saturating_sub(1).min(16);
        let wait_s = asked.unwrap_or_else(|| own.min(RETRY_S_MAX));
        Self { count, retry_at_s: now_s + wait_s, is_asked_for: asked.is_some() }
    }

    /// The same after a start of the program.
    pub fn after_start(self, now_s: i64) -> Self {
        let latest_s =
            if self.is_asked_for { now_s + RETRY_AFTER_S.end() } else { now_s + RETRY_S_OF_OTHERS };
        Self { retry_at_s: self.retry_at_s.min(latest_s), ..self }
    }
}

/// How old a certificate is at least when a suggestion renews it: an authority that always suggests the past must not be asked
/// without an end.
const SUGGESTED_S_MIN: i64 = 3600;

/// When to ask for a certificate. `valid_s`: the begin and the end of the one that is there, which came at `issued_s`;
/// `suggested_s`: the time that was chosen in the window which the authority suggests.
pub fn due_s(valid_s: Option<(i64, i64)>, issued_s: i64, suggested_s: Option<i64>, failed: Failed) -> i64 {
    let wanted_s = match valid_s {
        None => 0,
        Some((from_s, to_s)) => {
            let own_s = from_s + to_s.saturating_sub(from_s).max(0) / 3 * 2;
            // A suggestion may bring it forward, as before a revocation, or put it off, but not past the end.
            suggested_s.map_or(own_s, |it| it.max(issued_s.saturating_add(SUGGESTED_S_MIN)).min(to_s))
        }
    };
    if failed.count == 0 { wanted_s } else { wanted_s.max(failed.retry_at_s) }
}

/// A time in the window, by a random number; `to_s` if the window is none.
pub fn chosen_s((from_s, to_s): (i64, i64), random: u64) -> i64 {
    match u64::try_from(to_s.saturating_sub(from_s)) {
        Ok(length @ 1..) => from_s + i64::try_from(random % length).unwrap_or(0),
        _ => to_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Failed = Failed { count: 0, retry_at_s: 0, is_asked_for: false };

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_or_when_the_authority_says() {
        assert_eq!(due_s(None, 0, None, NONE), 0, "at once");
        assert_eq!(due_s(Some((1000, 4000)), 0, None, NONE), 3000);
        assert_eq!(due_s(Some((1000, 9000)), -3600, Some(2000), NONE), 2000);
        assert_eq!(due_s(Some((1000, 4000)), 0, Some(9000), NONE), 4000, "not past its end");
        assert_eq!(due_s(Some((1000, 9000)), 1000, Some(-5), NONE), 4600, "not at once again");
        assert_eq!(due_s(Some((4000, 1000)), 0, None, NONE), 4000, "dates that are none");
        assert_eq!(due_s(Some((1000, 9000)), i64::MAX, Some(5), NONE), 9000, "a state that is damaged");
    }

    #[test]
    fn errors_put_the_next_attempt_off_ever_longer() {
        let mut failed = NONE;
        let waits: Vec<i64> = (0..12)
            .map(|_| {
                failed = failed.again(0, None);
                failed.retry_at_s
            })
            .collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 30720, 61440, 86400]);
        assert_eq!(due_s(None, 0, None, failed), 86400);
        assert_eq!(failed.after_start(0).retry_at_s, 60);
        assert_eq!(Failed { count: u32::MAX, ..NONE }.again(0, None).retry_at_s, 86400);
    }

    #[test]
    fn the_authority_s_wait_is_obeyed_even_after_a_start() {
        let failed = NONE.again(0, Some(Duration::from_secs(5000)));
        assert_eq!((failed.retry_at_s, failed.after_start(0).retry_at_s), (5000, 5000));
        assert_eq!(NONE.again(0, Some(Duration::MAX)).retry_at_s, 7 * 24 * 3600);
        assert_eq!(NONE.again(0, Some(Duration::ZERO)).retry_at_s, 1);
    }

    #[test]
    fn a_time_is_chosen_within_the_window() {
        assert_eq!((chosen_s((10, 20), 7), chosen_s((10, 20), 13)), (17, 13));
        assert_eq!((chosen_s((20, 20), 7), chosen_s((20, 10), 7)), (20, 10));
    }
}
