//! One order, from the request to the certificate in the folder (RFC 8555 §7.4).
//!
//! Touches: the authority, the folder, and by the [`Line`] the workers that answer challenges. Runs in the thread of
//! tokio. Each step is remembered before the next, so that a process that takes over goes on with the same order.

use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType,
    Error, ExternalAccountKey, Key, NewAccount, NewOrder, Order, OrderStatus, Problem,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::log;
use crate::net::acme::challenges::{self, Challenge, Kind};
use crate::net::acme::client::Client;
use crate::net::acme::keeper::Line;
use crate::net::acme::state::{Begun, Folder, Memory};
use crate::net::acme::{Identifier, Issuer, KeyKind, Method, Wanted};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::parcel;
use crate::net::tls::pem::{self, Passwords};
use crate::net::tls::verify::Names;
use crate::sys::clock;

/// How long an authority may take to check the names, and again to issue the certificate.
const STEP: Duration = Duration::from_secs(300);
/// The wait between two looks at an order; each doubles it, up to the second.
const LOOK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// The longest such wait that an authority may ask for.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// The most chains besides the first that are looked at for `preferred_chain`.
const ALTERNATES_MAX: usize = 8;

/// Why there is no certificate.
#[derive(Debug)]
pub struct Failure {
    pub text: String,
    pub retry_after: Option<Duration>,
    /// The order is of no use any more.
    pub ends_order: bool,
    /// The authority does not know the account.
    pub ends_account: bool,
}

/// The tools of the work for one issuer.
pub struct Desk<'a> {
    pub issuer: &'a Issuer,
    pub folder: &'a Folder,
    pub client: &'a Client,
    pub line: &'a Line,
}

impl Failure {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), retry_after: None, ends_order: false, ends_account: false }
    }

    fn final_of_order(self) -> Self {
        Self { ends_order: true, ..self }
    }

    fn of_disk(what: &str, error: &std::io::Error) -> Self {
        Self::new(format!("{what} cannot be written {}: make room in \"state_path\"", log::Cause(error)))
    }
}

/// The last word of a problem's type (RFC 8555 §6.7).
fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().and_then(|it| it.rsplit(':').next()).unwrap_or("")
}

/// The action by which an operator can mend a problem.
fn remedy(kind: &str, method: Method) -> Option<&'static str> {
    Some(match (kind, method) {
        ("connection" | "unauthorized" | "incorrectResponse" | "tls" | "dns", Method::Http01) => {
            "see that the name leads to this machine, and its port 80 to a \"listen\" here"
        }
        ("connection" | "unauthorized" | "incorrectResponse" | "tls" | "dns", Method::TlsAlpn01) => {
            "see that the name leads to this machine, and its port 443 to a \"listen ... ssl\" here"
        }
        ("caa", _) => "let the CAA records of the name permit this authority",
        ("rateLimited", _) => "nothing but waiting helps",
        ("externalAccountRequired", _) => "set \"external_account_key\"",
        ("userActionRequired", _) => "read the authority's terms, and set \"accept_terms_of_service\"",
        ("rejectedIdentifier" | "unsupportedIdentifier", _) => {
            "remove the name from \"acme_certificate\" or \"server_name\""
        }
        ("invalidContact" | "unsupportedContact", _) => "correct \"contact\"",
        ("invalidProfile", _) => "correct \"profile\"",
        _ => return None,
    })
}

impl Desk<'_> {
    fn failure(&self, what: &str, error: &Error) -> Failure {
        let retry_after = self.client.said().retry_after;
        let Error::Api(problem) = error else {
            return Failure { retry_after, ..Failure::new(format!("{what}: {error}")) };
        };
        let kind = kind(problem);
        let text = format!("{what}: {}", shown(problem, self.issuer.method));
        // Authorities often report unaccepted terms in this way.
        let is_terms = !self.issuer.accepts_terms && what == NEW_ACCOUNT;
        let text = match remedy("userActionRequired", self.issuer.method).filter(|_| is_terms) {
            Some(remedy) if kind != "userActionRequired" => format!("{text}: {remedy}"),
            _ => text,
        };
        Failure { retry_after, ends_account: kind == "accountDoesNotExist", ..Failure::new(text) }
    }
}

