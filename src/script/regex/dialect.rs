//! PCRE's spelling of patterns in that of our two engines, which share a syntax that is nearly PCRE's.
//!
//! Pure. What means something else there, or nothing, is written anew; what neither engine can run is refused, with what to
//! write instead. Truth: pcre2pattern(3); the syntax of regex-syntax and of fancy-regex.

use std::fmt::Write;

use regex_syntax::hir::{Class, Hir, HirKind};

/// A pattern in the syntax of the engines.
#[derive(Debug, PartialEq, Eq)]
pub struct Translated {
    pub text: String,
    /// It looks around, refers back, or does not give back what it took.
    pub backtracks: bool,
    /// `(*UTF8)`: characters are matched, not bytes.
    pub is_utf: bool,
}

/// Why a pattern cannot be run, and what to do instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub why: String,
    pub help: &'static str,
}

const REWRITE: &str = "write the pattern without it";
const VERBS: &str =
    "only (*UTF8), (*UCP), (*NO_…) and (*LIMIT_…) may stand at the beginning of a pattern, and (*FAIL) in it";

/// Groups inside one another; PCRE's limit. Engines take time by the square of it.
const DEPTH_MAX: usize = 250;

/// Horizontal and vertical white space, as what stands in a class.
const HORIZONTAL: &str = r"\t \xA0";
const VERTICAL: &str = r"\n\x0B\x0C\r\x85";

pub fn translate(pattern: &str) -> Result<Translated, Refused> {
    let mut is_utf = false;
    let mut rest = pattern;
    while let Some((verb, after)) = rest.strip_prefix("(*").and_then(|rest| rest.split_once(')')) {
        match verb {
            "UTF8" | "UTF" | "UCP" => is_utf = true,
            "LF" | "F" | "FAIL" => {}
            _ if verb.starts_with("NO_") || verb.starts_with("LIMIT_") => {}
            _ => return Err(verb_refused(verb)),
        }
        if matches!(verb, "F" | "FAIL") {
            break; // it stands in the pattern
        }
        rest = after;
    }
    let mut reader = Reader {
        rest,
        is_utf,
        is_multiline: has_flag(rest, 'm'),
        is_extended: has_flag(rest, 'x'),
        group_count: count_groups(rest),
        open_count: 0,
        depth: 0,
        backtracks: false,
        out: String::with_capacity(rest.len() + 16),
    };
    reader.run()?;
    Ok(Translated { text: reader.out, backtracks: reader.backtracks, is_utf })
}

struct Reader<'a> {
    rest: &'a str,
    is_utf: bool,
    /// `$` stands before every line feed somewhere in the pattern: it is left as it is.
    is_multiline: bool,
    is_extended: bool,
    group_count: usize,
    /// Capturing groups begun so far.
    open_count: usize,
    /// Groups that are open now.
    depth: usize,
    backtracks: bool,
    out: String,
}

