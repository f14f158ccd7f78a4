//! `ssl_conf_command`: the commands of OpenSSL's configuration, as far as rustls has a counterpart.
//!
//! Touches: the selections of `settings`. A command with a counterpart changes them; one that would only tune
//! OpenSSL is noted; one that would change who is trusted, or what is served, is an error that names nginx's
//! directive for it, since ignoring it would be a hole.
//! Behaviour: SSL_CONF_cmd(3), with the names of configuration files, in which case does not matter.

use super::ciphers;
use super::settings::{self, Choice, Dropped, Error, Protocols, Reason, Selected};

/// Commands that nginx has a directive for, and its name.
const DIRECTIVES: [(&str, &str); 12] = [
    ("ChainCAPath", "ssl_certificate"),
    ("ChainCAFile", "ssl_certificate"),
    ("ChainCAStore", "ssl_certificate"),
    ("VerifyMode", "ssl_verify_client"),
    ("VerifyCAPath", "ssl_trusted_certificate"),
    ("VerifyCAFile", "ssl_trusted_certificate"),
    ("VerifyCAStore", "ssl_trusted_certificate"),
    ("RequestCAPath", "ssl_client_certificate"),
    ("RequestCAFile", "ssl_client_certificate"),
    ("RequestCAStore", "ssl_client_certificate"),
    ("ClientCAPath", "ssl_client_certificate"),
    ("ClientCAFile", "ssl_client_certificate"),
];

/// Commands without a counterpart.
const WITHOUT_EFFECT: [&str; 5] =
    ["SignatureAlgorithms", "ClientSignatureAlgorithms", "RecordPadding", "DHParameters", "ServerInfoFile"];

/// Words of `Options` without a counterpart: rustls behaves in one way only, and securely.
const OPTIONS_WITHOUT_EFFECT: [&str; 21] = [
    "EmptyFragments",
    "Bugs",
    "Compression",
    "NoResumptionOnRenegotiation",
    "DHSingle",
    "ECDHSingle",
    "UnsafeLegacyRenegotiation",
    "UnsafeLegacyServerConnect",
    "ClientRenegotiation",
    "EncryptThenMac",
    "NoRenegotiation",
    "AllowNoDHEKEX",
    "PreferNoDHEKEX",
    "MiddleboxCompat",
    "AntiReplay",
    "ExtendedMasterSecret",
    "CANames",
    "KTLS",
    "StrictCertCheck",
    "RxCertificateCompression",
    "KTLSTxZerocopySendfile",
];

/// The largest number of tickets that OpenSSL sends.
const TICKETS_MAX: usize = 255;

/// A command that names a file of a certificate or of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    Certificate,
    PrivateKey,
}

/// The kind of file that a command names, if it names one; [`apply`] does not know these commands.
pub fn file(name: &str) -> Option<File> {
    match name {
        _ if name.eq_ignore_ascii_case("Certificate") => Some(File::Certificate),
        _ if name.eq_ignore_ascii_case("PrivateKey") => Some(File::PrivateKey),
        _ => None,
    }
}

/// Applies one command and returns notes about what has no effect.
pub fn apply(selected: &mut Selected, name: &str, value: &str) -> Result<Vec<Dropped>, Error> {
    match name.to_ascii_lowercase().as_str() {
        "cipherstring" => put(&mut selected.ciphers, ciphers::ciphers(value)?),
        "ciphersuites" => put(&mut selected.ciphersuites, ciphers::ciphersuites(value)?),
        "groups" | "curves" | "ecdhparameters" => {
            put(&mut selected.groups, settings::groups(&automatic(value))?)
        }
        "minprotocol" => bound(selected, "MinProtocol", value, false),
        "maxprotocol" => bound(selected, "MaxProtocol", value, true),
        "protocol" => protocol(selected, value),
        "options" => options(selected, value),
        "numtickets" => {
            let count = value.parse().ok().filter(|count| *count <= TICKETS_MAX);
            selected.ticket_count = Some(count.ok_or_else(|| wrong("NumTickets", value))?);
            Ok(Vec::new())
        }
        _ => {
            let is_name = |known: &str| known.eq_ignore_ascii_case(name);
            if let Some((command, directive)) = DIRECTIVES.iter().find(|(known, _)| is_name(known)) {
                return Err(Error::UseDirective { command, directive });
            }
            if WITHOUT_EFFECT.into_iter().any(is_name) {
                return Ok(vec![Dropped::new(name, Reason::NoEffect)]);
            }
            Err(Error::Unknown { kind: "command", word: name.to_owned() })
        }
    }
}