/// A problem with its remedies. What the authority wrote is shortened, and printable.
fn shown(problem: &Problem, method: Method) -> String {
    let mut text = problem.to_string();
    if let Some(rest) = text.strip_prefix("API error: ") {
        text = rest.to_owned();
    }
    let mut text: String = text.chars().filter(|it| !it.is_control()).take(1000).collect();
    let sub = problem.subproblems.iter().filter_map(|it| it.r#type.as_deref()?.rsplit(':').next());
    if let Some(remedy) = std::iter::once(kind(problem)).chain(sub).find_map(|kind| remedy(kind, method)) {
        text.push_str(": ");
        text.push_str(remedy);
    }
    text
}

const NEW_ACCOUNT: &str = "the account could not be opened";

/// An account as it is kept.
#[derive(Deserialize, Serialize)]
struct Kept {
    credentials: AccountCredentials,
    contacts: Vec<String>,
}

/// Opens the account that is kept, or makes one.
pub async fn account(desk: &Desk<'_>) -> Result<Account, Failure> {
    let (issuer, uri) = (desk.issuer, desk.issuer.uri.to_string());
    let builder = Account::builder_with_http(Box::new(desk.client.clone()));
    let failed = |error: Error| desk.failure(NEW_ACCOUNT, &error);
    let contacts: Vec<&str> = issuer.contacts.iter().map(String::as_str).collect();
    if let Some(der) = &issuer.account_key {
        let der = PrivatePkcs8KeyDer::from(der.to_vec());
        let key = Key::from_pkcs8_der(der.clone_key()).map_err(failed)?;
        let key = (key, PrivateKeyDer::Pkcs8(der));
        let made = match issuer.accepts_terms {
            true => builder.create_from_key(key, uri).await,
            false => builder.from_key(key, uri).await,
        };
        let (account, _) = made.map_err(failed)?;
        if !contacts.is_empty() {
            account.update_contacts(&contacts).await.map_err(failed)?;
        }
        return Ok(account);
    }
    let kept = desk.folder.account(&uri);
    let kept =
        kept.map_err(|error| Failure::new(format!("the account cannot be read {}", log::Cause(&error))))?;
    let kept = kept.and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
    let keep = |kept: &Kept| {
        let text = Zeroizing::new(serde_json::to_vec(kept).unwrap_or_default());
        desk.folder.set_account(&uri, &text).map_err(|error| Failure::of_disk("the account", &error))
    };
    if let Some(kept) = kept {
        let text = Zeroizing::new(serde_json::to_vec(&kept.credentials).unwrap_or_default());
        let credentials: AccountCredentials =
            serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        let account = builder.from_credentials(credentials).await.map_err(failed)?;
        if kept.contacts != issuer.contacts {
            account.update_contacts(&contacts).await.map_err(failed)?;
            keep(&Kept { contacts: issuer.contacts.clone(), ..kept })?;
        }
        return Ok(account);
    }
    // A full disk is noticed before there is an account that would be lost.
    desk.folder.set_account(&uri, b"{}").map_err(|error| Failure::of_disk("the account", &error))?;
    let new = NewAccount {
        contact: &contacts,
        terms_of_service_agreed: issuer.accepts_terms,
        only_return_existing: false,
    };
    let external = issuer.external.as_ref().map(|it| ExternalAccountKey::new(it.id.to_string(), &it.key));
    let (account, credentials) =
        builder.create(&new, uri.clone(), external.as_ref()).await.map_err(failed)?;
    keep(&Kept { credentials, contacts: issuer.contacts.clone() })?;
    Ok(account)
}

/// Gets a certificate and puts it in the folder. `old`: the one that it replaces.
pub async fn obtain(
    desk: &Desk<'_>,
    account: &Account,
    wanted: &Wanted,
    memory: &mut Memory,
    old: Option<&Certificate>,
) -> Result<Certificate, Failure> {
    let (mut order, key) = match resumed(desk, account, memory).await? {
        Some(order) => order,
        None => begun(desk, account, wanted, memory, old).await?,
    };
    if order.state().status == OrderStatus::Pending {
        let mut announced = Vec::new();
        let outcome = validated(desk, &mut order, &mut announced).await;
        announced.iter().for_each(|it: &Challenge| desk.line.tell(it.removal()));
        outcome?;
    }
    if order.state().status == OrderStatus::Ready {
        let csr = request(desk.issuer, wanted, &key)
            .map_err(|error| Failure::new(format!("the request could not be signed: {error}")))?;
        let failed = |error| desk.failure("the order could not be finalized", &error).final_of_order();
        order.finalize_csr(&csr).await.map_err(failed)?;
    }
    looked_at(desk, &mut order, &[OrderStatus::Ready, OrderStatus::Pending, OrderStatus::Processing]).await?;
    let chain =
        order.certificate().await.map_err(|error| desk.failure("the certificate was not sent", &error))?;
    let chain = chain.ok_or_else(|| Failure::new("the certificate was not sent"))?;
    let chain = preferred(desk, account, chain).await;
    let certificate = checked(&chain, &key, wanted).map_err(|why| Failure::new(why).final_of_order())?;
    let written = desk.folder.set_certificate(&wanted.stem, &key, &chain);
    written.map_err(|error| Failure::of_disk("the certificate", &error))?;
    Ok(certificate)
}

/// The order that an earlier attempt began, if it can go on.
async fn resumed(
    desk: &Desk<'_>,
    account: &Account,
    memory: &mut Memory,
) -> Result<Option<(Order, Zeroizing<String>)>, Failure> {
    let Some(begun) = memory.order.clone() else { return Ok(None) };
    if begun.url.is_empty() || *begun.directory != *desk.issuer.uri {
        return Ok(None);
    }
    match account.order(begun.url.clone()).await {
        Ok(mut order) => {
            let is_over = order.state().status == OrderStatus::Invalid;
            Ok((!is_over).then(|| (order, Zeroizing::new(begun.key.clone()))))
        }
        Err(Error::Api(problem)) if !matches!(kind(&problem), "rateLimited" | "serverInternal") => Ok(None),
        Err(error) => Err(desk.failure("the order could not be continued", &error)),
    }
}

async fn begun(
    desk: &Desk<'_>,
    account: &Account,
    wanted: &Wanted,
    memory: &mut Memory,
    old: Option<&Certificate>,
) -> Result<(Order, Zeroizing<String>), Failure> {
    let key = new_key(wanted.key).map_err(|error| Failure::new(format!("no key could be made: {error}")))?;
    let key = Zeroizing::new(key.serialize_pem());
    let begun = |url| Begun { url, directory: desk.issuer.uri.to_string(), key: key.to_string() };
    let remember = |memory: &Memory| {
        let kept = desk.folder.set_memory(&wanted.stem, memory);
        kept.map_err(|error| Failure::of_disk("the state", &error))
    };
    // A full disk is noticed before there is an order that would be lost.
    memory.order = Some(begun(String::new()));
    remember(memory)?;
    let identifiers: Vec<_> = wanted.identifiers.iter().map(foreign).collect();
    let mut new = NewOrder::new(&identifiers);
    if let Some(profile) = &desk.issuer.profile {
        match account.profiles().any(|it| it.name == &*profile.name) {
            true => new = new.profile(&profile.name),
            false if profile.is_required => {
                let name = &profile.name;
                return Err(Failure::new(format!(
                    "the authority has no profile \"{name}\": correct \"profile\""
                )));
            }
            false => {}
        }
    }
    let replaced = old.and_then(|old| CertificateIdentifier::try_from(old.chain().first()?).ok());
    let plain = NewOrder::new(&identifiers);
    let made = match replaced {
        Some(replaced) => match account.new_order(&new.replaces(replaced)).await {
            // An authority that does not take "replaces" refuses it (RFC 9773 §5), or has no such extension.
            Err(Error::Unsupported(_)) => account.new_order(&again(plain, desk, account)).await,
            Err(Error::Api(problem)) if matches!(kind(&problem), "malformed" | "alreadyReplaced") => {
                account.new_order(&again(plain, desk, account)).await
            }
            made => made,
        },
        None => account.new_order(&new).await,
    };
    let order = made.map_err(|error| desk.failure("the order was refused", &error).final_of_order())?;
    memory.order = Some(begun(order.url().to_owned()));
    remember(memory)?;
    Ok((order, key))
}

/// The same order with the profile, without "replaces".
fn again<'a>(plain: NewOrder<'a>, desk: &'a Desk<'_>, account: &Account) -> NewOrder<'a> {
    match &desk.issuer.profile {
        Some(profile) if account.profiles().any(|it| it.name == &*profile.name) => {
            plain.profile(&profile.name)
        }
        _ => plain,
    }
}

