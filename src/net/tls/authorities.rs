//! The system's authorities, for servers that a configuration judges by no file of its own.
//!
//! Touches: the first of these files that is there.

use std::path::Path;

use rustls_pki_types::CertificateDer;

use crate::net::tls::pem;

/// Where they are: Debian, Red Hat, SUSE, BSD.
const FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file that has them.
pub fn file() -> Option<&'static str> {
    FILES.into_iter().find(|path| Path::new(path).exists())
}

/// Reads them. Errors: why there are none, in words.
pub fn system() -> Result<Vec<CertificateDer<'static>>, String> {
    let file = file().ok_or("the system has no file of authorities")?;
    let data = std::fs::read(file).map_err(|error| format!("the system's file of authorities: {error}"))?;
    pem::certificates(&data).map_err(|error| format!("the system's file of authorities: {error}"))
}
