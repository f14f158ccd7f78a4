//! Certificates for tests: made by rcgen, or by the openssl command for what rcgen does not make.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use crate::base::base64;

/// A name, a key, and a certificate.
pub struct Entity {
    pub params: CertificateParams,
    pub key: KeyPair,
    pub der: CertificateDer<'static>,
}

/// Changes what a certificate says before it is signed.
pub type Change<'a> = &'a dyn Fn(&mut CertificateParams);

/// Changes nothing.
pub fn plain(_: &mut CertificateParams) {}

/// Seconds since 1970, in days from now.
pub fn day(days: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    now.checked_add_signed(days * 86_400).expect("after 1970")
}

/// The time of all verdicts.
pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(day(0)))
}

macro_rules! date {
    ($days:expr) => {
        rcgen::date_time_ymd(1970, 1, 1)
            + std::time::Duration::from_secs(crate::net::tls::verify::tests::lab::day($days))
    };
}
pub(crate) use date;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Pronghorn");
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date!(-30), date!(300));
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = name.try_into().map(rcgen::SanType::DnsName).into_iter().collect();
    params
}

impl Entity {
    /// A self-signed certificate of a CA.
    pub fn root(name: &str, change: Change<'_>) -> Self {
        Self::self_signed(ca_params(name), &rcgen::PKCS_ECDSA_P256_SHA256, change)
    }

    /// A self-signed certificate of a server and client.
    pub fn single(name: &str, change: Change<'_>) -> Self {
        Self::self_signed(leaf_params(name), &rcgen::PKCS_ECDSA_P256_SHA256, change)
    }

    /// A root with a key of this kind.
    pub fn root_of(name: &str, kind: &'static SignatureAlgorithm) -> Self {
        Self::self_signed(ca_params(name), kind, &plain)
    }

    fn self_signed(
        mut params: CertificateParams,
        kind: &'static SignatureAlgorithm,
        change: Change<'_>,
    ) -> Self {
        let key = KeyPair::generate_for(kind).expect("a key");
        change(&mut params);
        let der = params.self_signed(&key).expect("a certificate").der().clone();
        Self { params, key, der }
    }

    /// A CA below this one.
    pub fn ca(&self, name: &str, change: Change<'_>) -> Self {
        self.sign(ca_params(name), KeyPair::generate().expect("a key"), change)
    }

    /// A server and client below this CA.
    pub fn leaf(&self, name: &str, change: Change<'_>) -> Self {
        self.sign(leaf_params(name), KeyPair::generate().expect("a key"), change)
    }

    /// As [`Self::leaf`], with a key of this kind.
    pub fn leaf_of(&self, name: &str, kind: &'static SignatureAlgorithm) -> Self {
        self.sign(leaf_params(name), KeyPair::generate_for(kind).expect("a key"), &plain)
    }

    /// The same name and key, signed by another CA.
    pub fn cross_signed(&self, other: &Self) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&other.params, &other.key);
        self.params.signed_by(&self.key, &issuer).expect("a certificate").der().clone()
    }

    fn sign(&self, mut params: CertificateParams, key: KeyPair, change: Change<'_>) -> Self {
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).expect("a certificate").der().clone();
        Self { params, key, der }
    }

    /// The CRL of this CA.
    pub fn crl(
        &self,
        revoked: &[u64],
        change: &dyn Fn(&mut CertificateRevocationListParams),
    ) -> CertificateRevocationListDer<'static> {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date!(-2),
            reason_code: None,
            invalidity_date: None,
        };
        let mut params = CertificateRevocationListParams {
            this_update: date!(-3),
            next_update: date!(30),
            crl_number: SerialNumber::from(7),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&issuer).expect("a CRL").der().clone()
    }
}

/// A temporary folder in which the openssl command works.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the command with these words; returns whether it succeeded, and its output and errors.
    pub fn openssl(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new("openssl");
        let output = command.args(words).current_dir(self.0.path()).output().expect("the openssl command");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs the command, which must succeed.
    pub fn run(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let (is_done, output) = self.openssl(&words);
        assert!(is_done, "openssl {line}: {output}");
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    /// Writes elements as PEM.
    pub fn write_pem<'a>(&self, name: &str, label: &str, ders: impl Iterator<Item = &'a [u8]>) {
        self.write(name, &ders.map(|der| pem(label, der)).collect::<String>());
    }

    /// Reads the first certificate of a PEM file.
    pub fn certificate(&self, name: &str) -> CertificateDer<'static> {
        read_certificate(&self.path(name))
    }
}

fn read_certificate(path: &Path) -> CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_file(path).expect("a PEM certificate")
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = Vec::new();
    base64::encode(der, &mut text);
    let lines: Vec<&str> = text.chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