impl<'a> Reader<'a> {
    fn run(&mut self) -> Result<(), Refused> {
        while let Some(char) = self.next() {
            match char {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return Err(Refused {
                            why: format!("groups are nested more than {DEPTH_MAX} deep"),
                            help: REWRITE,
                        });
                    }
                    self.group()?;
                }
                ')' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.literal(char);
                }
                '{' => self.brace(),
                '*' | '+' | '?' => {
                    self.out.push(char);
                    self.after_quantifier();
                }
                // Before a last line feed too; the look ahead of the other engine takes nothing.
                '$' if !self.is_multiline => self.out.push_str(r"(?:\n?$)"),
                '#' if self.is_extended => {
                    self.rest = self.rest.split_once('\n').map_or("", |(_, after)| after);
                }
                _ => self.literal(char),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let char = chars.next()?;
        self.rest = chars.as_str();
        Some(char)
    }

    fn takes(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Without `(*UTF8)` a pattern is bytes, and so is a character that takes several of them.
    fn literal(&mut self, char: char) {
        if char.is_ascii() || self.is_utf {
            self.out.push(char);
            return;
        }
        for byte in char.encode_utf8(&mut [0; 4]).bytes() {
            self.byte(byte);
        }
    }

    fn byte(&mut self, byte: u8) {
        let _ = write!(self.out, "\\x{byte:02X}");
    }

    fn quoted(&mut self, char: char) {
        if regex_syntax::is_meta_character(char) {
            self.out.push('\\');
        }
        self.literal(char);
    }

    /// A second `+` behind a quantifier: what was taken is not given back.
    fn after_quantifier(&mut self) {
        if self.rest.starts_with('+') {
            self.backtracks = true;
        }
        if self.rest.starts_with(['+', '?']) {
            let second = self.next();
            self.out.extend(second);
        }
    }

    /// A count, or else a brace like any other character.
    fn brace(&mut self) {
        let count = self.rest.split_once('}');
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_count = |inside: &str| match inside.split_once(',') {
            Some((min, max)) => is_number(min) && (max.is_empty() || is_number(max)),
            None => is_number(inside),
        };
        match count.filter(|(inside, _)| is_count(inside)) {
            Some((inside, after)) => {
                let _ = write!(self.out, "{{{inside}}}");
                self.rest = after;
                self.after_quantifier();
            }
            None => self.out.push_str(r"\{"),
        }
    }

    fn group(&mut self) -> Result<(), Refused> {
        if let Some(verb) = self.rest.strip_prefix('*') {
            let (verb, after) = verb.split_once(')').unwrap_or((verb, ""));
            if !matches!(verb, "F" | "FAIL") {
                return Err(verb_refused(verb));
            }
            self.rest = after;
            self.backtracks = true;
            self.out.push_str("(?!)");
            self.depth -= 1; // it has ended
            return Ok(());
        }
        if !self.takes("?") {
            self.open_count += 1;
            self.out.push('(');
            return Ok(());
        }
        for look in ["<=", "<!", "=", "!", ">"] {
            if self.takes(look) {
                self.backtracks = true;
                self.out.push_str("(?");
                self.out.push_str(look);
                return Ok(());
            }
        }
        for (open, close) in [("P<", '>'), ("<", '>'), ("'", '\'')] {
            if self.takes(open) {
                let Some((name, after)) = self.rest.split_once(close) else { break };
                self.open_count += 1;
                let _ = write!(self.out, "(?P<{name}>");
                self.rest = after;
                return Ok(());
            }
        }
        if let Some(name) = self.rest.strip_prefix("P=") {
            let (name, after) = name.split_once(')').unwrap_or((name, ""));
            self.rest = after;
            self.backtracks = true;
            let _ = write!(self.out, r"\k<{name}>");
            self.depth -= 1; // it has ended
            return Ok(());
        }
        if let Some(comment) = self.rest.strip_prefix('#') {
            self.rest = comment.split_once(')').map_or("", |(_, after)| after);
            self.depth -= 1; // it has ended
            return Ok(());
        }
        self.other_group()
    }

    fn other_group(&mut self) -> Result<(), Refused> {
        let (why, help) = match self.rest.as_bytes().first() {
            Some(b'C') => ("a callout, (?C…), calls nothing here", "take it out"),
            Some(b'R' | b'&' | b'0'..=b'9' | b'+') => (RECURSION, REPEAT),
            Some(b'-') if self.rest[1..].starts_with(|char: char| char.is_ascii_digit()) => {
                (RECURSION, REPEAT)
            }
            Some(b'P') => (RECURSION, REPEAT),
            Some(b'|') => (
                "groups that share their numbers, (?|…), cannot be run",
                "give each group a number of its own, or write a pattern for each alternative",
            ),
            Some(b'(') => {
                self.backtracks = true;
                self.out.push_str("(?");
                return Ok(());
            }
            _ => {
                self.out.push_str("(?");
                // flags; `J` only allows names to stand twice
                while let Some(flag) =
                    self.rest.chars().next().filter(|char| char.is_ascii_alphabetic() || *char == '-')
                {
                    self.next();
                    if flag != 'J' {
                        self.out.push(flag);
                    }
                }
                return Ok(());
            }
        };
        Err(Refused { why: why.into(), help })
    }

    fn escape(&mut self) -> Result<(), Refused> {
        let Some(char) = self.next() else {
            self.out.push('\\');
            return Ok(());
        };
        match char {
            'Q' => {
                let (text, after) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                self.rest = after;
                text.chars().for_each(|char| self.quoted(char));
            }
            'E' => {} // an end without a beginning
            'Z' => self.out.push_str(r"(?:\n?\z)"),
            'G' => self.out.push_str(r"\A"),
            'K' => {
                self.backtracks = true;
                self.out.push_str(r"\K");
            }
            'R' => {
                let _ = write!(self.out, r"(?:\r\n|[{VERTICAL}])");
            }
            'N' => self.out.push_str(r"[^\n]"),
            'h' => self.negatable(false, HORIZONTAL),
            'H' => self.negatable(true, HORIZONTAL),
            'v' => self.negatable(false, VERTICAL),
            'V' => self.negatable(true, VERTICAL),
            'p' | 'P' if !self.is_utf => {
                let members = self.property(char)?;
                let members = if members.is_empty() { r"^\x00-\xFF" } else { &members };
                let _ = write!(self.out, "[{members}]");
            }
            'g' | 'k' => self.reference(char)?,
            '1'..='9' => self.number(char),
            _ => self.common_escape(char)?,
        }
        Ok(())
    }

    fn negatable(&mut self, is_negated: bool, members: &str) {
        let _ = write!(self.out, "[{}{members}]", if is_negated { "^" } else { "" });
    }

    /// A backslash and digits: a group that is there, else a byte in octal.
    fn number(&mut self, first: char) {
        let rest = self.rest.as_bytes();
        let length = rest.iter().take(2).take_while(|byte| byte.is_ascii_digit()).count();
        let text = format!("{first}{}", &self.rest[..length]);
        let number: usize = text.parse().unwrap_or(0);
        if number <= 9 || number <= self.group_count {
            self.rest = &self.rest[length..];
            self.backtracks = true;
            let _ = write!(self.out, r"(?:\{number})");
        } else {
            self.octal(first);
        }
    }

    fn octal(&mut self, first: char) {
        let mut value = first.to_digit(8).unwrap_or(0);
        for _ in 0..2 {
            let Some(digit) = self.rest.chars().next().and_then(|char| char.to_digit(8)) else { break };
            self.next();
            value = value * 8 + digit;
        }
        self.byte(value as u8);
    }

    /// `\k<name>`, `\k{name}`, `\k'name'`, `\g{name}`, `\g{-1}`, `\g1`.
    fn reference(&mut self, letter: char) -> Result<(), Refused> {
        self.backtracks = true;
        let close = match self.rest.chars().next() {
            Some('{') => '}',
            Some('<') if letter == 'k' => '>',
            Some('\'') if letter == 'k' => '\'',
            Some('<' | '\'') => return Err(Refused { why: RECURSION.into(), help: REPEAT }),
            _ => '\0',
        };
        let name = if close == '\0' {
            let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
            let length = self.rest.bytes().take_while(|byte| is_part(byte)).count();
            let (name, after) = self.rest.split_at(length);
            self.rest = after;
            name
        } else {
            let (name, after) = self.rest[1..].split_once(close).unwrap_or(("", ""));
            self.rest = after;
            name
        };
        let _ = match name.parse::<i64>() {
            Ok(number) if number < 0 => {
                write!(self.out, r"(?:\{})", (self.open_count as i64 + 1 + number).max(0))
            }
            Ok(number) => write!(self.out, r"(?:\{number})"),
            Err(_) => write!(self.out, r"\k<{name}>"),
        };
        Ok(())
    }

    /// What means the same inside of a class and outside.
    fn common_escape(&mut self, char: char) -> Result<(), Refused> {
        match char {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'b' | 'B' | 'A' | 'z' | 'n' | 'r' | 't' | 'f' | 'a' => {
                self.out.push('\\');
                self.out.push(char);
            }
            'p' | 'P' => {
                self.out.push('\\');
                self.out.push(char);
                let name = self.property_name();
                self.out.push_str(name);
            }
            'e' => self.byte(0x1b),
            'c' => {
                let control = self.next().filter(char::is_ascii).unwrap_or('@');
                self.byte(control.to_ascii_uppercase() as u8 ^ 0x40);
            }
            'x' => self.hexadecimal(),
            'o' => {
                let digits = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let Some((digits, after)) = digits else {
                    return Err(Refused { why: r"\o without {…}".into(), help: r"write \o{12}" });
                };
                self.rest = after;
                let _ = write!(self.out, r"\x{{{:X}}}", u32::from_str_radix(digits, 8).unwrap_or(u32::MAX));
            }
            '0' => self.octal(char),
            'C' => {
                let help = "without (*UTF8) a dot is one byte";
                return Err(Refused { why: r"\C cannot be run".into(), help });
            }
            _ if char.is_ascii_alphanumeric() => {
                return Err(Refused { why: format!(r"\{char} cannot be run"), help: REWRITE });
            }
            _ => self.quoted(char),
        }
        Ok(())
    }

    /// What stands behind `\p`: a letter, or a name in braces.
    fn property_name(&mut self) -> &'a str {
        let length = match self.rest.strip_prefix('{').and_then(|rest| rest.find('}')) {
            Some(at) => at + 2,
            None => self.rest.chars().next().map_or(0, char::len_utf8),
        };
        let (name, after) = self.rest.split_at(length);
        self.rest = after;
        name
    }

    /// The bytes that have a property, as what stands in a class: without `(*UTF8)` a byte is the character of its number.
    fn property(&mut self, letter: char) -> Result<String, Refused> {
        let name = self.property_name();
        let hir = regex_syntax::parse(&format!(r"\{letter}{name}"));
        let Ok(HirKind::Class(Class::Unicode(class))) = hir.map(Hir::into_kind) else {
            return Err(Refused { why: format!(r"\{letter}{name} names no property"), help: REWRITE });
        };
        let mut members = String::new();
        for range in class.iter().filter(|range| u32::from(range.start()) <= 0xff) {
            let (start, end) = (u32::from(range.start()), u32::from(range.end()).min(0xff));
            let _ = write!(members, r"\x{start:02X}-\x{end:02X}");
        }
        Ok(members)
    }

    /// Up to two digits, or any number in braces.
    fn hexadecimal(&mut self) {
        if let Some((digits, after)) = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            let _ = write!(self.out, r"\x{{{digits}}}");
            self.rest = after;
            return;
        }
        let length = self.rest.bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
        let (digits, after) = self.rest.split_at(length);
        self.rest = after;
        self.byte(u8::from_str_radix(digits, 16).unwrap_or(0));
    }

    /// In a class of ours `[`, `&&`, `--` and `~~` mean something.
    fn class(&mut self) -> Result<(), Refused> {
        self.out.push('[');
        if self.takes("^") {
            self.out.push('^');
        }
        let mut is_first = true;
        // a `-` behind a class of its own, `[\w-.]`, is a character
        let mut is_after_class = false;
        loop {
            let Some(char) = self.next() else {
                return Err(Refused {
                    why: "a class, […], is not closed".into(),
                    help: r"write \[ for the character",
                });
            };
            let mut is_class = false;
            match char {
                ']' if !is_first => break,
                '[' => match posix(self.rest) {
                    Some((name, after)) => {
                        let _ = write!(self.out, "[:{name}:]");
                        self.rest = after;
                        is_class = true;
                    }
                    None => self.out.push_str(r"\["),
                },
                '\\' => is_class = self.class_escape()?,
                '-' => {
                    let begins_class = matches!(
                        self.rest.as_bytes(),
                        [
                            b'\\',
                            b'd' | b'D' | b'w' | b'W' | b's' | b'S' | b'h' | b'H' | b'v' | b'V' | b'p' | b'P',
                            ..
                        ]
                    ) || self.rest.starts_with("[:");
                    let is_character =
                        is_first || is_after_class || begins_class || self.rest.starts_with(']');
                    self.out.push_str(if is_character { r"\-" } else { "-" });
                }
                ']' | '&' | '~' | '^' | '#' | ' ' => {
                    let _ = write!(self.out, r"\x{:02X}", char as u32);
                }
                _ => self.literal(char),
            }
            is_first = false;
            is_after_class = is_class;
        }
        self.out.push(']');
        Ok(())
    }

    /// An escape inside of a class: whether it was a class itself.
    fn class_escape(&mut self) -> Result<bool, Refused> {
        let Some(char) = self.next() else { return Ok(false) };
        match char {
            'b' => self.byte(8),
            'h' => self.out.push_str(HORIZONTAL),
            'v' => self.out.push_str(VERTICAL),
            'Q' => {
                let (text, after) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
                self.rest = after;
                text.chars().for_each(|char| self.quoted(char));
                return Ok(false);
            }
            'E' => return Ok(false),
            'p' | 'P' if !self.is_utf => {
                let members = self.property(char)?;
                self.out.push_str(&members);
            }
            '1'..='7' => self.octal(char),
            'B' | 'R' | 'X' | 'N' | 'H' | 'V' => {
                return Err(Refused { why: format!(r"\{char} cannot be run in a class"), help: REWRITE });
            }
            _ => self.common_escape(char)?,
        }
        Ok(matches!(char, 'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'p' | 'P' | 'h' | 'v'))
    }
}

const RECURSION: &str = "a group that is called from another place, or calls itself, cannot be run";
const REPEAT: &str = "write the group's pattern where it is called, as deep as it is needed";

fn verb_refused(verb: &str) -> Refused {
    Refused { why: format!("(*{verb}) cannot be run"), help: VERBS }
}

/// The name and what follows of `:alpha:]`.
fn posix(rest: &str) -> Option<(&str, &str)> {
    let (name, after) = rest.strip_prefix(':')?.split_once(":]")?;
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'^').then_some((name, after))
}

/// Whether a group sets a flag: `(?m)`, `(?i-m:…)`.
fn has_flag(pattern: &str, flag: char) -> bool {
    pattern.match_indices("(?").any(|(at, _)| {
        let is_flag = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'-';
        let rest = &pattern.as_bytes()[at + 2..];
        let (flags, after) = rest.split_at(rest.iter().take_while(|byte| is_flag(byte)).count());
        matches!(after, [b')' | b':', ..]) && flags.contains(&(flag as u8))
    })
}

/// Capturing groups, near enough to tell `\11` from an octal number.
fn count_groups(pattern: &str) -> usize {
    let bytes = pattern.as_bytes();
    let mut count = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'(' if !matches!(bytes.get(at + 1), Some(b'?' | b'*')) => count += 1,
            b'(' if bytes[at..].starts_with(b"(?P<") || bytes[at..].starts_with(b"(?'") => count += 1,
            b'(' if bytes[at..].starts_with(b"(?<") && !matches!(bytes.get(at + 3), Some(b'=' | b'!')) => {
                count += 1
            }
            _ => {}
        }
        at += 1;
    }
    count
}
