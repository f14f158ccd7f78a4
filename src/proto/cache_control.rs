//! How long a response may be stored, from its fields.
//!
//! The order is nginx's: `X-Accel-Expires`, `Cache-Control`, `Expires`. Three things are RFC 9111's, which nginx does not
//! know: directives are told from what only looks like one (`x="max-age=9"`), the `Age` of a response counts, and so
//! does its `Date` against `Expires`.
//!
//! As in nginx, the time that the upstream took does not count as a part of the age.
//!
//! Touches: nothing; the time is an argument. Behaviour: nginx.org, `proxy_cache_valid`, `proxy_ignore_headers`; RFC 9111
//! §4.2, §5.2, RFC 5861.

#[cfg(any(test, feature = "property"))]
pub mod property;

use crate::base::http_date;
use crate::proto::head::Fields;
use crate::proto::header::Id;

/// The fields that `proxy_ignore_headers` names, as far as they matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    pub x_accel_expires: bool,
    pub cache_control: bool,
    pub expires: bool,
    pub set_cookie: bool,
}

/// What the fields of a response say about storing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// False if the response must not be stored, whatever `proxy_cache_valid` says.
    pub storable: bool,
    /// The last second, since 1970, in which the response is fresh. `None`: its fields say nothing, `proxy_cache_valid`
    /// decides. A time in the past is one that the application has given as such (`X-Accel-Expires: @1`).
    pub valid_s: Option<i64>,
    /// How long a stale response may be sent while it is being updated (`stale-while-revalidate`).
    pub updating_s: i64,
    /// How long a stale response may be sent instead of an error: `stale-if-error`, or else `stale-while-revalidate`.
    pub error_s: i64,
    /// The response may be stored only by a cache that knows its status ([`is_understood`]): `must-understand`.
    pub must_understand: bool,
    /// The response must not be sent stale: `must-revalidate` or `proxy-revalidate`. In RFC 9111 §5.2.2.10 `s-maxage`
    /// implies it; not here, since such responses are those that `proxy_cache_use_stale` is meant for.
    pub must_revalidate: bool,
    /// The response to a request with `Authorization` may be sent to other clients (RFC 9111 §3.5): `public`, `s-maxage`,
    /// `must-revalidate`, or a lifetime in `X-Accel-Expires`, which is meant for this cache alone.
    pub is_shared_despite_authorization: bool,
}

impl Lifetime {
    /// Reads the fields of a response that has been received at `now_s`; `data` is the bytes of its head.
    pub fn of(fields: &Fields, data: &[u8], ignored: Ignored, now_s: i64) -> Self {
        let said = match ignored.cache_control {
            true => Directives::default(),
            false => Directives::of(fields.values(data, Id::CacheControl)),
        };
        let accel =
            fields.value(data, Id::XAccelExpires).filter(|_| !ignored.x_accel_expires).and_then(accel);
        let age_s = received_age_s(fields, data);
        let mut is_refused = !ignored.set_cookie && fields.has(Id::SetCookie);
        is_refused |= said.stale_while_revalidate == Some(Seconds::Invalid);
        is_refused |= said.stale_if_error == Some(Seconds::Invalid);
        let valid_s = match (accel, said.s_maxage.or(said.max_age)) {
            (Some(Accel::For(seconds)), _) => {
                is_refused |= seconds == 0;
                Some(now_s.saturating_add(seconds))
            }
            (Some(Accel::Until(time_s)), _) => Some(time_s),
            (None, Some(seconds)) => {
                let left_s = seconds.known().unwrap_or(0).saturating_sub(age_s);
                is_refused |= left_s <= 0;
                Some(now_s.saturating_add(left_s))
            }
            (None, None) if !ignored.expires && fields.has(Id::Expires) => {
                let left_s = expires_in(fields, data, age_s, now_s);
                is_refused |= left_s <= 0;
                Some(now_s.saturating_add(left_s))
            }
            (None, None) => None,
        };
        is_refused |= accel.is_none() && said.forbids;
        let updating_s = said.stale_while_revalidate.and_then(Seconds::known).unwrap_or(0);
        Self {
            storable: !is_refused,
            valid_s,
            updating_s,
            error_s: said.stale_if_error.and_then(Seconds::known).unwrap_or(updating_s),
            must_understand: said.must_understand,
            must_revalidate: said.must_revalidate || said.proxy_revalidate,
            is_shared_despite_authorization: said.public
                || said.must_revalidate
                || said.s_maxage.is_some()
                || accel.is_some(),
        }
    }

