//! Our verdict on each case, and OpenSSL's. Where they differ, the case says why.

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::lab::{Entity, Folder, date, day, now, plain};
use crate::net::tls::verify::{Purpose, Refusal, Trust};

/// A chain, what is trusted, and the numbers of the expected errors (0: none).
struct Case {
    name: &'static str,
    trusted: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    purpose: Purpose,
    depth: usize,
    /// Our verdict, which is nginx's unless the case says more.
    ours: u8,
    /// The last error that `openssl verify` reports: it stops at most errors, nginx goes on.
    openssl: u8,
}

fn case<const T: usize, const C: usize>(
    name: &'static str,
    trusted: [&CertificateDer<'static>; T],
    chain: [&CertificateDer<'static>; C],
    expected: u8,
) -> Case {
    Case {
        name,
        trusted: trusted.into_iter().cloned().collect(),
        chain: chain.into_iter().cloned().collect(),
        crls: Vec::new(),
        purpose: Purpose::Client,
        depth: 9,
        ours: expected,
        openssl: expected,
    }
}

impl Case {
    fn depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }

    fn server(self) -> Self {
        Self { purpose: Purpose::Server, ..self }
    }

    fn openssl(self, openssl: u8) -> Self {
        Self { openssl, ..self }
    }

    fn crls<const N: usize>(self, crls: [CertificateRevocationListDer<'static>; N]) -> Self {
        Self { crls: crls.into(), ..self }
    }

    fn verdict(&self) -> u8 {
        let trust = Trust::new(self.purpose, self.depth, &self.trusted, &self.crls).expect("readable files");
        trust.check(&self.chain, now()).map_or_else(Refusal::number, |()| 0)
    }

    /// Runs `openssl verify` as nginx sets OpenSSL up.
    fn ask_openssl(&self, folder: &Folder) -> (u8, String) {
        let certificates = |ders: &[CertificateDer<'static>], name: &str| {
            folder.write_pem(name, "CERTIFICATE", ders.iter().map(|der| der.as_ref()));
        };
        certificates(&self.trusted, "trusted.pem");
        certificates(&self.chain[..1], "leaf.pem");
        certificates(&self.chain[1..], "sent.pem");
        let (time, depth) = (day(0).to_string(), self.depth.to_string());
        let purpose = if self.purpose == Purpose::Client { "sslclient" } else { "sslserver" };
        let mut words = vec!["verify", "-attime", &time, "-auth_level", "2", "-purpose", purpose];
        words.extend(["-verify_depth", &depth, "-no-CAfile", "-no-CApath", "-no-CAstore"]);
        if !self.trusted.is_empty() {
            words.extend(["-CAfile", "trusted.pem"]);
        }
        if self.chain.len() > 1 {
            words.extend(["-untrusted", "sent.pem"]);
        }
        if !self.crls.is_empty() {
            folder.write_pem("crls.pem", "X509 CRL", self.crls.iter().map(|der| der.as_ref()));
            words.extend(["-CRLfile", "crls.pem", "-crl_check", "-crl_check_all"]);
        }
        words.push("leaf.pem");
        let (is_accepted, text) = folder.openssl(&words);
        let mut errors =
            text.lines().filter_map(|line| line.strip_prefix("error ")?.split(' ').next()?.parse().ok());
        let last = errors.next_back().unwrap_or(if is_accepted { 0 } else { 255 });
        (last, text)
    }
}

fn check(cases: &[Case]) {
    let folder = Folder::new();
    let mut faults = Vec::new();
    for case in cases {
        let (openssl, text) = case.ask_openssl(&folder);
        let ours = case.verdict();
        if (ours, openssl) != (case.ours, case.openssl) {
            let expected = (case.ours, case.openssl);
            faults.push(format!(
                "{}: (ours, openssl) {:?}, not {expected:?}\n{text}",
                case.name,
                (ours, openssl)
            ));
        }
        if let Some(words) = Refusal::ALL.iter().find(|refusal| refusal.number() == openssl) {
            assert!(text.contains(&format!("lookup: {words}\n")), "{}: {text}", case.name);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn chains_and_their_depth() {
    let root = Entity::root("Root", &plain);
    let one = root.ca("One", &plain);
    let two = one.ca("Two", &plain);
    let three = two.ca("Three", &plain);
    let (direct, first) = (root.leaf("direct.example", &plain), one.leaf("first.example", &plain));
    let (second, third) = (two.leaf("second.example", &plain), three.leaf("third.example", &plain));
    let other = Entity::root("Other", &plain);
    let mimic = Entity::root("Root", &plain);
    let mut broken = direct.der.to_vec();
    *broken.last_mut().expect("not empty") ^= 1;
    let broken = CertificateDer::from(broken);
    check(&[
        case("below the root", [&root.der], [&direct.der], 0),
        case("below an intermediate", [&root.der], [&first.der, &one.der], 0),
        case("sent with the root", [&root.der], [&first.der, &one.der, &root.der], 0),
        case("sent in another order", [&root.der], [&second.der, &one.der, &root.der, &two.der], 0),
        case("with certificates of others", [&root.der], [&first.der, &other.der, &one.der], 0),
        case("the intermediate is trusted too", [&root.der, &one.der], [&first.der], 0),
        case("only the intermediate is trusted", [&one.der], [&first.der], 2),
        case("only the intermediate is trusted, all sent", [&one.der], [&first.der, &one.der, &root.der], 2),
        // After 20, nginx's last error is that the one certificate has no issuer to check it by.
        case("intermediate missing", [&root.der], [&first.der], 21).openssl(20),
        case("root not trusted, not sent", [&other.der], [&first.der, &one.der], 20),
        case("root not trusted, sent", [&other.der], [&first.der, &one.der, &root.der], 19),
        case("nothing trusted", [], [&direct.der], 21).openssl(20),
        case("depth 0, none between", [&root.der], [&direct.der], 0).depth(0),
        // OpenSSL says 22 first, then that an issuer is missing, or that the root is not trusted; nginx shows the last.
        case("depth 0, one between", [&root.der], [&first.der, &one.der], 20).depth(0).openssl(22),
        case("depth 1, one between", [&root.der], [&first.der, &one.der], 0).depth(1),
        case("depth 1, two between", [&root.der], [&second.der, &two.der, &one.der], 20).depth(1).openssl(22),
        case("depth 2, two between", [&root.der], [&second.der, &two.der, &one.der], 0).depth(2),
        case("depth 2, three between", [&root.der], [&third.der, &three.der, &two.der, &one.der], 20)
            .depth(2)
            .openssl(22),
        case("depth 3, three between", [&root.der], [&third.der, &three.der, &two.der, &one.der], 0).depth(3),
        case("depth 1, untrusted and sent", [&other.der], [&first.der, &one.der, &root.der], 19)
            .depth(1)
            .openssl(22),
        // For upstreams we keep the more helpful one.
        case("depth 0, one between, server", [&root.der], [&first.der, &one.der], 22).depth(0).server(),
        case("depth 0, missing issuer", [&other.der], [&direct.der], 21).depth(0).openssl(20),
        case("a root of the same name", [&mimic.der], [&direct.der], 21).openssl(20),
        case("broken signature", [&root.der], [&broken], 7),
    ]);
}

#[test]
fn certificates_that_are_trusted_themselves() {
    let single = Entity::single("single.example", &plain);
    let authority = Entity::root("authority.example", &|params| {
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    });
    let expired = Entity::single("expired.example", &|params| params.not_after = date!(-1));
    let root = Entity::root("Root", &plain);
    let leaf = root.leaf("leaf.example", &plain);
    let mimic = Entity::single("single.example", &plain);
    check(&[
        case("self-signed, trusted", [&single.der], [&single.der], 0),
        case("self-signed, trusted, depth 0", [&single.der], [&single.der], 0).depth(0),
        case("self-signed server, trusted", [&single.der], [&single.der], 0).server(),
        case("self-signed, not trusted", [&root.der], [&single.der], 18),
        case("self-signed, another of its name is trusted", [&mimic.der], [&single.der], 18),
        case("self-signed and expired, trusted", [&expired.der], [&expired.der], 10),
        case("self-signed and expired, not trusted", [&root.der], [&expired.der], 10),
        case("a CA that is also the server, trusted", [&authority.der], [&authority.der], 0).server(),
        case("a CA that is also the server, not trusted", [&root.der], [&authority.der], 18).server(),
        // Pinned: for upstreams we take the very certificate; OpenSSL asks for a root.
        case("server's certificate without its root", [&leaf.der], [&leaf.der], 0).server().openssl(20),
        case("client's certificate without its root", [&leaf.der], [&leaf.der], 21).openssl(20),
    ]);
}

#[test]
fn dates() {
    let root = Entity::root("Root", &plain);
    let old = root.leaf("old.example", &|params| params.not_after = date!(-1));
    let young = root.leaf("young.example", &|params| params.not_before = date!(1));
    let old_one = root.ca("Old", &|params| params.not_after = date!(-1));
    let below = old_one.leaf("below.example", &plain);
    let old_root = Entity::root("Old root", &|params| params.not_after = date!(-1));
    let below_root = old_root.leaf("below.example", &plain);
    let new_root = root_again(&old_root);
    check(&[
        case("expired", [&root.der], [&old.der], 10),
        case("not yet valid", [&root.der], [&young.der], 9),
        case("expired intermediate", [&root.der], [&below.der, &old_one.der], 10),
        case("expired root", [&old_root.der], [&below_root.der], 10),
        case("expired root beside its successor", [&old_root.der, &new_root], [&below_root.der], 0),
        case("expired and unknown", [], [&old.der], 10).openssl(20),
    ]);
}

/// The same name and key with new dates.
fn root_again(root: &Entity) -> CertificateDer<'static> {
    let mut params = root.params.clone();
    params.not_after = date!(100);
    params.self_signed(&root.key).expect("a certificate").der().clone()
}

#[test]
fn what_a_certificate_may_be_used_for() {
    let root = Entity::root("Root", &plain);
    let with = |purposes: &[ExtendedKeyUsagePurpose]| {
        root.leaf("leaf.example", &|params| params.extended_key_usages = purposes.to_vec()).der
    };
    let (client, server) =
        (with(&[ExtendedKeyUsagePurpose::ClientAuth]), with(&[ExtendedKeyUsagePurpose::ServerAuth]));
    let (any, none) = (with(&[ExtendedKeyUsagePurpose::Any]), with(&[]));
    let mail = with(&[ExtendedKeyUsagePurpose::EmailProtection]);
    let usage = |usages: &[KeyUsagePurpose]| {
        root.leaf("leaf.example", &|params| params.key_usages = usages.to_vec()).der
    };
    let (encipherment, agreement) =
        (usage(&[KeyUsagePurpose::KeyEncipherment]), usage(&[KeyUsagePurpose::KeyAgreement]));
    let free = usage(&[]);
    let no_signer = root.ca("No signer", &|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let no_ca = root.leaf("no-ca.example", &plain);
    let unmarked = root.ca("Unmarked", &|params| params.is_ca = IsCa::NoCa);
    let unmarked_root = Entity::root("Unmarked root", &|params| params.is_ca = IsCa::NoCa);
    let server_ca = root.ca("Servers", &|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let mail_root = Entity::root("Mail", &|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    });
    let below = |issuer: &Entity| issuer.leaf("below.example", &plain).der;
    let (under_no_signer, under_no_ca) = (below(&no_signer), below(&no_ca));
    let (under_unmarked, under_server) = (below(&unmarked), below(&server_ca));
    check(&[
        case("client as client", [&root.der], [&client], 0),
        case("client as server", [&root.der], [&client], 26).server(),
        case("server as client", [&root.der], [&server], 26),
        case("server as server", [&root.der], [&server], 0).server(),
        case("any extended usage", [&root.der], [&any], 26),
        case("no extended usage", [&root.der], [&none], 0),
        case("for mail only", [&root.der], [&mail], 26),
        case("client for key encipherment only", [&root.der], [&encipherment], 26),
        case("server for key encipherment only", [&root.der], [&encipherment], 0).server(),
        case("for key agreement only", [&root.der], [&agreement], 0),
        case("no key usage", [&root.der], [&free], 0),
        case("server not trusted as client", [], [&server], 21).openssl(20),
        case("issuer must not sign", [&root.der], [&under_no_signer, &no_signer.der], 32),
        case("issuer is no CA", [&root.der], [&under_no_ca, &no_ca.der], 32),
        case("issuer without constraints", [&root.der], [&under_unmarked, &unmarked.der], 79),
        case("root without constraints", [&unmarked_root.der], [&below(&unmarked_root)], 0),
        case("client below a CA for servers", [&root.der], [&under_server, &server_ca.der], 26),
        case("server below a CA for servers", [&root.der], [&under_server, &server_ca.der], 0).server(),
        case("root for mail", [&mail_root.der], [&below(&mail_root)], 26),
        case("server not trusted by an mail root", [&mail_root.der], [&server], 21).openssl(20),
    ]);
}

#[test]
fn path_length_and_cross_signatures() {
    let limit = |max: u8| {
        move |params: &mut rcgen::CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(max));
        }
    };
    let root = Entity::root("Root", &plain);
    let zero = root.ca("Zero", &limit(0));
    let below_zero = zero.ca("Below zero", &plain);
    let (good, bad) = (zero.leaf("good.example", &plain), below_zero.leaf("bad.example", &plain));
    let root_zero = Entity::root("Root zero", &limit(0));
    let one = root_zero.ca("One", &plain);
    let (near, far) = (root_zero.leaf("near.example", &plain), one.leaf("far.example", &plain));

    let (old, new) = (Entity::root("Old", &plain), Entity::root("New", &plain));
    let new_by_old = new.cross_signed(&old);
    let (old_by_new, issuing) = (old.cross_signed(&new), new.ca("Issuing", &plain));
    let leaf = issuing.leaf("leaf.example", &plain);
    check(&[
        case("path length 0, none below", [&root.der], [&good.der, &zero.der], 0),
        case("path length 0, one below", [&root.der], [&bad.der, &below_zero.der, &zero.der], 25),
        case("path length 0 of a root, none below", [&root_zero.der], [&near.der], 0),
        case("path length 0 of a root, one below", [&root_zero.der], [&far.der, &one.der], 25),
        case("cross-signed, old root", [&old.der], [&leaf.der, &issuing.der, &new_by_old], 0),
        case("cross-signed, new root", [&new.der], [&leaf.der, &issuing.der, &new_by_old], 0),
        case("cross-signed both ways", [&old.der], [&leaf.der, &issuing.der, &old_by_new, &new_by_old], 0),
        case(
            "cross-signed in a circle",
            [&root.der],
            [&leaf.der, &issuing.der, &old_by_new, &new_by_old],
            20,
        ),
    ]);
}

#[test]
fn extensions_that_limit() {
    let root = Entity::root("Root", &plain);
    let unknown = |critical: bool| {
        move |params: &mut rcgen::CertificateParams| {
            let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 7], vec![5, 0]);
            extension.set_criticality(critical);
            params.custom_extensions.push(extension);
        }
    };
    let (critical, other) =
        (root.leaf("critical.example", &unknown(true)), root.leaf("other.example", &unknown(false)));
    let critical_ca = root.ca("Critical", &unknown(true));
    let below = critical_ca.leaf("below.example", &plain);
    let subtrees = |names: &[&str]| -> Vec<GeneralSubtree> {
        names.iter().map(|name| GeneralSubtree::DnsName((*name).into())).collect()
    };
    let limited = |permitted: &[&str], excluded: &[&str]| {
        root.ca("Limited", &|params| {
            let (permitted_subtrees, excluded_subtrees) = (subtrees(permitted), subtrees(excluded));
            params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees });
        })
    };
    let (only, except) = (limited(&["inside.example"], &[]), limited(&[], &["inside.example"]));
    let (inside, outside) = (only.leaf("www.inside.example", &plain), only.leaf("outside.example", &plain));
    let (not_inside, not_outside) =
        (except.leaf("outside.example", &plain), except.leaf("www.inside.example", &plain));
    let common = only.leaf("www.inside.example", &|params| params.subject_alt_names.clear());
    let proxy = root.leaf("proxy.example", &|params| {
        let content = vec![0x30, 12, 0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 21, 1];
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 14], content);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
        params.subject_alt_names.clear();
        params.is_ca = IsCa::NoCa;
    });
    check(&[
        case("unknown critical extension", [&root.der], [&critical.der], 34),
        case("unknown extension", [&root.der], [&other.der], 0),
        case("unknown critical extension of a CA", [&root.der], [&below.der, &critical_ca.der], 34),
        case("permitted name", [&root.der], [&inside.der, &only.der], 0),
        case("name that is not permitted", [&root.der], [&outside.der, &only.der], 47),
        case("name that is not excluded", [&root.der], [&not_inside.der, &except.der], 0),
        case("excluded name", [&root.der], [&not_outside.der, &except.der], 48),
        // webpki does not apply constraints to common names, so that we refuse them.
        case("permitted common name", [&root.der], [&common.der, &only.der], 51).openssl(0),
        case("proxy certificate", [&root.der], [&proxy.der], 40),
    ]);
}

