//! Names in certificates: distinguished names to compare, and whether a certificate is for a host.
//!
//! Touches: nothing. Truth: RFC 5280 §7.1 in OpenSSL's simpler form; X509_check_host(3) without flags, which
//! nginx calls for upstreams.

use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::refusal::Refusal;

/// The tags of strings, as numbers of their universal class.
pub mod string {
    /// UTF8String.
    pub const UTF8: u32 = 12;
    /// NumericString.
    pub const NUMERIC: u32 = 18;
    /// PrintableString.
    pub const PRINTABLE: u32 = 19;
    /// TeletexString, read as ISO 8859-1.
    pub const TELETEX: u32 = 20;
    /// IA5String.
    pub const IA5: u32 = 22;
    /// VisibleString.
    pub const VISIBLE: u32 = 26;
    /// UniversalString: UTF-32, big-endian.
    pub const UNIVERSAL: u32 = 28;
    /// BMPString: UTF-16, big-endian.
    pub const BMP: u32 = 30;
}

/// A distinguished name in a form that is equal for equal names: strings as UTF-8 in lower case (ASCII only),
/// with single spaces. Values that are no strings keep their tag and bytes. Not for display.
pub fn canonical(name: &X509Name<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.as_raw().len());
    for set in name.iter() {
        let mut parts: Vec<Vec<u8>> = set.iter().map(canonical_attribute).collect();
        parts.sort_unstable();
        push_length(parts.len(), &mut out);
        out.extend(parts.into_iter().flatten());
    }
    out
}

fn canonical_attribute(attribute: &x509_parser::x509::AttributeTypeAndValue<'_>) -> Vec<u8> {
    let (oid, value) = (attribute.attr_type().as_bytes(), attribute.attr_value());
    let tag = value.tag().0;
    let (kind, text) = match text(tag, value.data).filter(|_| tag != string::NUMERIC) {
        Some(text) => (string::UTF8, fold(&text).into_bytes()),
        None => (tag, value.data.to_vec()),
    };
    let mut out = Vec::with_capacity(oid.len() + text.len() + 12);
    push_length(oid.len(), &mut out);
    out.extend_from_slice(oid);
    out.extend_from_slice(&kind.to_be_bytes());
    push_length(text.len(), &mut out);
    out.extend_from_slice(&text);
    out
}

fn push_length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// Lower case, single spaces between words.
fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for word in text.split(|letter: char| letter == ' ' || ('\t'..='\r').contains(&letter)) {
        if !word.is_empty() {
            if !folded.is_empty() {
                folded.push(' ');
            }
            folded.extend(word.chars().map(|letter| letter.to_ascii_lowercase()));
        }
    }
    folded
}

/// A string of a certificate as UTF-8. None for other values, and for bytes that are not of their encoding.
pub fn text(tag: u32, bytes: &[u8]) -> Option<String> {
    match tag {
        string::UTF8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
        string::NUMERIC | string::PRINTABLE | string::TELETEX | string::IA5 | string::VISIBLE => {
            Some(bytes.iter().map(|byte| char::from(*byte)).collect())
        }
        string::UNIVERSAL => {
            let (letters, rest) = bytes.as_chunks::<4>();
            let letters = letters.iter().map(|letter| char::from_u32(u32::from_be_bytes(*letter)));
            letters.collect::<Option<String>>().filter(|_| rest.is_empty())
        }
        string::BMP => {
            let (letters, rest) = bytes.as_chunks::<2>();
            let letters = letters.iter().map(|letter| char::from_u32(u16::from_be_bytes(*letter).into()));
            letters.collect::<Option<String>>().filter(|_| rest.is_empty())
        }
        _ => None,
    }
}

/// The names that a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names of the alternative names, wildcards included.
    pub dns: Vec<String>,
    /// Addresses of the alternative names.
    pub addresses: Vec<IpAddr>,
    /// Common names of the subject.
    pub common: Vec<String>,
}