fn put<T>(target: &mut T, choice: Choice<T>) -> Result<Vec<Dropped>, Error> {
    *target = choice.value;
    Ok(choice.dropped)
}

fn wrong(command: &'static str, value: &str) -> Error {
    Error::Value { command, value: value.to_owned() }
}

/// `ECDHParameters Automatic` is an old way to write the default.
fn automatic(value: &str) -> String {
    let is_automatic = value.eq_ignore_ascii_case("automatic") || value.eq_ignore_ascii_case("+automatic");
    if is_automatic { "auto".to_owned() } else { value.to_owned() }
}

/// A version by its name: 2 and 3 are TLS 1.2 and 1.3, less is 0.
fn version(name: &str) -> Option<u8> {
    match name.to_ascii_lowercase().as_str() {
        "tlsv1.3" => Some(3),
        "tlsv1.2" => Some(2),
        "sslv2" | "sslv3" | "tlsv1" | "tlsv1.0" | "tlsv1.1" => Some(0),
        _ => None,
    }
}

fn bound(
    selected: &mut Selected,
    command: &'static str,
    value: &str,
    is_max: bool,
) -> Result<Vec<Dropped>, Error> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    let version = version(value).ok_or_else(|| wrong(command, value))?;
    let is_in = |own: u8| if is_max { own <= version } else { own >= version };
    let Protocols { tls12, tls13 } = selected.protocols;
    let left = Protocols { tls12: tls12 && is_in(2), tls13: tls13 && is_in(3) };
    set_protocols(selected, left, is_max && version == 0)?;
    let is_noted = version == 0;
    Ok(if is_noted { vec![Dropped::new(value, Reason::OldProtocol)] } else { Vec::new() })
}

/// `Protocol ALL, -TLSv1.3`: begins with what is on.
fn protocol(selected: &mut Selected, value: &str) -> Result<Vec<Dropped>, Error> {
    let mut left = selected.protocols;
    let mut dropped = Vec::new();
    for item in value.split(',').map(str::trim) {
        let (is_on, word) = signed(item);
        if word.eq_ignore_ascii_case("ALL") {
            left = Protocols { tls12: is_on, tls13: is_on };
            continue;
        }
        match version(word).ok_or_else(|| wrong("Protocol", item))? {
            3 => left.tls13 = is_on,
            2 => left.tls12 = is_on,
            _ if is_on => dropped.push(Dropped::new(word, Reason::OldProtocol)),
            _ => {}
        }
    }
    set_protocols(selected, left, false)?;
    Ok(dropped)
}

fn set_protocols(selected: &mut Selected, left: Protocols, are_old: bool) -> Result<(), Error> {
    if !left.tls12 && !left.tls13 {
        return Err(if are_old { Error::OldProtocols } else { Error::NoProtocol });
    }
    selected.protocols = left;
    Ok(())
}

fn options(selected: &mut Selected, value: &str) -> Result<Vec<Dropped>, Error> {
    let mut dropped = Vec::new();
    for item in value.split(',').map(str::trim) {
        let (is_on, word) = signed(item);
        match word.to_ascii_lowercase().as_str() {
            "serverpreference" => selected.server_preference = Some(is_on),
            "prioritizechacha" => selected.prioritizes_chacha = is_on,
            "sessionticket" => selected.session_tickets = Some(is_on),
            "txcertificatecompression" => selected.certificate_compression = Some(is_on),
            "ignoreunexpectedeof" => dropped.push(Dropped::new(word, Reason::NoEffect)),
            _ if OPTIONS_WITHOUT_EFFECT.iter().any(|known| known.eq_ignore_ascii_case(word)) => {
                dropped.push(Dropped::new(word, Reason::NoEffect));
            }
            _ => return Err(Error::Unknown { kind: "option of OpenSSL", word: word.to_owned() }),
        }
    }
    Ok(dropped)
}

