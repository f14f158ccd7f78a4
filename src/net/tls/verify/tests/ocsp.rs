//! OCSP responses of every kind, good and hostile, made in memory; and the same bytes as the openssl command's.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rcgen::{ExtendedKeyUsagePurpose, SigningKey};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::lab::{Entity, Folder, date, day, plain};
use crate::net::tls::verify::ocsp::property::reads_response;
use crate::net::tls::verify::ocsp::{Answer, Error, Question, Signers, Status, issuer, responder};
use crate::net::tls::verify::{Purpose, Refusal, Trust, der};

const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 26];
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const DAY: i64 = 86_400;
const GOOD: &[u8] = &[0x80, 0];
const UNKNOWN: &[u8] = &[0x82, 0];

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    der::write(tag, parts, &mut out);
    out
}

/// A time in seconds from now.
fn time(seconds: i64) -> Vec<u8> {
    let mut text = Vec::new();
    crate::sys::clock_local::format(now_s() + seconds, true, b"%Y%m%d%H%M%SZ", &mut text);
    element(der::GENERALIZED_TIME, &[&text])
}

fn now_s() -> i64 {
    i64::try_from(day(0)).expect("a date")
}

fn parsed(der: &CertificateDer<'static>) -> X509Certificate<'static> {
    let leaked: &'static [u8] = Box::leak(der.to_vec().into());
    X509Certificate::from_der(leaked).expect("a certificate").1
}

/// A response, as a responder may make it.
struct Response<'a> {
    /// About this certificate …
    about: &'a Entity,
    /// … of this issuer.
    issuer: &'a Entity,
    signer: &'a Entity,
    certificates: Vec<&'a Entity>,
    status: Vec<u8>,
    /// In seconds from now.
    this_update: i64,
    next_update: Option<i64>,
    is_by_key: bool,
    is_by_sha256: bool,
}

impl<'a> Response<'a> {
    fn new(about: &'a Entity, issuer: &'a Entity, signer: &'a Entity) -> Self {
        Self {
            about,
            issuer,
            signer,
            certificates: Vec::new(),
            status: GOOD.to_vec(),
            this_update: -DAY,
            next_update: Some(DAY),
            is_by_key: false,
            is_by_sha256: false,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn der(&self) -> Vec<u8> {
        let (issuer, about, signer) =
            (parsed(&self.issuer.der), parsed(&self.about.der), parsed(&self.signer.der));
        let (oid, algorithm) =
            if self.is_by_sha256 { (SHA256_OID, &SHA256) } else { (SHA1, &SHA1_FOR_LEGACY_USE_ONLY) };
        let oid = element(der::SEQUENCE, &[&element(der::OBJECT_IDENTIFIER, &[oid]), &[5, 0]]);
        let hash = |data: &[u8]| element(der::OCTET_STRING, &[digest(algorithm, data).as_ref()]);
        let name = hash(issuer.subject().as_raw());
        let key = hash(&issuer.public_key().subject_public_key.data);
        let serial = element(der::INTEGER, &[about.raw_serial()]);
        let id = element(der::SEQUENCE, &[&oid, &name, &key, &serial]);
        let next = self.next_update.map(|days| element(der::explicit(0), &[&time(days)]));
        let single =
            element(der::SEQUENCE, &[&id, &self.status, &time(self.this_update), &next.unwrap_or_default()]);
        let responder = if self.is_by_key {
            let key = digest(&SHA1_FOR_LEGACY_USE_ONLY, &signer.public_key().subject_public_key.data);
            element(der::explicit(2), &[&element(der::OCTET_STRING, &[key.as_ref()])])
        } else {
            element(der::explicit(1), &[signer.subject().as_raw()])
        };
        let list = element(der::SEQUENCE, &[&single]);
        let body = element(der::SEQUENCE, &[&responder, &time(0), &list]);
        let signature = self.signer.key.sign(&body).expect("a signature");
        let algorithm = element(der::SEQUENCE, &[&element(der::OBJECT_IDENTIFIER, &[ECDSA_SHA256])]);
        let signature = element(der::BIT_STRING, &[&[0], &signature]);
        let certificates: Vec<u8> = self.certificates.iter().flat_map(|own| own.der.to_vec()).collect();
        let certificates = match certificates.is_empty() {
            true => Vec::new(),
            false => element(der::explicit(0), &[&element(der::SEQUENCE, &[&certificates])]),
        };
        wrapped(&element(der::SEQUENCE, &[&body, &algorithm, &signature, &certificates]))
    }
}

/// A successful response around a basic one.
fn wrapped(basic: &[u8]) -> Vec<u8> {
    let kind = element(der::OBJECT_IDENTIFIER, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1, 1]]);
    let bytes = element(der::SEQUENCE, &[&kind, &element(der::OCTET_STRING, &[basic])]);
    element(der::SEQUENCE, &[&[der::ENUMERATED, 1, 0], &element(der::explicit(0), &[&bytes])])
}