impl Names {
    /// Reads the names. Empty for a certificate that cannot be read.
    pub fn of(certificate: &[u8]) -> Self {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Self::default() };
        let mut names = Self::default();
        let common = parsed.subject().iter_by_oid(&OID_X509_COMMON_NAME);
        names.common =
            common.filter_map(|name| text(name.attr_value().tag().0, name.attr_value().data)).collect();
        let Ok(Some(alternative)) = parsed.subject_alternative_name() else { return names };
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        names
    }

    /// Whether the certificate names no host and no address at all.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.addresses.is_empty() && self.common.is_empty()
    }

    /// Whether the certificate is for `host`: a DNS name, or an address as text.
    ///
    /// An address is looked for among the addresses, and then as if it were a name, as nginx compares it.
    /// A name is looked for among the DNS names; common names count only if there is no DNS name.
    pub fn check(&self, host: &str) -> Result<(), Refusal> {
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        if ip.is_some_and(|ip| self.addresses.contains(&ip)) {
            return Ok(());
        }
        let names = if self.dns.is_empty() { &self.common } else { &self.dns };
        match names.iter().any(|pattern| matches_host(pattern, host)) {
            true => Ok(()),
            false if ip.is_some() && !self.addresses.is_empty() => Err(Refusal::AddressMismatch),
            false => Err(Refusal::HostnameMismatch),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Whether a name of a certificate, which may have a wildcard, is for a host.
fn matches_host(pattern: &str, host: &str) -> bool {
    if host.is_empty() || pattern.contains('\0') || host.contains('\0') {
        return false;
    }
    let Some(star) = wildcard(pattern) else { return pattern.eq_ignore_ascii_case(host) };
    let (prefix, suffix) = (&pattern[..star], &pattern[star + 1..]);
    let Some(middle_bytes) = host.len().checked_sub(prefix.len() + suffix.len()) else { return false };
    let (Some(head), Some(middle), Some(tail)) = (
        host.get(..prefix.len()),
        host.get(prefix.len()..prefix.len() + middle_bytes),
        host.get(prefix.len() + middle_bytes..),
    ) else {
        return false;
    };
    let is_whole_label = prefix.is_empty() && suffix.starts_with('.');
    head.eq_ignore_ascii_case(prefix)
        && tail.eq_ignore_ascii_case(suffix)
        && !(is_whole_label && middle.is_empty())
        && (is_whole_label || !is_internationalized(host))
        && (middle == "*" || middle.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
}

fn is_internationalized(label: &str) -> bool {
    label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"))
}

/// Where the one `*` of a wildcard is: at the begin or the end of the first label, which is no
/// internationalized one, before at least two more labels. None for other names.
fn wildcard(pattern: &str) -> Option<usize> {
    let (first, others) = pattern.split_once('.')?;
    let star = first.find('*')?;
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let rest = [&first[..star], &first[star + 1..]].concat();
    let is_at_edge = star == 0 || star + 1 == first.len();
    let is_first_sound =
        rest.is_empty() || is_label(&rest) || (star > 0 && is_label(rest.trim_end_matches('-')));
    (is_at_edge
        && is_first_sound
        && !is_internationalized(first)
        && others.contains('.')
        && others.split('.').all(is_label))
    .then_some(star)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_label() {
        for (pattern, host, expected) in [
            ("example.com", "EXAMPLE.com", true),
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "xn--a.example.com", true),
            ("w*.example.com", "www.example.com", true),
            ("*w.example.com", "www.example.com", true),
            ("w*w.example.com", "www.example.com", false),
            ("w*.example.com", "xn--w.example.com", false),
            ("xn--*.example.com", "xn--w.example.com", false),
            ("*.com", "example.com", false),
            ("www.*.com", "www.example.com", false),
            ("*.*.com", "www.example.com", false),
            ("*", "example", false),
            ("*.example.com", "*.example.com", true),
            ("*.-example.com", "www.-example.com", false),
            ("*.example.com.", "www.example.com.", false),
            ("exa\0mple.com", "exa\0mple.com", false),
            ("*.example.com", "wéw.example.com", false),
            ("*é.example.com", "wé.example.com", false),
            ("", "", false),
        ] {
            assert_eq!(matches_host(pattern, host), expected, "{pattern} for {host}");
        }
    }
}