fn foreign(identifier: &Identifier) -> instant_acme::Identifier {
    match identifier {
        Identifier::Dns(name) => instant_acme::Identifier::Dns(name.to_string()),
        Identifier::Ip(ip) => instant_acme::Identifier::Ip(*ip),
    }
}

fn new_key(kind: KeyKind) -> Result<KeyPair, rcgen::Error> {
    use rcgen::RsaKeySize::{_2048, _3072, _4096};
    match kind {
        KeyKind::Ecdsa256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyKind::Ecdsa384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyKind::Ecdsa521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
        KeyKind::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, _2048),
        KeyKind::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, _3072),
        KeyKind::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, _4096),
    }
}

/// The request for a certificate (PKCS #10), in DER.
fn request(issuer: &Issuer, wanted: &Wanted, key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let names: Vec<String> = wanted.identifiers.iter().map(ToString::to_string).collect();
    let is_dns = |it: &&Identifier| matches!(it, Identifier::Dns(_));
    let first = wanted.identifiers.iter().find(is_dns).or(wanted.identifiers.first());
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(first) = first.filter(|_| issuer.has_common_name) {
        params.distinguished_name.push(DnType::CommonName, first.to_string());
    }
    Ok(params.serialize_request(&KeyPair::from_pem(key)?)?.der().to_vec())
}

