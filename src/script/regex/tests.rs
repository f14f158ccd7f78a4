//! Patterns as PCRE users write them, run.

use super::*;

fn compile(pattern: &str) -> Pattern {
    Pattern::new(pattern, false, Span::default())
        .unwrap_or_else(|error| panic!("{pattern}: {}", error.message))
}

fn matches(pattern: &str, subject: &[u8]) -> bool {
    compile(pattern).is_match(subject).expect("within the limit")
}

fn group<'a>(pattern: &str, subject: &'a [u8], index: usize) -> &'a [u8] {
    let groups = compile(pattern).captures(subject).expect("within the limit").expect("a match");
    &subject[groups[index].clone()]
}

#[test]
fn both_engines_capture() {
    let linear = compile(r"^/u/(?<name>[a-z]+)\.php$");
    assert_eq!(linear.names(), [("name".into(), 1)]);
    assert_eq!(group(r"^/u/(?<name>[a-z]+)\.php$", b"/u/bob.php", 1), b"bob");
    assert_eq!(compile(r"^/(?!private)(?<x>\w+)$").names(), [("x".into(), 1)]);
    assert_eq!(group(r"^/(?!private)(\w+)$", b"/open", 1), b"open");
    assert!(!matches(r"^/(?!private)(\w+)$", b"/private"));
}

#[test]
fn patterns_mean_what_pcre_means() {
    let cases: &[(&str, &[u8], bool)] = &[
        // quoted text
        (r"^\Qa.b\E$", b"a.b", true),
        (r"^\Qa.b\E$", b"axb", false),
        (r"^(?<x>[a-z]+)\Q.[c\E\d$", b"ab.[c7", true),
        (r"^\Qto the end+", b"to the end+", true),
        (r"^a\Eb$", b"ab", true),
        (r"^(?!x)\Q(y\E", b"(y", true),
        (r"^[\Q]-\E]+$", b"]-", true),
        // escapes that need not be
        (r"^\/a\-b\_\<\>\#\ \@$", b"/a-b_<># @", true),
        (r"^\h\H\R\N\V$", b" x\nxx", true),
        (r"^\x41\x{42}\103\0\e\cA$", b"ABC\0\x1b\x01", true),
        (r"^(a)\1$", b"aa", true),
        (r"^(?<a>x)(y)\2\1$", b"xyyx", true),
        (r"^(a)\11$", b"a\t", true),
        // ends
        (r"\.php$", b"/a.php\n", true),
        (r"\.php$", b"/a.php\n\n", false),
        (r"\.php\z", b"/a.php\n", false),
        (r"\.php\Z", b"/a.php\n", true),
        (r"(?m)a$", b"a\nb", true),
        (r"(?=/)\W+a$", b"/a\n", true),
        // braces and classes
        (r"^a{2,3}$", b"aa", true),
        (r"^a{,3}$", b"a{,3}", true),
        (r"^{x}a{$", b"{x}a{", true),
        (r"^[\w-.]+$", b"a-.", true),
        (r"^[.-\d]+$", b".-7", true),
        (r"^[]a]+$", b"]a", true),
        (r"^[^]a]$", b"b", true),
        (r"^[a&&b]+$", b"a&b", true),
        (r"^[a[b]+$", b"[ab", true),
        (r"^[[:alpha:][:digit:]_]+$", b"aZ9_", true),
        (r"^[[:^alpha:]]$", b"a", false),
        (r"^[\b\h]$", b"\x08", true),
        (r"^[a#^ -]+$", b"a#^ -", true),
        // groups
        (r"^(?'n'a)(?P=n)\k{n}\k'n'\k<n>\g{n}$", b"aaaaaa", true),
        (r"^(a)(b)\g{-1}\g1\g{2}$", b"abbab", true),
        (r"^a(?#said (aside)b$", b"ab", true),
        (r"^(?i)ABC(?-i)d$", b"abcd", true),
        (r"^(?i)ABC(?-i)d$", b"abcD", false),
        (r"^(?i:ab)c$", b"ABc", true),
        ("(?x) ^ a # said aside (\n b $", b"ab", true),
        // what was taken is not given back
        (r"^a++a", b"aaa", false),
        (r"^(?>a+)a", b"aaa", false),
        (r"^a*+b$", b"aab", true),
        (r"^(?:a|b){2}+b$", b"abb", true),
        (r"a\Kb", b"ab", true),
        (r"^(a)?(?(1)b|c)$", b"c", true),
        (r"(*FAIL)|a", b"a", true),
        // bytes and characters
        (r"^.$", "é".as_bytes(), false),
        (r"^..$", "é".as_bytes(), true),
        (r"^[é]{2}$", "é".as_bytes(), true),
        (r"(*UTF8)^.$", "é".as_bytes(), true),
        (r"(*UTF8)^\p{Lu}$", "É".as_bytes(), true),
        (r"^\p{N}+[\p{Lu}\PL]\pL$", b"17Ax", true),
        (r"^\p{L}$", b"\xe9", true),
        (r"^\P{L}$", b"\xe9", false),
        (r"(?i)é", "É".as_bytes(), false),
        (r"^/(?!x).*é", b"/\xff\xc3\xa9", true),
        (r"^(?!x).$", b"\xff", true),
        (r"^\w$", b"\xe9", false),
        (r"^(?!x)\w$", b"\xe9", false),
    ];
    for (pattern, subject, expected) in cases {
        assert_eq!(
            matches(pattern, subject),
            *expected,
            "{pattern} {:?}",
            subject.escape_ascii().to_string()
        );
    }
}