    /// True if the response's fields, and not the configuration, say how long it is fresh.
    pub fn is_explicit(&self) -> bool {
        self.valid_s.is_some()
    }
}

/// The `Age` with which a response has been received, in seconds (RFC 9111 §5.1).
///
/// Of several values the first one counts. 0 if there is none, or no number.
pub fn received_age_s(fields: &Fields, data: &[u8]) -> i64 {
    let first = fields.value(data, Id::Age).and_then(|value| value.split(|byte| *byte == b',').next());
    first.and_then(|value| decimal(value.trim_ascii())).unwrap_or(0)
}

/// True if what RFC 9110 says about the status asks nothing of a cache that this one does not do (RFC 9111 §5.2.2.3).
pub fn is_understood(status: u16) -> bool {
    matches!(status, 200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

/// How long a response is fresh by its `Expires`: counted from its `Date`, if it has one, less its age (RFC 9111 §4.2.1,
/// §4.2.3). An invalid `Expires` is in the past.
fn expires_in(fields: &Fields, data: &[u8], age_s: i64, now_s: i64) -> i64 {
    let Some(expires_s) = fields.value(data, Id::Expires).and_then(http_date::parse) else { return 0 };
    let date_s = fields.value(data, Id::Date).and_then(http_date::parse).unwrap_or(now_s);
    expires_s.saturating_sub(date_s).saturating_sub(now_s.saturating_sub(date_s).max(age_s))
}

/// The value of `X-Accel-Expires`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accel {
    /// Seconds from now; 0 forbids storing.
    For(i64),
    /// Seconds since 1970.
    Until(i64),
}

/// `None` for anything but a number, which nginx ignores.
fn accel(value: &[u8]) -> Option<Accel> {
    match value.strip_prefix(b"@") {
        Some(time) => decimal(time).map(Accel::Until),
        None => decimal(value).map(Accel::For),
    }
}

/// The argument of a directive that takes delta-seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seconds {
    Known(i64),
    /// No number. nginx does not store such a response.
    Invalid,
}

impl Seconds {
    /// An empty argument counts as 0, as in nginx.
    fn of(argument: &[u8]) -> Self {
        let digits =
            argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
        match decimal(digits) {
            Some(seconds) => Self::Known(seconds),
            None if digits.is_empty() => Self::Known(0),
            None => Self::Invalid,
        }
    }

    fn known(self) -> Option<i64> {
        match self {
            Self::Known(seconds) => Some(seconds),
            Self::Invalid => None,
        }
    }
}

/// Parses digits; a number that is too large counts as the largest one (RFC 9111 §1.2.2).
fn decimal(digits: &[u8]) -> Option<i64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| {
        digits
            .iter()
            .fold(0i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit - b'0')))
    })
}

/// The directives of all `Cache-Control` fields of a response. Of a repeated one the first counts (RFC 9111 §4.2.1).
#[derive(Clone, Copy, Debug, Default)]
struct Directives {
    /// `no-cache`, `no-store` or `private`, with or without arguments: nginx stores none of these responses.
    forbids: bool,
    public: bool,
    must_understand: bool,
    must_revalidate: bool,
    proxy_revalidate: bool,
    max_age: Option<Seconds>,
    s_maxage: Option<Seconds>,
    stale_while_revalidate: Option<Seconds>,
    stale_if_error: Option<Seconds>,
}