/// Has the workers answer the challenges of an order, and waits until the authority has looked at them.
async fn validated(
    desk: &Desk<'_>,
    order: &mut Order,
    announced: &mut Vec<Challenge>,
) -> Result<(), Failure> {
    let method = match desk.issuer.method {
        Method::Http01 => ChallengeType::Http01,
        Method::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let failed = |error: Error| desk.failure("the challenges could not be read", &error);
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(failed)?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            _ => break, // the order tells why
        }
        let Some(mut challenge) = authorization.challenge(method.clone()) else {
            let why = format!("the authority offers no {} for {name}: set another \"challenge\"", word(desk));
            return Err(Failure::new(why).final_of_order());
        };
        let authorized = challenge.key_authorization();
        let answer = match desk.issuer.method {
            Method::Http01 => Ok(Challenge {
                kind: Kind::Http,
                name: challenge.token.as_str().into(),
                answer: authorized.as_str().as_bytes().into(),
            }),
            Method::TlsAlpn01 => own_certificate(&name, authorized.digest().as_ref()),
        };
        let answer = answer.map_err(|why| Failure::new(why).final_of_order())?;
        if !answer.is_plausible() {
            let why = format!("the authority's challenge for {name} is malformed");
            return Err(Failure::new(why).final_of_order());
        }
        announced.push(answer.clone());
        desk.line.announce(answer).await.map_err(Failure::new)?;
        if challenge.status == ChallengeStatus::Pending {
            let failed =
                |error| desk.failure(&format!("the challenge for {name} failed"), &error).final_of_order();
            challenge.set_ready().await.map_err(failed)?;
        }
    }
    looked_at(desk, order, &[OrderStatus::Pending]).await
}

