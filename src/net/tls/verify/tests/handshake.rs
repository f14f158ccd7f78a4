//! rustls at both ends, with our verifiers, in memory.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::lab::{Entity, Folder, now, plain};
use crate::net::tls::verify::{
    ClientVerifier, Mode, Purpose, Refusal, Refused, ServerVerifier, Trust, scheme_name, taken_scheme,
    verdict,
};

/// A chain with the key to its first certificate.
type Identity = Arc<SingleCertAndKey>;

fn identity_of(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Identity {
    let key = aws_lc_rs::sign::any_supported_type(&key).expect("a key");
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
}

fn identity(entity: &Entity) -> Identity {
    identity_of(vec![entity.der.clone()], PrivateKeyDer::Pkcs8(entity.key.serialize_der().into()))
}

/// The client's certificates as the server keeps them after a handshake, or the client's error.
fn shake(
    version: &'static SupportedProtocolVersion,
    server: &Identity,
    client: Option<&Identity>,
    trust: Option<&Arc<Trust>>,
    host: &str,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[version]).expect("a version");
    let builder = builder.with_client_cert_verifier(Arc::new(ClientVerifier::new([])));
    let server_config = builder.with_cert_resolver(server.clone());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[version]).expect("a version").dangerous();
    let verifier = ServerVerifier::new(trust.cloned(), "proxy");
    let builder = builder.with_custom_certificate_verifier(Arc::new(verifier));
    let client_config = match client {
        Some(client) => builder.with_client_cert_resolver(client.clone()),
        None => builder.with_no_client_auth(),
    };
    let host = ServerName::try_from(host.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(client_config), host).expect("a client");
    let mut server = ServerConnection::new(Arc::new(server_config)).expect("a server");
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut &wire[..]).expect("memory");
        server.process_new_packets().expect("the server takes any client");
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut &wire[..]).expect("memory");
        client.process_new_packets()?;
    }
    Ok(server.peer_certificates().unwrap_or_default().to_vec())
}

fn trust(purpose: Purpose, trusted: &[&CertificateDer<'static>]) -> Arc<Trust> {
    Arc::new(Trust::new(purpose, 1, trusted.iter().copied(), []).expect("readable certificates"))
}

/// A self-signed certificate of version 1, which webpki cannot read.
fn old(folder: &Folder, key: &str) -> (Identity, CertificateDer<'static>) {
    folder.write("none.cnf", "[req]\ndistinguished_name=name\n[name]\n");
    folder.run(&format!(
        "req -new -config none.cnf -newkey {key} -nodes -keyout old.key -subj /CN=old.example -out old.csr"
    ));
    folder.run("x509 -req -in old.csr -signkey old.key -days 20 -out old.pem");
    let certificate = folder.certificate("old.pem");
    let key = PrivateKeyDer::from_pem_file(folder.path("old.key")).expect("a key");
    (identity_of(vec![certificate.clone()], key), certificate)
}

#[test]
fn any_client_gets_through_and_its_verdict_follows() {
    let root = Entity::root("Root", &plain);
    let (known, unknown) = (root.leaf("client.example", &plain), Entity::single("other.example", &plain));
    let server = identity(&Entity::single("server.example", &plain));
    let trust = trust(Purpose::Client, &[&root.der]);
    for version in [&version::TLS12, &version::TLS13] {
        let shake = |client: Option<&Entity>| {
            let client = client.map(identity);
            shake(version, &server, client.as_ref(), None, "server.example").expect("a handshake")
        };
        let chain = shake(Some(&known));
        assert_eq!(chain, std::slice::from_ref(&known.der));
        assert_eq!(verdict(&trust, &chain, now()), Ok(()));
        let scheme = taken_scheme().and_then(scheme_name);
        assert_eq!(scheme, Some("ecdsa_secp256r1_sha256"));
        let refused = verdict(&trust, &shake(Some(&unknown)), now());
        assert_eq!(refused, Err(Refusal::SelfSigned));
        for (mode, refuses, refuses_none) in
            [(Mode::On, true, true), (Mode::Optional, true, false), (Mode::OptionalNoCa, false, false)]
        {
            assert_eq!((mode.refuses(refused), mode.refuses_none()), (refuses, refuses_none));
            assert!(!mode.refuses(Ok(())) && mode.refuses(Err(Refusal::Expired)));
        }
        assert_eq!(shake(None), []);
    }
}

#[test]
fn certificates_of_version_1_sign_handshakes() {
    let folder = Folder::new();
    for key in
        ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256", "ec -pkeyopt ec_paramgen_curve:P-384", "ed25519"]
    {
        let (identity, certificate) = old(&folder, key);
        let clients = trust(Purpose::Client, &[&certificate]);
        let servers = trust(Purpose::Server, &[&certificate]);
        for version in [&version::TLS12, &version::TLS13] {
            let chain = shake(version, &identity, Some(&identity), Some(&servers), "old.example");
            assert_eq!(verdict(&clients, &chain.expect("a handshake"), now()), Ok(()), "{key}");
        }
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (one, other) = (Entity::single("one.example", &plain), Entity::single("one.example", &plain));
    let key = PrivateKeyDer::Pkcs8(other.key.serialize_der().into());
    let stolen = identity_of(vec![one.der.clone()], key);
    for version in [&version::TLS12, &version::TLS13] {
        let error = shake(version, &stolen, None, None, "one.example").expect_err("no handshake");
        assert_eq!(error, Error::InvalidCertificate(CertificateError::BadSignature));
    }
}

#[test]
fn a_refused_upstream_names_the_directive_that_helps() {
    let root = Entity::root("Root", &plain);
    let leaf = root.leaf("server.example", &plain);
    let single = Entity::single("single.example", &plain);
    let ask = |server: &Entity, trusted: &Arc<Trust>, host| match shake(
        &version::TLS13,
        &identity(server),
        None,
        Some(trusted),
        host,
    ) {
        Ok(_) => "accepted".to_owned(),
        Err(Error::InvalidCertificate(CertificateError::Other(error))) => {
            let refused = error.0.downcast_ref::<Refused>().expect("our error");
            assert_eq!(refused.host, host);
            error.to_string()
        }
        Err(error) => panic!("{error}"),
    };
    let by_root = trust(Purpose::Server, &[&root.der]);
    let by_both = trust(Purpose::Server, &[&single.der, &leaf.der]);
    assert_eq!(ask(&leaf, &by_root, "server.example"), "accepted");
    assert_eq!(ask(&leaf, &by_both, "server.example"), "accepted");
    assert_eq!(ask(&single, &by_both, "single.example"), "accepted");
    for (server, trust, host, text) in [
        (
            &single,
            &by_root,
            "single.example",
            "(18:self-signed certificate); add this certificate to \"proxy_ssl_trusted",
        ),
        (
            &leaf,
            &by_root,
            "other.example",
            "for \"other.example\" refused: (62:hostname mismatch); set \"proxy_ssl_name",
        ),
        (&single, &by_both, "other.example", "(62:hostname mismatch)"),
        (
            &leaf,
            &trust(Purpose::Server, &[&single.der]),
            "server.example",
            "(21:unable to verify the first certificate);",
        ),
    ] {
        let error = ask(server, trust, host);
        assert!(error.contains(text), "{error}");
    }
}