#[test]
fn revocation() {
    let serial = |number: u64| {
        move |params: &mut rcgen::CertificateParams| {
            params.serial_number = Some(SerialNumber::from(number));
        }
    };
    let root = Entity::root("Root", &serial(1));
    let one = root.ca("One", &serial(2));
    let (leaf, direct) = (one.leaf("leaf.example", &serial(3)), root.leaf("direct.example", &serial(300)));
    let single = Entity::single("single.example", &plain);
    let stranger = Entity::root("Root", &plain);
    let (root_crl, one_crl) =
        (|revoked: &[u64]| root.crl(revoked, &|_| {}), |revoked: &[u64]| one.crl(revoked, &|_| {}));
    let expired = one.crl(&[], &|params| params.next_update = date!(-1));
    let expired_revoking = one.crl(&[3], &|params| params.next_update = date!(-1));
    let young = one.crl(&[], &|params| params.this_update = date!(1));
    let newer = one.crl(&[3], &|params| params.this_update = date!(-1));
    let forged = stranger.crl(&[300], &|_| {});
    let mut broken = one_crl(&[]).to_vec();
    *broken.last_mut().expect("not empty") ^= 1;
    let path = |name, expected| case(name, [&root.der], [&leaf.der, &one.der], expected);
    check(&[
        path("nothing revoked", 0).crls([root_crl(&[]), one_crl(&[])]),
        path("leaf revoked", 23).crls([root_crl(&[]), one_crl(&[9, 3, 5])]),
        path("another serial number revoked", 0).crls([root_crl(&[3]), one_crl(&[4, 0x0300, 0x0103])]),
        path("intermediate revoked", 23).crls([root_crl(&[2]), one_crl(&[])]),
        path("root revoked by itself", 23).crls([root_crl(&[1]), one_crl(&[])]),
        path("no list of the intermediate", 3).crls([root_crl(&[])]),
        path("no list of the root", 3).crls([one_crl(&[])]),
        path("expired list", 12).crls([root_crl(&[]), expired.clone()]),
        path("expired list that revokes", 23).crls([root_crl(&[]), expired_revoking]),
        path("expired list beside a current one", 0).crls([root_crl(&[]), expired, one_crl(&[])]),
        path("list of the future", 11).crls([root_crl(&[]), young]),
        path("the newer list counts", 23).crls([root_crl(&[]), one_crl(&[]), newer]),
        path("broken list", 8).crls([root_crl(&[]), broken.into()]),
        case("two bytes of serial number", [&root.der], [&direct.der], 23).crls([root_crl(&[300])]),
        // The list's authority key identifier is that of a stranger.
        case("a list by a namesake", [&root.der], [&direct.der], 3).crls([forged]),
        case("self-signed and trusted, no list", [&single.der], [&single.der], 3).crls([root_crl(&[])]),
        // The last error is that the intermediate's list has no issuer.
        case("revoked and unknown", [&stranger.der], [&leaf.der, &one.der], 3)
            .crls([root_crl(&[2]), one_crl(&[3])])
            .openssl(20),
    ]);
}