/// A word with `+` or `-` before it; without either it is on.
fn signed(item: &str) -> (bool, &str) {
    match item.as_bytes().first() {
        Some(b'-') => (false, &item[1..]),
        Some(b'+') => (true, &item[1..]),
        _ => (true, item),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(name: &str, value: &str) -> Result<(Selected, usize), Error> {
        let mut selected = Selected::default();
        let notes = apply(&mut selected, name, value)?;
        Ok((selected, notes.len()))
    }

    #[test]
    fn commands_change_what_is_selected() {
        let (selected, _) = applied("Ciphersuites", "TLS_CHACHA20_POLY1305_SHA256").expect("a suite");
        assert_eq!((selected.ciphersuites.len(), selected.ciphers.len()), (1, 6));
        let (selected, _) = applied("cipherstring", "ECDSA").expect("three suites");
        assert_eq!((selected.ciphersuites.len(), selected.ciphers.len()), (3, 3));
        for name in ["Groups", "Curves", "ECDHParameters"] {
            let (selected, notes) = applied(name, "X448:P-384").expect("a group");
            assert_eq!((selected.groups.len(), notes), (1, 1));
        }
        assert_eq!(applied("ECDHParameters", "+Automatic").expect("the default").0.groups.len(), 4);
        let (selected, notes) =
            applied("Options", "ServerPreference,PrioritizeChaCha, -SessionTicket").expect("options");
        assert_eq!((selected.server_preference, selected.session_tickets), (Some(true), Some(false)));
        assert_eq!((selected.prioritizes_chacha, notes), (true, 0));
        let (selected, _) = applied("Options", "-TxCertificateCompression").expect("an option");
        assert_eq!(selected.certificate_compression, Some(false));
        assert_eq!(applied("NumTickets", "0").expect("a number").0.ticket_count, Some(0));
        assert_eq!(applied("RecordPadding", "4096").expect("known").1, 1);
    }

    #[test]
    fn bounds_of_protocols() {
        let both = |name: &str, value: &str| {
            applied(name, value)
                .map(|(selected, notes)| (selected.protocols.tls12, selected.protocols.tls13, notes))
        };
        assert_eq!(both("MinProtocol", "TLSv1"), Ok((true, true, 1)));
        assert_eq!(both("MinProtocol", "None"), Ok((true, true, 0)));
        assert_eq!(both("MinProtocol", "TLSv1.3"), Ok((false, true, 0)));
        assert_eq!(both("MaxProtocol", "TLSv1.2"), Ok((true, false, 0)));
        assert_eq!(both("MaxProtocol", "TLSv1.1"), Err(Error::OldProtocols));
        assert_eq!(both("Protocol", "-ALL,TLSv1.1,TLSv1.2"), Ok((true, false, 1)));
        assert_eq!(both("Protocol", "-ALL"), Err(Error::NoProtocol));
        assert!(matches!(both("MinProtocol", "TLSv2"), Err(Error::Value { .. })));
        let mut selected = Selected::default();
        apply(&mut selected, "MaxProtocol", "TLSv1.2").expect("a bound");
        assert_eq!(apply(&mut selected, "MinProtocol", "TLSv1.3"), Err(Error::NoProtocol));
    }

    #[test]
    fn what_would_change_trust_is_refused() {
        let error = applied("VerifyMode", "Require").map(|_| ()).expect_err("not ignored");
        assert!(error.to_string().contains("ssl_verify_client"), "{error}");
        for (name, value) in [
            ("Nonsense", "1"),
            ("Options", "Nonsense"),
            ("NumTickets", "256"),
            ("Options", ""),
            ("Certificate", "a"),
        ] {
            assert!(applied(name, value).is_err(), "{name} {value}");
        }
    }
}
