//! What nginx shows of a client's certificate (`$ssl_client_s_dn`, `$ssl_client_serial`, …), from its DER.
//!
//! Touches: nothing. Truth: ngx_http_ssl_module; OpenSSL 3.0, whose functions nginx calls: X509_NAME_print_ex with
//! XN_FLAG_RFC2253, X509_NAME_oneline, ASN1_TIME_print, i2a_ASN1_INTEGER, PEM_write_bio_X509.

use std::fmt::Write;

use sha1::{Digest, Sha1};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

use crate::base::base64;
use crate::base::path::{Escape, escape_uri};

use super::verify::text;

/// A certificate that is read once, to show one or more of its facts.
pub struct Subject<'a> {
    parsed: X509Certificate<'a>,
}

impl<'a> Subject<'a> {
    /// Reads a certificate. None if it cannot be read.
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        rest.is_empty().then_some(Self { parsed })
    }

    /// `$ssl_client_s_dn`: `CN=example.com,O=Example`, RFC 2253. ASCII only.
    pub fn subject_dn(&self) -> String {
        rfc2253(self.parsed.subject())
    }

    /// `$ssl_client_i_dn`.
    pub fn issuer_dn(&self) -> String {
        rfc2253(self.parsed.issuer())
    }

    /// `$ssl_client_s_dn_legacy`: `/O=Example/CN=example.com`. ASCII only.
    pub fn subject_dn_legacy(&self) -> String {
        one_line(self.parsed.subject())
    }

    /// `$ssl_client_i_dn_legacy`.
    pub fn issuer_dn_legacy(&self) -> String {
        one_line(self.parsed.issuer())
    }

    /// `$ssl_client_serial`: hexadecimal digits in upper case, two for each byte.
    pub fn serial(&self) -> String {
        let bytes = self.parsed.raw_serial();
        let is_negative = bytes.first().is_some_and(|first| *first >= 0x80);
        let mut magnitude = bytes.to_vec();
        if is_negative {
            // Two's complement: the bytes inverted, plus one.
            let mut carry = true;
            for byte in magnitude.iter_mut().rev() {
                (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
            }
        }
        let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
        let digits = magnitude.get(zeros..).filter(|digits| !digits.is_empty()).unwrap_or(&[0]);
        let mut out = String::from(if is_negative { "-" } else { "" });
        digits.iter().for_each(|byte| push_hex(*byte, &mut out));
        out
    }

    /// `$ssl_client_fingerprint`: SHA-1 of the certificate in lower case.
    pub fn fingerprint(&self) -> String {
        let digest = Sha1::digest(self.parsed.as_raw());
        let mut out = String::with_capacity(40);
        for byte in digest.as_slice() {
            let _ = write!(out, "{byte:02x}"); // writing to a String cannot fail
        }
        out
    }

    /// `$ssl_client_v_start`: `Nov  9 12:00:00 2026 GMT`.
    pub fn not_before(&self) -> String {
        date(self.parsed.validity().not_before)
    }

    /// `$ssl_client_v_end`.
    pub fn not_after(&self) -> String {
        date(self.parsed.validity().not_after)
    }

    /// The last second in which the certificate is valid, since 1970.
    pub fn not_after_s(&self) -> i64 {
        self.parsed.validity().not_after.timestamp()
    }

    /// `$ssl_client_v_remain`: whole days until the certificate expires; 0 for an expired one.
    pub fn days_remaining(&self, now_s: i64) -> i64 {
        self.not_after_s().saturating_sub(now_s).max(0) / 86_400
    }

    /// `$ssl_client_raw_cert`: PEM with a line feed at its end.
    pub fn pem(&self) -> Vec<u8> {
        pem(self.parsed.as_raw())
    }

    /// `$ssl_client_cert`: PEM for a header field: a tab after each line feed, and no line feed at its end.
    pub fn pem_folded(&self) -> Vec<u8> {
        let pem = self.pem();
        let pem = pem.strip_suffix(b"\n").unwrap_or(&pem);
        let mut out = Vec::with_capacity(pem.len() + pem.len() / 64 + 2);
        for byte in pem {
            out.push(*byte);
            if *byte == b'\n' {
                out.push(b'\t');
            }
        }
        out
    }

    /// `$ssl_client_escaped_cert`: PEM, URL-encoded.
    pub fn pem_escaped(&self) -> Vec<u8> {
        let mut out = Vec::new();
        escape_uri(&self.pem(), Escape::UriComponent, &mut out);
        out
    }
}

