//! What every match of a pattern begins and ends with: a few bytes that most subjects fail at once.
//!
//! Pure. A location's or a map's patterns are tried one after the other, as nginx does; this makes a pattern that cannot
//! match cost two comparisons of words. It never refuses what the pattern would match.

use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Bytes that are looked at on either side: one word.
const BYTES_MAX: usize = 8;

/// The first and the last bytes of a subject.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    first: u64,
    /// The last byte is the lowest.
    last: u64,
    /// `$` stands before a last line feed too.
    has_line_feed: bool,
}

impl Ends {
    #[inline]
    pub fn of(subject: &[u8]) -> Self {
        let has_line_feed = subject.last() == Some(&b'\n');
        let (first, last) = match (subject.first_chunk(), subject.last_chunk()) {
            (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_be_bytes(*last)),
            _ => short(subject),
        };
        Self { first, last, has_line_feed }
    }
}

/// The same for a subject shorter than a word; what it lacks is 0, which may pass for more than it is.
fn short(subject: &[u8]) -> (u64, u64) {
    let word = |bytes: &mut dyn Iterator<Item = &u8>| {
        bytes.take(BYTES_MAX).enumerate().fold(0, |word, (at, byte)| word | u64::from(*byte) << (8 * at))
    };
    (word(&mut subject.iter()), word(&mut subject.iter().rev()))
}

/// What the ends of a subject must be; nothing by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint {
    first: Word,
    last: Word,
}

/// Bits that must be so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    mask: u64,
    bits: u64,
}

impl Hint {
    /// Reads it from a pattern that the linear engine has.
    pub fn of(hir: &Hir) -> Self {
        let properties = hir.properties();
        let mut hint = Self::default();
        if properties.look_set_prefix().contains(Look::Start) {
            hint.first = Word::of(&run(hir, Side::First).0);
        }
        if properties.look_set_suffix().contains(Look::End) {
            let (bytes, _) = match hir.kind() {
                HirKind::Concat(parts) => join(before_line_end(parts), Side::Last),
                _ => run(hir, Side::Last),
            };
            hint.last = Word::of(&bytes);
        }
        hint
    }

    /// False: the pattern matches no subject with these ends.
    #[inline]
    pub fn admits(&self, ends: &Ends) -> bool {
        ends.first & self.first.mask == self.first.bits
            && (ends.last & self.last.mask == self.last.bits || ends.has_line_feed)
    }
}

impl Word {
    fn of(bytes: &[Byte]) -> Self {
        let word = |part: fn(&Byte) -> u8| {
            let parts = bytes.iter().take(BYTES_MAX).enumerate();
            parts.fold(0, |word, (at, byte)| word | u64::from(part(byte)) << (8 * at))
        };
        Self { mask: word(|byte| byte.mask), bits: word(|byte| byte.bits) }
    }
}

/// What is known of one byte: the bits in `mask` are those of `bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Byte {
    mask: u8,
    bits: u8,
}

impl Byte {
    fn exactly(byte: u8) -> Self {
        Self { mask: 0xff, bits: byte }
    }

    /// What holds of both.
    fn or(self, other: Self) -> Self {
        let mask = self.mask & other.mask & !(self.bits ^ other.bits);
        Self { mask, bits: self.bits & mask }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    /// From the last byte backwards.
    Last,
}

/// The bytes that a match begins (or, backwards, ends) with, and whether these are all of it.
fn run(hir: &Hir, side: Side) -> (Vec<Byte>, bool) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => (Vec::new(), true),
        HirKind::Literal(literal) => {
            let mut bytes: Vec<Byte> = literal.0.iter().map(|byte| Byte::exactly(*byte)).collect();
            if side == Side::Last {
                bytes.reverse();
            }
            (bytes, true)
        }
        HirKind::Class(Class::Bytes(class)) => {
            let members = class.iter().flat_map(|range| range.start()..=range.end()).map(Byte::exactly);
            match members.reduce(Byte::or) {
                Some(byte) => (vec![byte], true),
                None => (Vec::new(), false),
            }
        }
        HirKind::Class(Class::Unicode(_)) => (Vec::new(), false),
        HirKind::Capture(capture) => run(&capture.sub, side),
        HirKind::Repetition(repetition) => {
            let (bytes, is_all) = run(&repetition.sub, side);
            let count = if is_all { repetition.min as usize } else { repetition.min.min(1) as usize };
            let is_exact = is_all && repetition.max == Some(repetition.min);
            (bytes.repeat(count.min(BYTES_MAX)), is_exact && count <= BYTES_MAX)
        }
        HirKind::Concat(parts) => join(parts, side),
        HirKind::Alternation(parts) => {
            let mut runs = parts.iter().map(|part| run(part, side));
            let Some((mut common, mut is_all)) = runs.next() else { return (Vec::new(), false) };
            for (bytes, other_is_all) in runs {
                is_all &= other_is_all && bytes.len() == common.len();
                common.truncate(bytes.len());
                for (byte, other) in common.iter_mut().zip(bytes) {
                    *byte = byte.or(other);
                }
            }
            (common, is_all)
        }
    }
}