fn word(desk: &Desk<'_>) -> &'static str {
    match desk.issuer.method {
        Method::Http01 => "http-01",
        Method::TlsAlpn01 => "tls-alpn-01",
    }
}

/// The certificate that answers a validation by TLS (RFC 8737 §3). Errors: in words.
fn own_certificate(name: &str, digest: &[u8]) -> Result<Challenge, String> {
    let make = || {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        Ok::<_, rcgen::Error>((params.self_signed(&key)?, key))
    };
    let (certificate, key) = make().map_err(|error| format!("no certificate for the challenge: {error}"))?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let bytes = parcel::write(std::slice::from_ref(certificate.der()), &der, &[]);
    let bytes = bytes.ok_or("no certificate for the challenge: it is too long")?;
    Ok(Challenge {
        kind: Kind::Tls,
        name: challenges::asked_name(name).into(),
        answer: bytes.as_slice().into(),
    })
}

/// Looks at an order until it has another state than these.
async fn looked_at(desk: &Desk<'_>, order: &mut Order, waiting: &[OrderStatus]) -> Result<(), Failure> {
    let (mut wait, end) = (LOOK.0, Instant::now() + STEP);
    while waiting.contains(&order.state().status) {
        if Instant::now() + wait > end {
            let limit_s = STEP.as_secs();
            return Err(Failure::new(format!("the authority has not decided within {limit_s} s")));
        }
        sleep(wait).await;
        order.refresh().await.map_err(|error| desk.failure("the order could not be read", &error))?;
        let asked = desk.client.said().retry_after.map(|it| it.clamp(LOOK.0, LOOK_MAX));
        wait = asked.unwrap_or_else(|| (wait * 2).min(LOOK.1));
    }
    match order.state().status {
        OrderStatus::Invalid => Err(refused(desk, order).await),
        _ => Ok(()),
    }
}

/// Why an order is invalid.
async fn refused(desk: &Desk<'_>, order: &mut Order) -> Failure {
    let mut why: Vec<String> = Vec::new();
    if let Some(problem) = &order.state().error {
        why.push(shown(problem, desk.issuer.method));
    }
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            break;
        }
        let name = authorization.identifier().to_string();
        let problems = authorization.challenges.iter().filter_map(|it| it.error.as_ref());
        why.extend(problems.map(|it| format!("{name}: {}", shown(it, desk.issuer.method))));
    }
    let why = if why.is_empty() { "it does not say why".to_owned() } else { why.join("; ") };
    Failure::new(format!("the authority refuses the order: {why}")).final_of_order()
}

/// The chain whose topmost certificate is from the preferred issuer; the first one if there is none.
async fn preferred(desk: &Desk<'_>, account: &Account, first: String) -> String {
    let Some(name) = &desk.issuer.preferred_chain else { return first };
    if tops_with(&first, name) {
        return first;
    }
    for url in desk.client.said().alternates.into_iter().take(ALTERNATES_MAX) {
        // The crate has no call for this. It sends the request that RFC 8555 §7.4.2 wants, and stumbles over the answer.
        let _ = account.order(url).await;
        if let Some(chain) = desk.client.said().chain.filter(|chain| tops_with(chain, name)) {
            return chain;
        }
    }
    first
}