fn pem(der: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(der.len() / 3 * 4 + 4);
    base64::encode(der, &mut text);
    let mut out = Vec::with_capacity(text.len() + text.len() / 64 + 64);
    out.extend_from_slice(b"-----BEGIN CERTIFICATE-----\n");
    for line in text.chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(b"-----END CERTIFICATE-----\n");
    out
}

fn date(time: ASN1Time) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = time.to_datetime();
    let month = MONTHS.get(usize::from(u8::from(time.month())).wrapping_sub(1)).copied().unwrap_or_default();
    let (day, year) = (time.day(), time.year());
    format!("{month} {day:2} {:02}:{:02}:{:02} {year} GMT", time.hour(), time.minute(), time.second())
}

/// A name backwards, its parts joined by commas, attributes of one part by plus signs.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let sets: Vec<&RelativeDistinguishedName<'_>> = name.iter().collect();
    for set in sets.iter().rev() {
        let attributes: Vec<&AttributeTypeAndValue<'_>> = set.iter().collect();
        for (index, attribute) in attributes.iter().rev().enumerate() {
            if !out.is_empty() {
                out.push(if index == 0 { ',' } else { '+' });
            }
            push_attribute(attribute, &mut out);
        }
    }
    out
}

fn push_attribute(attribute: &AttributeTypeAndValue<'_>, out: &mut String) {
    let (oid, value) = (attribute.attr_type(), attribute.attr_value());
    let tag = value.tag().0;
    let short_name = short_name(oid);
    match short_name {
        Some(name) => out.push_str(name),
        None => out.push_str(&dotted(oid)),
    }
    out.push('=');
    let bytes = match tag {
        // UTF-8 is not looked at, and dates are text.
        12 | 23 | 24 => Some(value.data.to_vec()),
        _ => text(tag, value.data).map(String::into_bytes),
    };
    match bytes.filter(|_| short_name.is_some()) {
        Some(bytes) => push_escaped(&bytes, out),
        None => {
            // The attribute is unknown, or its value is no string: the whole element, as it is encoded.
            out.push('#');
            for byte in element(value.header.raw_tag(), tag, value.header.is_constructed(), value.data) {
                push_hex(byte, out);
            }
        }
    }
}

/// DER of an element.
fn element(raw_tag: Option<&[u8]>, tag: u32, is_constructed: bool, data: &[u8]) -> Vec<u8> {
    let short_tag = u8::try_from(tag & 0x1f).unwrap_or_default() | if is_constructed { 0x20 } else { 0 };
    let mut out = raw_tag.map_or_else(|| vec![short_tag], <[u8]>::to_vec);
    let length = data.len().to_be_bytes();
    let length = length.get(length.iter().take_while(|byte| **byte == 0).count()..).unwrap_or_default();
    match length {
        [] => out.push(0),
        [short @ 0..0x80] => out.push(*short),
        _ => {
            out.push(0x80 | u8::try_from(length.len()).unwrap_or_default());
            out.extend_from_slice(length);
        }
    }
    out.extend_from_slice(data);
    out
}

/// RFC 2253 §2.4 with all bytes outside of ASCII as hexadecimal digits.
fn push_escaped(bytes: &[u8], out: &mut String) {
    for (index, &byte) in bytes.iter().enumerate() {
        let is_last = index + 1 == bytes.len();
        let is_escaped = match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => true,
            b' ' => index == 0 || is_last,
            // OpenSSL looks at the last byte as such only.
            b'#' => index == 0 && !is_last,
            _ => false,
        };
        if is_escaped {
            out.push('\\');
            out.push(char::from(byte));
        } else if byte.is_ascii_control() || !byte.is_ascii() {
            out.push('\\');
            push_hex(byte, out);
        } else {
            out.push(char::from(byte));
        }
    }
}