impl Directives {
    fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut said = Self::default();
        for directive in lines.flat_map(members) {
            let mut halves = directive.splitn(2, |byte| *byte == b'=');
            let name = halves.next().unwrap_or(b"");
            let argument = halves.next();
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            let seconds = argument.map(Seconds::of);
            if is("no-cache") || is("no-store") || is("private") {
                said.forbids = true;
            } else if is("public") {
                said.public = true;
            } else if is("must-understand") {
                said.must_understand = true;
            } else if is("must-revalidate") {
                said.must_revalidate = true;
            } else if is("proxy-revalidate") {
                said.proxy_revalidate = true;
            } else if is("max-age") {
                said.max_age = said.max_age.or(seconds);
            } else if is("s-maxage") {
                said.s_maxage = said.s_maxage.or(seconds);
            } else if is("stale-while-revalidate") {
                said.stale_while_revalidate = said.stale_while_revalidate.or(seconds);
            } else if is("stale-if-error") {
                said.stale_if_error = said.stale_if_error.or(seconds);
            }
        }
        said
    }
}

/// The members of a list, which commas separate, and, since nginx finds directives there too, semicolons and spaces.
/// Quoted strings stay whole; a quotation mark without its end is an ordinary character, so that nothing hides behind it.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    let mut may_quote = true;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut at = 0;
        while let Some(byte) = rest.get(at) {
            match byte {
                b',' | b';' | b' ' | b'\t' => break,
                b'"' if may_quote => match closing_quote(&rest[at + 1..]) {
                    Some(length) => at += length + 2,
                    None => (may_quote, at) = (false, at + 1),
                },
                _ => at += 1,
            }
        }
        let (member, after) = rest.split_at(at);
        rest = after.get(1..).unwrap_or(b"");
        Some(member)
    })
    .filter(|member| !member.is_empty())
}