/// A certificate and those around it.
struct World {
    root: Entity,
    issuer: Entity,
    leaf: Entity,
    question: Question,
}

impl World {
    fn new() -> Self {
        let root = Entity::root("Root", &plain);
        let issuer = root.ca("Issuer", &plain);
        let leaf = issuer.leaf("leaf.test", &plain);
        let question = Question::new(&leaf.der, &issuer.der).expect("readable");
        Self { root, issuer, leaf, question }
    }

    fn delegate(&self, change: super::lab::Change<'_>) -> Entity {
        self.issuer.leaf("signer.test", &|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
            change(params);
        })
    }

    fn ask(&self, response: &[u8], signers: Signers<'_>) -> Result<Status, Error> {
        self.question.answer(response, signers, now_s()).map(|answer| answer.status)
    }

    /// What a client's check and a handshake without `ssl_stapling_verify` make of it.
    fn judge(&self, response: &Response<'_>) -> (Result<Status, Error>, Result<Status, Error>) {
        let der = response.der();
        (self.ask(&der, Signers::Issuer), self.ask(&der, Signers::Any))
    }
}

#[test]
fn the_status_is_what_the_issuer_says() {
    let world = World::new();
    let own = || Response::new(&world.leaf, &world.issuer, &world.issuer);
    let revoked = element(0xa1, &[&time(-2 * DAY)]);
    let cases =
        [(GOOD.to_vec(), Status::Good), (revoked, Status::Revoked), (UNKNOWN.to_vec(), Status::Unknown)];
    for (status, expected) in cases {
        for (is_by_key, is_by_sha256) in [(false, false), (true, false), (false, true)] {
            let response = own().with(|it| {
                (it.status, it.is_by_key, it.is_by_sha256) = (status.clone(), is_by_key, is_by_sha256);
            });
            assert_eq!(world.judge(&response), (Ok(expected), Ok(expected)));
        }
    }
    let answer = |response: Response<'_>| world.question.answer(&response.der(), Signers::Issuer, now_s());
    let until_s = Some(now_s() + DAY);
    let good = |valid_until_s| Ok(Answer { status: Status::Good, valid_until_s });
    assert!(answer(own()) == good(until_s) || answer(own()) == good(until_s.map(|s| s + 1)));
    assert_eq!(answer(own().with(|it| it.next_update = None)), good(None));
}

#[test]
fn answers_about_others_and_at_other_times_do_not_count() {
    let world = World::new();
    let other = world.issuer.leaf("other.test", &plain);
    let stranger = Entity::root("Issuer", &plain);
    let own = || Response::new(&world.leaf, &world.issuer, &world.issuer);
    let cases = [
        (Response::new(&other, &world.issuer, &world.issuer), Error::NotFound),
        (Response::new(&world.leaf, &world.root, &world.issuer), Error::NotFound),
        (Response::new(&world.leaf, &stranger, &world.issuer), Error::NotFound),
        (own().with(|it| (it.this_update, it.next_update) = (-2 * DAY, Some(-DAY))), Error::Expired),
        (own().with(|it| it.this_update = DAY), Error::NotYetValid),
        (own().with(|it| (it.this_update, it.next_update) = (0, Some(-100))), Error::NextBeforeThis),
    ];
    for (response, expected) in cases {
        assert_eq!(world.judge(&response), (Err(expected), Err(expected)));
    }
}

#[test]
fn the_clocks_may_differ_by_five_minutes() {
    let world = World::new();
    let response = Response::new(&world.leaf, &world.issuer, &world.issuer)
        .with(|it| (it.this_update, it.next_update) = (0, Some(0)))
        .der();
    let now_s = now_s();
    let at = |seconds| world.question.answer(&response, Signers::Issuer, now_s + seconds).map(|it| it.status);
    assert_eq!((at(-290), at(290)), (Ok(Status::Good), Ok(Status::Good)));
    assert_eq!((at(-310), at(310)), (Err(Error::NotYetValid), Err(Error::Expired)));
}

