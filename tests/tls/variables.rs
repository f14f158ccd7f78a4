//! The variables of TLS have nginx's values, with nginx itself as the judge.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, SerialNumber, date_time_ymd};

use crate::support::tls::{Authority, Pair, TlsClient, client_config};
use crate::support::{Daemon, Setup, daemon};

const CONF: &str = r#"
http {
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ecdh_curve X25519:prime256v1;
    ssl_certificate site.pem;
    ssl_certificate_key site.key;
    ssl_client_certificate ca.pem;
    ssl_verify_client optional_no_ca;
    server {
        listen 127.0.0.1:%%PORT_0%% ssl;
        server_name site.test;
        error_page 495 = @values;
        location / { try_files "" @values; }
        location @values { return 200 "verify=$ssl_client_verify
s_dn=$ssl_client_s_dn
i_dn=$ssl_client_i_dn
s_dn_legacy=$ssl_client_s_dn_legacy
i_dn_legacy=$ssl_client_i_dn_legacy
serial=$ssl_client_serial
fingerprint=$ssl_client_fingerprint
start=$ssl_client_v_start
end=$ssl_client_v_end
remain=$ssl_client_v_remain
raw=$ssl_client_raw_cert
escaped=$ssl_client_escaped_cert
cert=$ssl_client_cert
scheme=$scheme https=$https protocol=$ssl_protocol cipher=$ssl_cipher
name=$ssl_server_name reused=$ssl_session_reused curve=$ssl_curve early=$ssl_early_data alpn=$ssl_alpn_protocol
"; }
    }
}
"#;

fn start(authority: &Authority, program: &Path) -> Daemon {
    let pair = authority.issue(&["site.test"]);
    let setup = Setup::new(CONF).program(program).file("ca.pem", authority.certificate());
    setup.file("site.pem", pair.certificate).file("site.key", pair.key).start()
}

fn named(parts: &[(DnType, DnValue)]) -> impl FnOnce(&mut CertificateParams) {
    let parts = parts.to_vec();
    move |params| {
        params.distinguished_name = DistinguishedName::new();
        parts.into_iter().for_each(|(kind, value)| params.distinguished_name.push(kind, value));
    }
}

fn certificates(authority: &Authority) -> Vec<Option<Pair>> {
    let utf8 = |text: &str| DnValue::Utf8String(text.into());
    vec![
        None,
        Some(authority.issue(&["client.test"])),
        Some(authority.issue_with(
            &[],
            named(&[
                (DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap())),
                (DnType::OrganizationName, utf8("Müller, Söhne + Co. \"KG\" <x>;\\y/z#")),
                (DnType::OrganizationalUnitName, utf8(" spaces at both ends ")),
                (DnType::LocalityName, utf8("#hash")),
                (DnType::CommonName, utf8("日本 ok")),
            ]),
        )),
        Some(authority.issue_with(
            &[],
            named(&[
                (DnType::CustomDnType(vec![1, 2, 3, 4, 5]), utf8("unknown")),
                (
                    DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]),
                    DnValue::Ia5String("a@b.test".try_into().unwrap()),
                ),
                (DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), utf8("uid7")),
            ]),
        )),
        Some(authority.issue_with(&["long.test"], |params| {
            params.serial_number = Some(SerialNumber::from(vec![0, 0xab, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
            params.not_before = date_time_ymd(1999, 2, 3);
            params.not_after = date_time_ymd(2061, 12, 31);
        })),
        Some(authority.issue_with(&["old.test"], |params| {
            params.serial_number = Some(SerialNumber::from(7));
            params.not_after = date_time_ymd(2001, 1, 1);
        })),
        Some(Authority::new("stranger").issue(&["strange.test"])),
    ]
}

#[test]
fn variables_have_nginx_s_values() {
    let Some(nginx) = ["/usr/sbin/nginx", "/usr/bin/nginx"].iter().map(Path::new).find(|path| path.exists())
    else {
        assert!(std::env::var_os("PRONGHORN_NEED_NGINX").is_none(), "no nginx to compare with");
        return;
    };
    let authority = Authority::new("Test CA, with a comma");
    let (ours, theirs) = (start(&authority, &daemon::binary()), start(&authority, nginx));
    for (index, pair) in certificates(&authority).iter().enumerate() {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = client_config(&authority, pair.as_ref(), &[version]);
            let ask = |daemon: &Daemon| {
                let response = TlsClient::connect(daemon.port(0), &config, "site.test").get("site.test", "/");
                (response.status, response.text())
            };
            assert_eq!(ask(&ours), ask(&theirs), "certificate {index}");
        }
    }
}
