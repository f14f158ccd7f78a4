//! A certificate with its key as bytes, on the way from the master to a worker.
//!
//! ```text
//! kind of key: u8 | key | OCSP response | certificate | certificate …     each: length u32, bytes
//! ```
//! Both ends are the same program. The key is not encrypted: the bytes stay in memory that only these
//! processes have (`sys/sealed.rs`).

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::base::frame::Fields;
use crate::net::tls::certificate::Certificate;

/// The longest parcel: the largest files of certificates, key and OCSP response that are read, 4 MiB each.
pub const BYTES_MAX: usize = 12 * 1024 * 1024 + 4096;

/// Writes a parcel. `None`: it would be too long, or the key is of an unknown form.
pub fn write(
    chain: &[CertificateDer<'_>],
    key: &PrivateKeyDer<'_>,
    ocsp: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let kind = match key {
        PrivateKeyDer::Pkcs1(_) => 1,
        PrivateKeyDer::Sec1(_) => 2,
        PrivateKeyDer::Pkcs8(_) => 3,
        _ => return None,
    };
    let parts = || [key.secret_der(), ocsp].into_iter().chain(chain.iter().map(|der| der.as_ref()));
    let length = 1 + parts().map(|part| 4 + part.len()).sum::<usize>();
    // The exact capacity, so that no reallocation leaves a copy of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    bytes.push(kind);
    for part in parts() {
        bytes.extend_from_slice(&u32::try_from(part.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    (length <= BYTES_MAX).then_some(bytes)
}

/// Reads a parcel. `None`: it is none, or its certificate cannot be used.
pub fn read(bytes: &[u8]) -> Option<Certificate> {
    let mut fields = Fields(bytes);
    let kind = fields.u8()?;
    let key = part(&mut fields)?;
    let ocsp = part(&mut fields)?.to_vec();
    let mut chain = Vec::new();
    while !fields.0.is_empty() {
        chain.push(CertificateDer::from(part(&mut fields)?.to_vec()));
    }
    let key = match kind {
        1 => PrivateKeyDer::Pkcs1(key.into()),
        2 => PrivateKeyDer::Sec1(key.into()),
        3 => PrivateKeyDer::Pkcs8(key.into()),
        _ => return None,
    };
    Some(Certificate::from_der(chain, &key).ok()?.with_ocsp(ocsp))
}

fn part<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = usize::try_from(fields.u32()?).ok()?;
    let (part, rest) = fields.0.split_at_checked(length)?;
    fields.0 = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::net::tls::pem::{self, Passwords};

    #[test]
    fn a_parcel_is_read_as_it_was_written_and_no_part_of_it_is_one() {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let chain = vec![certificate.der().clone()];
        let der = pem::private_key(key.serialize_pem().as_bytes(), &Passwords::default()).expect("a key");
        let bytes = write(&chain, &der, b"ocsp").expect("a parcel");
        let read_back = read(&bytes).expect("a certificate");
        assert_eq!((read_back.chain(), &*read_back.names()[0]), (&chain[..], "a.test"));
        assert_eq!(read_back.certified_key().ocsp.as_deref(), Some(&b"ocsp"[..]));
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_none(), "{length}");
        }
        assert!(read(&[&bytes[..], b"x"].concat()).is_none());
    }
}
