//! Searches for many texts at once in a body that arrives in pieces.
//!
//! Pure data. The match that starts first wins; if several start at the same place, the text that is first in
//! the configuration. ASCII letters match in either case, as in nginx's `sub_filter`.

use aho_corasick::{AhoCorasick, Input, MatchKind};

/// Non-empty texts in the order of the configuration.
#[derive(Debug)]
pub struct Search {
    automaton: AhoCorasick,
    /// In lower case.
    texts: Vec<Box<[u8]>>,
    /// True if a text starts with this byte, in either case.
    begins: Box<[bool; 256]>,
    longest: usize,
}

/// The next element of a piece of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Text number `index` was found at `start..end`.
    Match { start: usize, end: usize, index: usize },
    /// No further match; from this position on one may appear once more of the body is known.
    Rest(usize),
}

impl Search {
    /// `None`: the texts are too many (gigabytes) for one search.
    pub fn new(texts: impl IntoIterator<Item = Vec<u8>>) -> Option<Self> {
        let texts: Vec<Box<[u8]>> =
            texts.into_iter().map(|text| text.to_ascii_lowercase().into_boxed_slice()).collect();
        let mut begins = Box::new([false; 256]);
        for byte in texts.iter().filter_map(|text| text.first()) {
            begins[usize::from(*byte)] = true;
            begins[usize::from(byte.to_ascii_uppercase())] = true;
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostFirst)
            .ascii_case_insensitive(true)
            .build(&texts)
            .ok()?;
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        Some(Self { automaton, texts, begins, longest })
    }

    pub fn count(&self) -> usize {
        self.texts.len()
    }

    /// Starts a search through `body`; `is_end`: nothing follows it.
    pub fn scan<'a>(&'a self, body: &'a [u8], is_end: bool) -> Scan<'a> {
        Scan { search: self, body, is_end, begun: None }
    }
}

/// One search through a piece of the body.
#[derive(Debug)]
pub struct Scan<'a> {
    search: &'a Search,
    body: &'a [u8],
    is_end: bool,
    /// The start of the first text that the end of the piece may cut, and that text, as computed from some
    /// position on.
    begun: Option<(usize, Option<(usize, usize)>)>,
}