fn tops_with(chain: &str, name: &str) -> bool {
    let Ok(list) = pem::certificates(chain.as_bytes()) else { return false };
    let Some(Ok((_, top))) = list.last().map(|der| X509Certificate::from_der(der)) else { return false };
    top.issuer().iter_common_name().any(|it| it.as_str() == Ok(name))
}

/// Checks that a chain is what was asked for. Errors: in words.
fn checked(chain: &str, key: &str, wanted: &Wanted) -> Result<Certificate, String> {
    let loaded = Certificate::from_pem(chain.as_bytes(), key.as_bytes(), &Passwords::default());
    let certificate =
        loaded.map_err(|error| format!("the authority's certificate cannot be used: {error}"))?;
    let now_s = clock::wall_seconds();
    if !(certificate.not_before_s()..certificate.not_after_s()).contains(&now_s) {
        return Err("the authority's certificate is not valid now: see that the clock is right".into());
    }
    let addresses = certificate.chain().first().map(|der| Names::of(der).addresses).unwrap_or_default();
    let lacks = |it: &&Identifier| match it {
        Identifier::Dns(name) => !certificate.names().contains(name),
        Identifier::Ip(ip) => !addresses.contains(ip),
    };
    match wanted.identifiers.iter().find(lacks) {
        Some(name) => Err(format!("the authority's certificate lacks {name}")),
        None => Ok(certificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validation_by_tls_asks_for_the_reverse_name_of_an_address() {
        for (name, asked) in [
            ("A.test", "a.test"),
            ("192.0.2.1", "1.2.0.192.in-addr.arpa"),
            ("::1", &*("1.".to_owned() + &"0.".repeat(31) + "ip6.arpa")),
        ] {
            assert_eq!(challenges::asked_name(name), asked);
        }
        let challenge = own_certificate("a.test", &[7; 32]).expect("a certificate");
        assert!(challenge.is_plausible());
        let made = parcel::read(&challenge.answer).expect("a certificate");
        assert_eq!(&*made.names()[0], "a.test");
    }

    #[test]
    fn a_chain_must_fit_key_names_and_time() {
        let key = new_key(KeyKind::Ecdsa256).expect("a key");
        let params = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        let chain = params.self_signed(&key).expect("a certificate").pem();
        let wanted = |name: &str| Wanted::new(0, vec![Identifier::Dns(name.into())], KeyKind::Ecdsa256);
        let check = |name: &str, key: &KeyPair| checked(&chain, &key.serialize_pem(), &wanted(name));
        assert!(check("a.test", &key).is_ok());
        assert!(check("b.test", &key).unwrap_err().contains("lacks b.test"));
        let other = new_key(KeyKind::Ecdsa256).expect("a key");
        assert!(check("a.test", &other).unwrap_err().contains("does not belong"));
        let ip = Wanted::new(0, vec![Identifier::Ip([192, 0, 2, 1].into())], KeyKind::Ecdsa256);
        assert!(checked(&chain, &key.serialize_pem(), &ip).unwrap_err().contains("lacks 192.0.2.1"));
        let params = CertificateParams::new(vec!["192.0.2.1".to_owned()]).expect("an address");
        let own = params.self_signed(&key).expect("a certificate").pem();
        assert!(checked(&own, &key.serialize_pem(), &ip).is_ok());
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let old = params.self_signed(&key).expect("a certificate").pem();
        assert!(checked(&old, &key.serialize_pem(), &wanted("a.test")).unwrap_err().contains("clock"));
    }

    #[test]
    fn each_kind_of_key_can_be_made_and_asks_for_its_names() {
        for kind in [KeyKind::Ecdsa256, KeyKind::Ecdsa384, KeyKind::Ecdsa521, KeyKind::Rsa2048] {
            let key = new_key(kind).expect("a key").serialize_pem();
            assert!(pem::private_key(key.as_bytes(), &Passwords::default()).is_ok(), "{kind:?}");
        }
    }
}