/// A name forwards, each part behind a slash, attributes of one part joined by plus signs.
fn one_line(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    for set in name.iter() {
        for (index, attribute) in set.iter().enumerate() {
            out.push(if index == 0 { '/' } else { '+' });
            match short_name(attribute.attr_type()) {
                Some(name) => out.push_str(name),
                None => out.push_str(&dotted(attribute.attr_type())),
            }
            out.push('=');
            for &byte in attribute.attr_value().data {
                match byte {
                    b'/' | b'+' => out.extend(['\\', char::from(byte)]),
                    b' '..=b'~' => out.push(char::from(byte)),
                    _ => {
                        out.push_str("\\x");
                        push_hex(byte, &mut out);
                    }
                }
            }
        }
    }
    out
}

fn push_hex(byte: u8, out: &mut String) {
    let _ = write!(out, "{byte:02X}"); // writing to a String cannot fail
}

fn dotted(oid: &Oid<'_>) -> String {
    oid.to_id_string()
}

/// OpenSSL's short names of the attributes that names have.
fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    let name = match oid.as_bytes() {
        [0x55, 4, kind] => match kind {
            3 => "CN",
            4 => "SN",
            5 => "serialNumber",
            6 => "C",
            7 => "L",
            8 => "ST",
            9 => "street",
            10 => "O",
            11 => "OU",
            12 => "title",
            13 => "description",
            14 => "searchGuide",
            15 => "businessCategory",
            16 => "postalAddress",
            17 => "postalCode",
            18 => "postOfficeBox",
            19 => "physicalDeliveryOfficeName",
            20 => "telephoneNumber",
            21 => "telexNumber",
            22 => "teletexTerminalIdentifier",
            23 => "facsimileTelephoneNumber",
            24 => "x121Address",
            25 => "internationaliSDNNumber",
            26 => "registeredAddress",
            27 => "destinationIndicator",
            28 => "preferredDeliveryMethod",
            29 => "presentationAddress",
            30 => "supportedApplicationContext",
            31 => "member",
            32 => "owner",
            33 => "roleOccupant",
            34 => "seeAlso",
            35 => "userPassword",
            36 => "userCertificate",
            37 => "cACertificate",
            38 => "authorityRevocationList",
            39 => "certificateRevocationList",
            40 => "crossCertificatePair",
            41 => "name",
            42 => "GN",
            43 => "initials",
            44 => "generationQualifier",
            45 => "x500UniqueIdentifier",
            46 => "dnQualifier",
            47 => "enhancedSearchGuide",
            48 => "protocolInformation",
            49 => "distinguishedName",
            50 => "uniqueMember",
            51 => "houseIdentifier",
            52 => "supportedAlgorithms",
            53 => "deltaRevocationList",
            54 => "dmdName",
            65 => "pseudonym",
            72 => "role",
            97 => "organizationIdentifier",
            98 => "c3",
            99 => "n3",
            100 => "dnsName",
            _ => return None,
        },
        // pkcs-9
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, kind] => match kind {
            1 => "emailAddress",
            2 => "unstructuredName",
            3 => "contentType",
            4 => "messageDigest",
            5 => "signingTime",
            6 => "countersignature",
            7 => "challengePassword",
            8 => "unstructuredAddress",
            9 => "extendedCertificateAttributes",
            20 => "friendlyName",
            _ => return None,
        },
        // pilot attributes (RFC 4524)
        [9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, kind] => match kind {
            1 => "UID",
            2 => "textEncodedORAddress",
            3 => "mail",
            4 => "info",
            5 => "favouriteDrink",
            6 => "roomNumber",
            8 => "userClass",
            9 => "host",
            10 => "manager",
            20 => "homeTelephoneNumber",
            21 => "secretary",
            25 => "DC",
            37 => "associatedDomain",
            38 => "associatedName",
            40 => "personalTitle",
            41 => "mobileTelephoneNumber",
            44 => "uid",
            _ => return None,
        },
        // extended validation
        [0x2b, 6, 1, 4, 1, 0x82, 0x37, 60, 2, 1, kind] => match kind {
            1 => "jurisdictionL",
            2 => "jurisdictionST",
            3 => "jurisdictionC",
            _ => return None,
        },
        // Russian tax and insurance numbers
        [0x2a, 0x85, 3, 100, kind] => match kind {
            1 => "OGRN",
            3 => "SNILS",
            5 => "OGRNIP",
            _ => return None,
        },
        [0x2a, 0x85, 3, 3, 0x81, 3, 1, 1] => "INN",
        _ => return None,
    };
    Some(name)
}

#[cfg(test)]
mod tests;