impl Scan<'_> {
    /// The next match at or after `from`, among the texts that `is_wanted` accepts.
    pub fn next(&mut self, from: usize, is_wanted: impl Fn(usize) -> bool) -> Found {
        let mut at = from;
        let found = loop {
            let Some(found) = self.search.automaton.find(Input::new(self.body).range(at..)) else {
                break None;
            };
            // An unwanted match hides later texts of the list that start at the same position.
            let first = found.pattern().as_usize();
            let index = (first..self.search.count())
                .find(|index| is_wanted(*index) && self.matches(*index, found.start()));
            if let Some(index) = index {
                break Some((found.start(), index));
            }
            at = found.start() + 1;
        };
        if let Some((start, index)) = found
            && start + self.search.longest <= self.body.len()
        {
            return self.matched(start, index);
        }
        match (found, self.begun(from, &is_wanted)) {
            (Some((start, index)), None) => self.matched(start, index),
            (Some((start, index)), Some(begun)) if (start, index) < begun => self.matched(start, index),
            (_, Some((begun, _))) => Found::Rest(begun),
            (None, None) => Found::Rest(self.body.len()),
        }
    }

    fn matched(&self, start: usize, index: usize) -> Found {
        Found::Match { start, end: start + self.search.texts[index].len(), index }
    }

    fn matches(&self, index: usize, start: usize) -> bool {
        let text = &self.search.texts[index];
        self.body.get(start..start + text.len()).is_some_and(|part| part.eq_ignore_ascii_case(text))
    }

    /// The first position from which the end of the piece may be the start of a text, and the first such
    /// text.
    fn begun(&mut self, from: usize, is_wanted: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        if self.is_end {
            return None;
        }
        if let Some((since, begun)) = self.begun
            && since <= from
            && begun.is_none_or(|(start, index)| start >= from && is_wanted(index))
        {
            return begun;
        }
        let first = from.max((self.body.len() + 1).saturating_sub(self.search.longest));
        let begun = (first..self.body.len())
            .filter(|start| self.search.begins[usize::from(self.body[*start])])
            .find_map(|start| {
                let part = &self.body[start..];
                let cut =
                    |text: &[u8]| text.len() > part.len() && text[..part.len()].eq_ignore_ascii_case(part);
                let mut texts = self.search.texts.iter().enumerate();
                texts.find(|(index, text)| is_wanted(*index) && cut(text)).map(|(index, _)| (start, index))
            });
        self.begun = Some((from, begun));
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result for a body whose pieces end at `cuts`: each match is shown as `<index>`.
    fn replaced(texts: &[&str], body: &[u8], cuts: &[usize], once: bool) -> String {
        let search = Search::new(texts.iter().map(|text| text.as_bytes().to_vec())).unwrap();
        let mut used = vec![false; search.count()];
        let (mut out, mut held, mut begin) = (Vec::new(), Vec::new(), 0);
        for (number, end) in cuts.iter().chain([&body.len()]).enumerate() {
            held.extend_from_slice(&body[begin..*end]);
            begin = *end;
            let text = std::mem::take(&mut held);
            let mut scan = search.scan(&text, number == cuts.len());
            let mut at = 0;
            loop {
                match scan.next(at, |index| !once || !used[index]) {
                    Found::Match { start, end, index } => {
                        out.extend_from_slice(&text[at..start]);
                        out.extend_from_slice(format!("<{index}>").as_bytes());
                        (used[index], at) = (true, end);
                    }
                    Found::Rest(rest) => {
                        out.extend_from_slice(&text[at..rest]);
                        held = text[rest..].to_vec();
                        break;
                    }
                }
            }
            let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
            assert!(held.len() < longest.max(1), "no more is held than may be the begin of a match");
        }
        assert!(held.is_empty());
        String::from_utf8(out).unwrap()
    }

    const CASES: &[(&[&str], &str, &str, &str)] = &[
        (&["foo"], "foofoo", "<0><0>", "<0>foo"),
        (&["foo"], "FoO fo", "<0> fo", "<0> fo"),
        (&["aab"], "aaaab", "aa<0>", "aa<0>"),
        (&["abac"], "ababac", "ab<0>", "ab<0>"),
        (&["aabb", "aaabb"], "aabbaaabbaabb", "<0><1><0>", "<0><1>aabb"),
        (&["abcd", "ab"], "abcd ab abc", "<0> <1> <1>c", "<0> <1> abc"),
        (&["ab", "abcd"], "abcdabcd", "<0>cd<0>cd", "<0>cd<1>"),
        (&["abcde", "bc"], "abcdabcde", "a<1>d<0>", "a<1>d<0>"),
        (&["a", "b"], "abab", "<0><1><0><1>", "<0><1>ab"),
        (&["a", "a"], "aaa", "<0><0><0>", "<0><1>a"),
        (&["longer than the body"], "short", "short", "short"),
        (&["x"], "", "", ""),
    ];

    #[test]
    fn the_leftmost_match_of_the_first_text_wins_however_the_body_is_cut() {
        for (texts, body, all, once) in CASES {
            let every: Vec<usize> = (1..body.len()).collect();
            for (expected, is_once) in [(all, false), (once, true)] {
                assert_eq!(replaced(texts, body.as_bytes(), &[], is_once), **expected, "{texts:?}");
                assert_eq!(
                    replaced(texts, body.as_bytes(), &every, is_once),
                    **expected,
                    "{texts:?} by bytes"
                );
                for cut in 1..body.len() {
                    assert_eq!(
                        replaced(texts, body.as_bytes(), &[cut], is_once),
                        **expected,
                        "{texts:?} at {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_match_is_the_same_in_one_piece_and_in_many() {
        use proptest::prelude::*;
        let texts = proptest::collection::vec("[abAB]{1,4}", 1..4);
        let strategy = (texts, "[abAB]{0,40}", proptest::collection::vec(0usize..40, 0..4), any::<bool>());
        proptest!(|((texts, body, mut cuts, once) in strategy)| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            cuts.retain(|cut| *cut <= body.len());
            cuts.sort_unstable();
            let whole = plain(&texts, &body, once);
            prop_assert_eq!(replaced(&texts, body.as_bytes(), &cuts, once), whole);
        });
    }

    /// The same, by trying every text at every position.
    fn plain(texts: &[&str], body: &str, once: bool) -> String {
        let (mut out, mut at) = (String::new(), 0);
        let mut used = vec![false; texts.len()];
        while at < body.len() {
            let found = texts.iter().enumerate().find(|(index, text)| {
                let part = body.get(at..at + text.len());
                (!once || !used[*index]) && part.is_some_and(|part| part.eq_ignore_ascii_case(text))
            });
            match found {
                Some((index, text)) => {
                    out.push_str(&format!("<{index}>"));
                    (used[index], at) = (true, at + text.len());
                }
                None => {
                    out.push_str(&body[at..=at]);
                    at += 1;
                }
            }
        }
        out
    }
}