#[test]
fn keys_of_every_kind() {
    let mut cases = Vec::new();
    for (name, kind) in [
        ("P-256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("P-384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("P-521", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("Ed25519", &rcgen::PKCS_ED25519),
        ("RSA", &rcgen::PKCS_RSA_SHA256),
    ] {
        let root = Entity::root_of("Root", kind);
        let leaf = root.leaf_of("leaf.example", kind);
        cases.push(case(name, [&root.der], [&leaf.der], 0));
    }
    check(&cases);
}

#[test]
fn certificates_of_the_openssl_command() {
    let folder = Folder::new();
    folder.write("none.cnf", "[req]\ndistinguished_name=name\n[name]\n");
    folder.write("ca.ext", "basicConstraints=critical,CA:true\nkeyUsage=keyCertSign,cRLSign\n");
    folder.write("usage.ext", "keyUsage=keyCertSign\n");
    let request = |file: &str, name: &str, key: &str| {
        folder.run(&format!("req -new -config none.cnf -newkey {key} -nodes -keyout {file}.key -subj /CN={name} -out {file}.csr"));
    };
    let self_sign = |file: &str, rest: &str| {
        folder.run(&format!("x509 -req -in {file}.csr -signkey {file}.key -days 20 -out {file}.pem{rest}"));
        folder.certificate(&format!("{file}.pem"))
    };
    let sign = |file: &str, issuer: &str, rest: &str| {
        let ca = format!("-CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial");
        folder.run(&format!("x509 -req -in {file}.csr {ca} -days 20 -out {file}.pem{rest}"));
        folder.certificate(&format!("{file}.pem"))
    };
    let ec = "ec -pkeyopt ec_paramgen_curve:P-256";
    for (file, name, key) in [
        ("root", "Old-root", "rsa:2048"),
        ("leaf", "leaf.example", "rsa:2048"),
        ("single", "single.example", ec),
        ("middle", "Old-middle", ec),
        ("below", "below.example", ec),
        ("short", "short.example", "rsa:1024"),
        ("sha1", "sha1.example", ec),
        ("short_root", "Short-root", "rsa:1024"),
        ("below_short", "below.example", ec),
        ("usage", "usage.example", ec),
        ("brainpool", "brainpool.example", "ec -pkeyopt ec_paramgen_curve:brainpoolP256r1"),
        (
            "explicit",
            "explicit.example",
            "ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
        ),
    ] {
        request(file, name, key);
    }
    let root = self_sign("root", "");
    let (leaf, single) = (sign("leaf", "root", ""), self_sign("single", ""));
    let middle = sign("middle", "root", "");
    let below = sign("below", "middle", "");
    let (short, sha1) = (sign("short", "root", ""), sign("sha1", "root", " -sha1"));
    let short_root = self_sign("short_root", " -extfile ca.ext");
    let below_short = sign("below_short", "short_root", "");
    let usage = self_sign("usage", " -extfile usage.ext");
    let explicit = sign("explicit", "root", "");
    let brainpool = sign("brainpool", "root", "");
    check(&[
        case("version 1, root and client", [&root], [&leaf], 0),
        case("version 1, root and server", [&root], [&leaf], 0).server(),
        case("version 1, root sent too", [&root], [&leaf, &root], 0),
        case("version 1, not trusted", [&single], [&leaf], 21).openssl(20),
        case("version 1, self-signed and trusted", [&single], [&single], 0),
        case("version 1, self-signed and not trusted", [&root], [&single], 18),
        case("version 1 between", [&root], [&below, &middle], 26),
        case("RSA with 1024 bits", [&root], [&short], 66),
        case("SHA-1", [&root], [&sha1], 68),
        case("root with RSA of 1024 bits", [&short_root], [&below_short], 67),
        case("for signing certificates only", [&usage], [&usage], 26),
        case("explicit curve", [&root], [&explicit], 94),
        case("Brainpool", [&root], [&brainpool], 0),
    ]);
}