#[test]
fn only_the_issuer_and_its_delegates_may_sign() {
    let world = World::new();
    let stranger = Entity::root("Stranger", &plain);
    let impostor = Entity::root("Issuer", &plain);
    let delegate = world.delegate(&plain);
    let mute = world.issuer.leaf("signer.test", &plain);
    let expired = world.delegate(&|params| params.not_after = date!(-1));
    let early = world.delegate(&|params| params.not_before = date!(1));
    let foreign = stranger.leaf("signer.test", &|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    });
    let forged = impostor.leaf("signer.test", &|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    });
    let by = |signer| Response::new(&world.leaf, &world.issuer, signer);
    let sent = |signer| by(signer).with(|it| it.certificates = vec![it.signer]);
    let refused = |refusal| Err(Error::SignerRefused(refusal));
    let good = Ok(Status::Good);
    let cases = [
        ("issuer", by(&world.issuer), good, good),
        ("issuer, sent", sent(&world.issuer), good, good),
        ("delegate", sent(&delegate), good, good),
        ("delegate that is not sent", by(&delegate), Err(Error::SignerNotFound), Err(Error::SignerNotFound)),
        ("delegate without the usage", sent(&mute), Err(Error::NoOcspSigning), good),
        ("expired delegate", sent(&expired), refused(Refusal::Expired), good),
        ("early delegate", sent(&early), refused(Refusal::NotYetValid), good),
        ("delegate of a stranger", sent(&foreign), Err(Error::SignerNotAuthorized), good),
        ("delegate of a false issuer", sent(&forged), Err(Error::SignerNotAuthorized), good),
        ("root", sent(&world.root), Err(Error::SignerNotAuthorized), good),
        ("stranger", sent(&stranger), Err(Error::SignerNotAuthorized), good),
        ("stranger, not sent", by(&stranger), Err(Error::SignerNotFound), Err(Error::SignerNotFound)),
        ("false issuer", sent(&impostor), Err(Error::BadSignature), Err(Error::BadSignature)),
    ];
    for (name, response, for_clients, for_handshakes) in cases {
        assert_eq!(world.judge(&response), (for_clients, for_handshakes), "{name}");
    }
}

#[test]
fn verified_staples_need_a_trusted_root() {
    let world = World::new();
    let other = Entity::root("Other", &plain);
    let delegate = world.delegate(&plain);
    let trust = |certificates: &[&Entity]| {
        let ders = certificates.iter().map(|own| &own.der);
        Trust::new(Purpose::OcspSigner, 100, ders, []).expect("readable")
    };
    let by_issuer = Response::new(&world.leaf, &world.issuer, &world.issuer).der();
    let by_delegate = Response::new(&world.leaf, &world.issuer, &delegate);
    let by_delegate = by_delegate.with(|it| it.certificates = vec![&delegate]).der();
    let by_root = Response::new(&world.leaf, &world.issuer, &world.root);
    let by_root = by_root.with(|it| it.certificates = vec![&world.root]).der();
    let chain = [world.issuer.der.clone()];
    let (rooted, foreign) = (trust(&[&world.root]), trust(&[&other]));
    let complete = trust(&[&world.root, &world.issuer]);
    let ask = |response: &[u8], trust, chain| world.ask(response, Signers::Trusted { trust, chain });
    let good = Ok(Status::Good);
    let unknown = Err(Error::SignerRefused(Refusal::LocalIssuerMissing));
    // A certificate of our own chain counts as it is, as in nginx.
    assert_eq!(ask(&by_issuer, &foreign, &chain), good);
    assert_eq!(ask(&by_issuer, &foreign, &[]), Err(Error::SignerRefused(Refusal::LeafSignatureUnverified)));
    assert_eq!(ask(&by_issuer, &rooted, &[]), good);
    assert_eq!(ask(&by_delegate, &rooted, &chain), good);
    assert_eq!(ask(&by_delegate, &complete, &[]), good);
    assert_eq!(ask(&by_delegate, &foreign, &chain), unknown);
    assert_eq!(ask(&by_root, &complete, &chain), Err(Error::SignerNotAuthorized));
}