/// The length of a quoted string's content (RFC 9110 §5.6.4). `None` if it has no end.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h1::response;
    use crate::proto::head::ResponseHead;

    const NOW_S: i64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

    fn of(fields: &str) -> Lifetime {
        ignoring(fields, Ignored::default())
    }

    /// `fields` are separated by `|`.
    fn ignoring(fields: &str, ignored: Ignored) -> Lifetime {
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", fields.replace('|', "\r\n"));
        let mut head = ResponseHead::default();
        response::parse(text.as_bytes(), 1 << 20, &mut head).expect("a head");
        Lifetime::of(&head.fields, text.as_bytes(), ignored, NOW_S)
    }

    /// The seconds that a response stays fresh; `None` if it is not stored. Without any information: -1.
    fn fresh_s(fields: &str) -> Option<i64> {
        let lifetime = of(fields);
        lifetime.storable.then(|| lifetime.valid_s.map_or(-1, |valid_s| valid_s - NOW_S))
    }

    const IN_60_S: &str = "Expires: Sun, 06 Nov 1994 08:50:37 GMT";

    #[test]
    fn accel_expires_comes_before_cache_control_and_that_before_expires() {
        let cases = [
            ("X: y", Some(-1)),
            (IN_60_S, Some(60)),
            ("Expires: Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("Expires: 0", None),
            ("Expires:", None),
            ("Cache-Control: max-age=9|Expires: 0", Some(9)),
            ("Expires: 0|Cache-Control: max-age=9", Some(9)),
            (&format!("{IN_60_S}|Cache-Control: max-age=0"), None),
            (&format!("{IN_60_S}|Cache-Control: no-cache"), None),
            (&format!("{IN_60_S}|Cache-Control: public"), Some(60)),
            ("X-Accel-Expires: 7|Cache-Control: no-store|Expires: 0", Some(7)),
            ("Cache-Control: private, max-age=x|Expires: 0|X-Accel-Expires: 7", Some(7)),
            ("Cache-Control: max-age=9|X-Accel-Expires: 0", None),
            ("Cache-Control: max-age=9|X-Accel-Expires: off", Some(9)),
            ("Cache-Control: max-age=9|X-Accel-Expires: -1", Some(9)),
            ("Cache-Control: max-age=9|X-Accel-Expires:", Some(9)),
            ("X-Accel-Expires: @784111877|Cache-Control: max-age=9", Some(100)),
            ("X-Accel-Expires: @784111677", Some(-100)),
            ("X-Accel-Expires: @x|Cache-Control: max-age=9", Some(9)),
            ("X-Accel-Expires: 7|X-Accel-Expires: 9", Some(7)),
            (&format!("{IN_60_S}|Expires: 0"), Some(60)),
            (&format!("Expires: 0|{IN_60_S}"), None),
            ("Expires: -1", None),
            ("Expires: tomorrow", None),
            ("Expires: Sun, 06 Nov 1994 08:50:37", None),
            ("Expires: Sun, 06 Nov 1994 08:50:37 +0000", None),
            ("Expires: Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Expires: Sun Nov  6 08:50:37 1994", Some(60)),
            ("Expires: Sun, 31 Feb 2094 08:50:37 GMT", None),
            ("Expires: Sun, 06 Nov 99994 08:50:37 GMT", None),
            ("Expires: Fri, 31 Dec 9999 23:59:60 GMT", Some(252_618_189_023)),
        ];
        for (fields, expected) in cases {
            assert_eq!(fresh_s(fields), expected, "{fields}");
        }
    }

    #[test]
    fn directives_are_found_in_any_spelling_and_nowhere_else() {
        let cases = [
            ("max-age=9", Some(9)),
            ("MaX-AgE=9", Some(9)),
            ("foo,,max-age=9 , bar", Some(9)),
            ("foo;max-age=9;bar", Some(9)),
            ("foo\tmax-age=9 bar", Some(9)),
            ("max-age=\"9\"", Some(9)),
            ("max-age=009", Some(9)),
            ("max-age=9, max-age=1", Some(9)),
            ("max-age=1|Cache-Control: max-age=9", Some(1)),
            ("s-maxage=5, max-age=9", Some(5)),
            ("max-age=9|Cache-Control: s-maxage=5", Some(5)),
            ("s-maxage=5|Cache-Control: max-age=9", Some(5)),
            ("x=\"max-age=1, no-store\", max-age=9", Some(9)),
            ("x=\"\\\", no-store\", max-age=9", Some(9)),
            ("x=\"a, max-age=9", Some(9)),
            ("x=\"a\\", Some(-1)),
            ("x-max-age=9", Some(-1)),
            ("max-age", Some(-1)),
            ("max-age =9", Some(-1)),
            ("max-age= 9", None),
            ("max-age=", None),
            ("max-age=-9", None),
            ("max-age=9.0", None),
            ("max-age='9'", None),
            ("max-age=a9", None),
            ("max-age=\"9", None),
            ("s-maxage=0, max-age=9", None),
            ("x=\"a, no-store", None),
            ("max-age=9, PRIVATE", None),
            ("max-age=9 no-store", None),
            ("max-age=9\"", None),
            ("max-age=\"9\\\"\"", None),
            ("max-age=\"\"", None),
            ("max-age==9", None),
            ("=max-age=9", Some(-1)),
            ("max-age=9=9", None),
            ("max-age=0x9", None),
            ("max-age=+9", None),
            ("max-age=1e3", None),
            ("max-age=9\u{b2}", None),
            ("s-maxage=x, max-age=9", None),
            ("s-maxage, max-age=9", Some(9)),
            ("s-max-age=5, max-age=9", Some(9)),
            ("no-store=0, max-age=9", None),
            ("private=, max-age=9", None),
            ("x=\"a\\\\\", no-store, y=\"b\"", None),
            ("x=\"a|Cache-Control: b\", no-store", None),
            ("\"no-store\", max-age=9", Some(9)),
            ("must-understand, no-store, max-age=9", None),
            ("private=\"set-cookie\", max-age=9", None),
            ("no-cache=\"set-cookie\", max-age=9", None),
            ("max-age=9|Cache-Control: no-cache", None),
            ("no-cache-really, max-age=9", Some(9)),
            ("max-age=9|Set-Cookie: a=b", None),
        ];
        for (value, expected) in cases {
            assert_eq!(fresh_s(&format!("Cache-Control: {value}")), expected, "{value}");
        }
    }

    #[test]
    fn large_numbers_are_the_largest_one() {
        for digits in ["9223372036854775807", "9223372036854775808", &"9".repeat(1000)] {
            for name in ["Cache-Control: max-age=", "X-Accel-Expires: ", "X-Accel-Expires: @"] {
                assert_eq!(of(&format!("{name}{digits}")).valid_s, Some(i64::MAX), "{name}{digits}");
            }
            assert_eq!(fresh_s(&format!("Cache-Control: max-age=9|Age: {digits}")), None);
        }
        let longest = of("Cache-Control: max-age=1, stale-while-revalidate=99999999999999999999");
        assert_eq!((longest.updating_s, longest.error_s), (i64::MAX, i64::MAX));
    }

    #[test]
    fn time_spent_in_other_caches_counts() {
        let cases = [
            ("Cache-Control: max-age=9|Age: 4", Some(5)),
            ("Cache-Control: max-age=9|Age: 9", None),
            ("Cache-Control: max-age=9|Age: 10, 0", None),
            ("Cache-Control: max-age=9|Age: 0, 10", Some(9)),
            ("Cache-Control: max-age=9|Age: 0|Age: 10", Some(9)),
            ("Cache-Control: max-age=9|Age: 4.5", Some(9)),
            ("Cache-Control: max-age=9|Age: -4", Some(9)),
            ("Cache-Control: max-age=9|Age: \"4\"", Some(9)),
            ("Cache-Control: max-age=9|Age:", Some(9)),
            ("Cache-Control: max-age=9|Age: , 4", Some(9)),
            ("Cache-Control: max-age=9|Age: 4 , 5", Some(5)),
            ("Cache-Control: s-maxage=9, max-age=99|Age: 4", Some(5)),
            ("X-Accel-Expires: 9|Age: 10", Some(9)),
            ("Age: 10", Some(-1)),
            // max-age does not depend on the clock of the server
            ("Cache-Control: max-age=9|Date: Sun, 06 Nov 1994 07:00:00 GMT", Some(9)),
            ("Expires: Sun, 06 Nov 1994 08:50:37 GMT|Date: Sun, 06 Nov 1994 08:49:37 GMT|Age: 15", Some(45)),
            // the server's clock is fast, slow, wrong
            ("Expires: Sun, 06 Nov 1994 08:49:57 GMT|Date: Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Expires: Sun, 06 Nov 1994 08:49:57 GMT|Date: Sun, 06 Nov 1994 08:49:47 GMT|Age: 15", None),
            ("Expires: Sun, 06 Nov 1994 08:50:37 GMT|Date: Sun, 06 Nov 1994 09:50:37 GMT", None),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT|Date: Sun, 06 Nov 1994 08:49:27 GMT", Some(10)),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT|Date: Sun, 06 Nov 1994 08:49:27 GMT|Age: 25", None),
            ("Expires: Sun, 06 Nov 1994 08:49:47 GMT|Date: x", Some(10)),
        ];
        for (fields, expected) in cases {
            assert_eq!(fresh_s(fields), expected, "{fields}");
        }
    }

    #[test]
    fn staleness_is_allowed_by_its_directives() {
        let stale = |value: &str| {
            let lifetime = of(&format!("Cache-Control: max-age=1, {value}"));
            lifetime.storable.then_some((lifetime.updating_s, lifetime.error_s))
        };
        assert_eq!(stale("x"), Some((0, 0)));
        assert_eq!(stale("stale-while-revalidate=5"), Some((5, 5)));
        assert_eq!(stale("stale-if-error=7"), Some((0, 7)));
        assert_eq!(stale("stale-if-error=7, stale-while-revalidate=5"), Some((5, 7)));
        assert_eq!(stale("stale-while-revalidate=x"), None, "as in nginx");
        assert_eq!(stale("stale-while-revalidate"), Some((0, 0)));
        assert_eq!(stale("stale-while-revalidate=5, stale-while-revalidate=50"), Some((5, 5)));
        assert_eq!(stale("stale-while-revalidate=\"5\", stale-if-error=0"), Some((5, 0)));
        assert_eq!(stale("stale-if-error=-1"), None);
        assert_eq!(stale("x=\"stale-if-error=7\""), Some((0, 0)));
        let accel = of("X-Accel-Expires: 9|Cache-Control: no-cache, stale-if-error=7");
        assert_eq!((accel.valid_s, accel.error_s), (Some(NOW_S + 9), 7));
        for (value, expected) in [
            ("must-revalidate", true),
            ("Proxy-Revalidate", true),
            ("s-maxage=5", false),
            ("max-age=5", false),
            ("x=\"must-revalidate\"", false),
        ] {
            assert_eq!(of(&format!("Cache-Control: {value}")).must_revalidate, expected, "{value}");
        }
    }

    #[test]
    fn a_status_that_must_be_understood_is_known() {
        assert!(of("Cache-Control: max-age=9, Must-Understand").must_understand);
        assert!(!of("Cache-Control: max-age=9, x=\"must-understand\"").must_understand);
        for status in [200, 203, 206, 301, 308, 404, 410, 505] {
            assert!(is_understood(status), "{status}");
        }
        for status in [0, 199, 207, 299, 306, 399, 418, 499, 506, 599] {
            assert!(!is_understood(status), "{status}");
        }
    }

    #[test]
    fn answers_to_authorized_requests_are_shared_only_if_the_application_says_so() {
        for (fields, expected) in [
            ("Cache-Control: max-age=5", false),
            ("Cache-Control: proxy-revalidate", false),
            (IN_60_S, false),
            ("Cache-Control: public", true),
            ("Cache-Control: s-maxage=5", true),
            ("Cache-Control: max-age=5, must-revalidate", true),
            ("X-Accel-Expires: 5", true),
            ("X-Accel-Expires: off", false),
        ] {
            assert_eq!(of(fields).is_shared_despite_authorization, expected, "{fields}");
        }
        let deaf = Ignored { cache_control: true, ..Ignored::default() };
        assert!(!ignoring("Cache-Control: public", deaf).is_shared_despite_authorization);
    }

    #[test]
    fn ignored_fields_are_as_if_they_were_absent() {
        let all = "Set-Cookie: a=b|X-Accel-Expires: 7|Cache-Control: max-age=9, s-maxage=9|Expires: 0";
        let mut ignored = Ignored::default();
        assert!(!ignoring(all, ignored).storable);
        ignored.set_cookie = true;
        assert_eq!(ignoring(all, ignored).valid_s, Some(NOW_S + 7));
        ignored.x_accel_expires = true;
        assert_eq!(ignoring(all, ignored).valid_s, Some(NOW_S + 9));
        ignored.cache_control = true;
        assert!(!ignoring(all, ignored).storable, "Expires is in the past");
        ignored.expires = true;
        let none = ignoring(all, ignored);
        assert!(none.storable && !none.is_explicit() && !none.must_revalidate);
    }

    #[test]
    fn any_bytes_as_fields() {
        const PIECES: [&[u8]; 12] = [
            b"\"",
            b"\\",
            b",",
            b"\n\0",
            b"\n\x01",
            b"\n\x02",
            b"\n\x03",
            b"max-age=",
            b"9",
            b"no-store",
            b"private",
            b"stale-if-error=",
        ];
        bolero::check!().for_each(|bytes: &[u8]| {
            property::reads_lifetime(bytes);
            let pieces = bytes.iter().flat_map(|byte| PIECES[usize::from(*byte) % 12]);
            property::reads_lifetime(&pieces.copied().collect::<Vec<u8>>());
        });
    }

    #[test]
    fn any_bytes_as_members() {
        const PIECES: [&[u8]; 10] =
            [b"\"", b"\\", b",", b" ", b";", b"max-age=", b"9", b"no-store", b"private", b"\xff"];
        bolero::check!().for_each(|bytes: &[u8]| {
            let text: Vec<u8> =
                bytes.iter().flat_map(|byte| PIECES[usize::from(*byte) % 10]).copied().collect();
            assert!(members(&text).all(|member| !member.is_empty() && member.len() <= text.len()));
            let total: usize = members(&text).map(<[u8]>::len).sum();
            assert!(total <= text.len());
            if !text.contains(&b'"') {
                let plain = text.split(|byte| b",; ".contains(byte)).filter(|member| !member.is_empty());
                assert!(members(&text).eq(plain));
            }
            Directives::of([&text[..], bytes].into_iter());
        });
    }
}
