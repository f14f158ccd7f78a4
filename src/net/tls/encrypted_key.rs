//! Private keys under a password: PKCS#8 with PBES2, and the encryption of old PEM files.
//!
//! Touches: nothing. Passwords are tried one after the other; a password fits if the padding is right and the
//! result is one DER sequence. Deriving a key costs what the file asks for, within [`Costs`].
//! Formats: RFC 5958 §3, RFC 8018 §6.2, RFC 7914 §7; the old one is OpenSSL's (PEM_do_header with
//! EVP_BytesToKey: MD5, one round).

use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit, block_padding::Pkcs7};
use md5::{Digest, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::Decode;
use pkcs8::pkcs5::{EncryptionScheme, pbes2};
use zeroize::Zeroizing;

use super::pem::{Error, Passwords, is_sequence};

/// Most rounds of PBKDF2 for one password: several seconds. OpenSSL makes 2048, careful people a million.
pub const PBKDF2_ITERATIONS_MAX: u32 = 10_000_000;
/// Most memory of scrypt for one password, in bytes. OpenSSL uses 16 MiB, and refuses more than 32.
pub const SCRYPT_MEMORY_BYTES_MAX: u64 = 64 << 20;
/// Most passes of scrypt over its memory for one password.
pub const SCRYPT_PARALLELIZATION_MAX: u16 = 16;

/// Limits on what deriving a key from one password may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    pub pbkdf2_iterations_max: u32,
    pub scrypt_memory_bytes_max: u64,
    pub scrypt_parallelization_max: u16,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            pbkdf2_iterations_max: PBKDF2_ITERATIONS_MAX,
            scrypt_memory_bytes_max: SCRYPT_MEMORY_BYTES_MAX,
            scrypt_parallelization_max: SCRYPT_PARALLELIZATION_MAX,
        }
    }
}

impl Costs {
    fn allow(&self, kdf: &pbes2::Kdf) -> bool {
        match kdf {
            pbes2::Kdf::Pbkdf2(params) => params.iteration_count <= self.pbkdf2_iterations_max,
            pbes2::Kdf::Scrypt(params) => {
                let bytes = u128::from(params.cost_parameter) * u128::from(params.block_size) * 128;
                // pkcs5 computes the logarithm of the cost, and panics at zero.
                params.cost_parameter > 0
                    && bytes <= u128::from(self.scrypt_memory_bytes_max)
                    && params.parallelization <= self.scrypt_parallelization_max
            }
            _ => false,
        }
    }
}

/// Decrypts an EncryptedPrivateKeyInfo; the result is a PKCS#8 key.
pub(super) fn pkcs8(
    der: &[u8],
    line: usize,
    passwords: &Passwords,
    costs: Costs,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let info = match EncryptedPrivateKeyInfoRef::from_der(der) {
        Ok(info) => info,
        Err(_) if !is_sequence(der) => return Err(Error::NotDer { line }),
        Err(_) => return Err(Error::UnsupportedEncryption("an unknown scheme".to_owned())),
    };
    let EncryptionScheme::Pbes2(params) = &info.encryption_algorithm else {
        return Err(Error::UnsupportedEncryption("PKCS#5 version 1".to_owned()));
    };
    if !costs.allow(&params.kdf) {
        return Err(Error::CostlyEncryption);
    }
    first_fitting(passwords, |password| {
        let plain = params.decrypt(password, info.encrypted_data.as_ref());
        Ok(plain.ok().map(Zeroizing::new))
    })
}

/// Decrypts the body of a block with the header `DEK-Info: <how>`.
pub(super) fn legacy(
    how: &[u8],
    body: &[u8],
    line: usize,
    passwords: &Passwords,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let comma = how.iter().position(|byte| *byte == b',').ok_or(Error::NotDer { line })?;
    let (cipher, iv) = (how[..comma].trim_ascii(), how[comma + 1..].trim_ascii());
    let (decrypt, key_bytes, iv_bytes): (Decrypt, usize, usize) = match cipher {
        b"AES-128-CBC" => (cbc::<aes::Aes128Dec>, 16, 16),
        b"AES-192-CBC" => (cbc::<aes::Aes192Dec>, 24, 16),
        b"AES-256-CBC" => (cbc::<aes::Aes256Dec>, 32, 16),
        b"DES-EDE3-CBC" => (cbc::<des::TdesEde3>, 24, 8),
        b"DES-CBC" => (cbc::<des::Des>, 8, 8),
        _ => return Err(Error::UnsupportedEncryption(String::from_utf8_lossy(cipher).into_owned())),
    };
    let iv = hex(iv).filter(|iv| iv.len() == iv_bytes).ok_or(Error::NotDer { line })?;
    first_fitting(passwords, |password| {
        let key = derived(password, &iv[..8], key_bytes);
        Ok(decrypt(&key, &iv, body))
    })
}

/// Tries each password.
fn first_fitting(
    passwords: &Passwords,
    decrypt: impl Fn(&[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Error>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    if passwords.is_empty() {
        return Err(Error::Encrypted);
    }
    for password in passwords.iter() {
        // One wrong password of 256 leaves a padding that looks right.
        if let Some(plain) = decrypt(password)?.filter(|plain| is_sequence(plain)) {
            return Ok(plain);
        }
    }
    Err(Error::NoPasswordFits)
}

type Decrypt = fn(&[u8], &[u8], &[u8]) -> Option<Zeroizing<Vec<u8>>>;

fn cbc<C: BlockCipherDecrypt + KeyInit>(key: &[u8], iv: &[u8], body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut plain = Zeroizing::new(body.to_vec());
    let cipher = cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?;
    let length = cipher.decrypt_padded::<Pkcs7>(&mut plain).ok()?.len();
    plain.truncate(length);
    Some(plain)
}

/// EVP_BytesToKey with MD5 and one round: each digest covers the one before, the password and the salt.
fn derived(password: &[u8], salt: &[u8], key_bytes: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(48));
    while key.len() < key_bytes {
        let before = key.len().saturating_sub(16);
        let mut md5 = Md5::new();
        md5.update(&key[before..]);
        md5.update(password);
        md5.update(salt);
        key.extend_from_slice(&md5.finalize());
    }
    key.truncate(key_bytes);
    key
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrypt_without_cost_is_refused() {
        let salt = pbes2::Salt::new([1; 8]).expect("short");
        let params = |cost_parameter, parallelization| {
            pbes2::Kdf::Scrypt(pbes2::ScryptParams {
                salt,
                cost_parameter,
                block_size: 8,
                parallelization,
                key_length: None,
            })
        };
        assert!(!Costs::default().allow(&params(0, 1)));
        assert!(Costs::default().allow(&params(1 << 14, 1)));
        assert!(!Costs::default().allow(&params(1 << 17, 1)));
        assert!(!Costs::default().allow(&params(1 << 10, 17)));
    }

    #[test]
    fn keys_come_from_chained_digests() {
        let key = derived(b"hidden", &[1, 2, 3, 4, 5, 6, 7, 8], 24);
        assert_eq!(key.len(), 24);
        assert_eq!(key[..16], *derived(b"hidden", &[1, 2, 3, 4, 5, 6, 7, 8], 16));
        assert_eq!(hex(b"0aF"), None);
        assert_eq!(hex(b"0aFf"), Some(vec![0x0a, 0xff]));
    }
}