#[test]
fn no_part_of_a_response_is_one_and_no_change_makes_another() {
    let world = World::new();
    let delegate = world.delegate(&plain);
    let response = Response::new(&world.leaf, &world.issuer, &delegate);
    let response = response.with(|it| it.certificates = vec![&delegate]).der();
    assert_eq!(world.ask(&response, Signers::Issuer), Ok(Status::Good));
    for length in 0..response.len() {
        assert!(world.ask(&response[..length], Signers::Any).is_err(), "{length}");
    }
    assert_eq!(world.ask(&[&response[..], b"x"].concat(), Signers::Any), Err(Error::Malformed));
    for at in 0..response.len() * 8 {
        let mut changed = response.clone();
        changed[at / 8] ^= 1 << (at % 8);
        // The responder's identity is signed; the tags around are either refused or read alike.
        if let Ok(status) = world.ask(&changed, Signers::Issuer) {
            assert_eq!(status, Status::Good, "bit {at}");
        }
    }
    let long = [&response[..], &vec![0; 40_000]].concat();
    assert_eq!(world.ask(&long, Signers::Any), Err(Error::Malformed));
}

#[test]
fn refusals_of_responders_are_told_in_openssl_words() {
    let world = World::new();
    let cases = [
        (1, "1: malformedrequest"),
        (2, "2: internalerror"),
        (3, "3: trylater"),
        (5, "5: sigrequired"),
        (6, "6: unauthorized"),
        (9, "9: (UNKNOWN)"),
    ];
    for (status, words) in cases {
        let error = world.ask(&[0x30, 3, 0x0a, 1, status], Signers::Any).expect_err("no response");
        assert_eq!(error.to_string(), format!("OCSP response not successful ({words})"));
    }
    assert_eq!(world.ask(&[0x30, 3, 0x0a, 1, 0], Signers::Any), Err(Error::NotBasic));
    assert_eq!(world.ask(&wrapped(&[0x30, 0]), Signers::Any), Err(Error::NotBasic));
    assert_eq!(world.ask(b"<html>", Signers::Any), Err(Error::Malformed));
}

#[test]
fn any_bytes_are_a_response() {
    let world = World::new();
    let delegate = world.delegate(&plain);
    let response = Response::new(&world.leaf, &world.issuer, &delegate);
    let response = response.with(|it| it.certificates = vec![&delegate]).der();
    let mut whole = Vec::new();
    for der in [&world.leaf.der, &world.issuer.der] {
        whole.extend_from_slice(&u16::try_from(der.len()).expect("small").to_be_bytes());
        whole.extend_from_slice(der);
    }
    whole.extend_from_slice(&response);
    reads_response(&whole);
    bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| reads_response(bytes));
    bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|changes| {
        let mut changed = whole.clone();
        for (at, byte) in changes {
            let at = usize::from(*at) % changed.len();
            changed[at] = *byte;
        }
        reads_response(&changed);
    });
}

#[test]
fn issuers_and_responders_are_found() {
    let world = World::new();
    let namesake = Entity::root("Issuer", &|params| params.use_authority_key_identifier_extension = false);
    let found = issuer(&world.leaf.der, [&world.root.der, &namesake.der, &world.issuer.der]);
    assert_eq!(found, Some(&world.issuer.der));
    assert_eq!(issuer(&world.leaf.der, [&world.root.der]), None);
    assert_eq!(responder(&world.leaf.der), None);
    let named = world.issuer.leaf("leaf.test", &|params| {
        params.custom_extensions.push(access(&["http://first.test/", "http://second.test/"]));
    });
    assert_eq!(responder(&named.der).as_deref(), Some("http://first.test/"));
}

/// An authority information access with these responders.
fn access(urls: &[&str]) -> rcgen::CustomExtension {
    let ocsp = element(der::OBJECT_IDENTIFIER, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1]]);
    let one = |url: &&str| element(der::SEQUENCE, &[&ocsp, &element(0x86, &[url.as_bytes()])]);
    let all: Vec<u8> = urls.iter().flat_map(one).collect();
    let content = element(der::SEQUENCE, &[&all]);
    rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content)
}

#[test]
fn the_request_is_the_one_of_openssl() {
    let world = World::new();
    let folder = Folder::new();
    folder.write_pem("leaf.pem", "CERTIFICATE", [&world.leaf.der[..]].into_iter());
    folder.write_pem("issuer.pem", "CERTIFICATE", [&world.issuer.der[..]].into_iter());
    folder.run("ocsp -issuer issuer.pem -cert leaf.pem -no_nonce -reqout request.der");
    let expected = std::fs::read(folder.path("request.der")).expect("a request");
    assert_eq!(world.question.request(), expected);
}