fn join(parts: &[Hir], side: Side) -> (Vec<Byte>, bool) {
    let mut all = Vec::new();
    let mut walk = |part: &Hir| {
        let (bytes, is_all) = run(part, side);
        all.extend(bytes);
        is_all && all.len() < BYTES_MAX
    };
    let is_all = match side {
        Side::First => parts.iter().all(&mut walk),
        Side::Last => parts.iter().rev().all(&mut walk),
    };
    (all, is_all)
}

/// What stands before a `$`, which lets a line feed pass: subjects that end with one are not looked at here.
fn before_line_end(parts: &[Hir]) -> &[Hir] {
    let is_optional_line_feed = |hir: &Hir| match hir.kind() {
        HirKind::Repetition(repetition) => {
            repetition.max == Some(1) && *repetition.sub == Hir::literal(*b"\n")
        }
        _ => false,
    };
    match parts {
        [before @ .., line_feed, end] if is_optional_line_feed(line_feed) && *end == Hir::look(Look::End) => {
            before
        }
        _ => parts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(pattern: &str) -> Hint {
        let parser = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern);
        Hint::of(&parser.expect("a pattern"))
    }

    #[test]
    fn subjects_that_cannot_match_are_refused_and_others_are_not() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            (
                r"^/zz7/.*\.php$",
                &["/zz7/x.php", "/zz7/.php", "/zz7/.php\n"],
                &["/zz8/x.php", "/zz7/x.html", "/", ""],
            ),
            (r"(?i)\.(gif|jpe?g)$", &["/a.GIF", "/a.jpeg", "/a.JPG"], &["/a.css", "/a"]),
            (r"^/(?:a|bc)x", &["/ax", "/bcx"], &["/zx/", "-ax"]),
            (r"^[0-9]{3}$", &["123"], &["a23", "12a", "1"]),
            (r"^(ab)+c", &["abc", "ababc"], &["aabc", "b"]),
            (r"a.*b", &["xxaxbx", "ab", "zz", ""], &[]),
            (r"^a?b", &["ab", "b", "zz"], &[]),
            (r"(^a|b)$", &["a", "zb", "b"], &["x1"]),
            (r"^(?:abcdefghijk)l$", &["abcdefghijkl", "abcdefgh--efghijkl"], &["abcdefgXijkl"]),
        ];
        for (pattern, admitted, refused) in cases {
            let hint = hint(pattern);
            for subject in admitted {
                assert!(hint.admits(&Ends::of(subject.as_bytes())), "{pattern} {subject}");
            }
            for subject in refused {
                assert!(!hint.admits(&Ends::of(subject.as_bytes())), "{pattern} {subject}");
            }
        }
    }

    #[test]
    fn no_match_is_refused() {
        use proptest::prelude::*;
        let piece = prop::sample::select(vec![
            "a", "b", "/", ".", "[ab]", "[^a]", "(a|bb)", "(ab|a)", "a?", "b*", "a+", "(ab){2}", "$", "^",
            "(?i)a", "(\n?$)",
        ]);
        let pattern = prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
        proptest!(|(pattern in pattern, subject in "[abA/\n]{0,12}")| {
            let regex = regex::bytes::RegexBuilder::new(&pattern).unicode(false).build().expect("a pattern");
            let is_refused = !hint(&pattern).admits(&Ends::of(subject.as_bytes()));
            prop_assert!(!(is_refused && regex.is_match(subject.as_bytes())), "{pattern} {subject:?}");
        });
    }
}