#[test]
fn what_cannot_be_run_says_so_and_what_to_write() {
    let cases = [
        ("(unclosed", "unclosed group", ""),
        ("a**", "", ""),
        (r"\C", r"\C cannot be run", "a dot is one byte"),
        ("a(?C1)b", "a callout", "take it out"),
        ("(a(?R)?b)", "calls itself", "as deep as it is needed"),
        ("(a(?1)?b)", "calls itself", "as deep as it is needed"),
        (r"(a)\g<1>", "calls itself", "as deep as it is needed"),
        ("(?|(a)|(b))", "share their numbers", "a number of its own"),
        ("a(*SKIP)b", "(*SKIP) cannot be run", "(*UTF8)"),
        ("(*CRLF)a", "(*CRLF) cannot be run", "(*UTF8)"),
        (r"\p{Wibble}", "names no property", "without it"),
        ("[a", "is not closed", r"\["),
        (r"\X", r"\X cannot be run", "without it"),
        ("(?:(?:(?:a{1000}){1000}){1000})", "too much memory", "lower numbers"),
    ];
    for (pattern, why, help) in cases {
        let Err(error) = Pattern::new(pattern, false, Span::default()) else {
            assert_eq!(why, "", "{pattern} was taken");
            continue;
        };
        assert!(error.message.contains(pattern) && error.message.contains(why), "{}", error.message);
        assert!(error.help.as_deref().unwrap_or("").contains(help), "{pattern}: {:?}", error.help);
    }
}

#[test]
fn groups_have_a_bound_to_their_depth() {
    for begin in ["(", "(?:", "(?=", "(?!", "(?>", "(?i:", "(?<=", "(*FAIL)("] {
        let text = begin.repeat(100_000) + &")".repeat(100_000);
        let error = Pattern::new(&text, false, Span::default()).expect_err("it is too deep");
        assert!(error.message.contains("groups are nested more than 250 deep"), "{begin}");
    }
    assert!(matches(&("(".repeat(200) + "a" + &")".repeat(200)), b"a"));
    assert!(matches(&"(a)".repeat(1000), "a".repeat(1000).as_bytes()), "one behind the other");
    for whole in ["(?#said aside)", "(?i)", "(?:)", "(?i:)", "(?=a)", "(?P=n)?"] {
        let text = "(?P<n>a)".to_owned() + &whole.repeat(300);
        assert!(matches(&text, b"aa"), "{whole}");
    }
    assert!(!matches(&("(*FAIL)".repeat(300)), b"a"));
}

#[test]
fn a_hostile_pattern_gives_up_instead_of_hanging() {
    let hostile = compile(r"^(?=(a+)+b)(a+)+$");
    assert_eq!(hostile.is_match("a".repeat(40).as_bytes()), Ok(false), "its look ahead is linear");
    let hostile = compile(r"^((a+)+(?!c))+\1$");
    let before = std::time::Instant::now();
    let subject = "a".repeat(8000) + "b";
    assert_eq!(hostile.captures(subject.as_bytes()), Err(GaveUp { span: Span::default() }));
    assert!(before.elapsed().as_secs() < 10, "{:?}", before.elapsed());
}

#[test]
fn a_group_without_part_is_empty() {
    let groups = compile("^(a)?(b)?").captures(b"b").expect("within the limit").expect("a match");
    assert_eq!(groups.to_vec(), [0..1, 0..0, 0..1]);
}
