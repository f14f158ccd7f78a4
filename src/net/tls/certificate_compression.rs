//! Compressed certificates in handshakes of TLS 1.3 (`ssl_certificate_compression`): brotli and zlib.
//!
//! Touches: the crates `brotli` and, by rustls, `zlib-rs`. rustls' own brotli would bring a second version of
//! that crate. rustls keeps compressed chains, so a chain is compressed once per worker, not per handshake.
//! Format: RFC 8879.

use std::io::Read;

use brotli::enc::BrotliEncoderParams;
use rustls::CertificateCompressionAlgorithm;
use rustls::compress::{
    CertCompressor, CertDecompressor, CompressionFailed, CompressionLevel, DecompressionFailed,
    ZLIB_COMPRESSOR, ZLIB_DECOMPRESSOR,
};

/// The window of our encoder: chains are shorter than 64 KiB, and a window has that size in memory.
const WINDOW_BITS: i32 = 16;
/// Bytes that the decoder reads at a time.
const READ_BYTES: usize = 4096;

/// For `ServerConfig::cert_compressors` if `ssl_certificate_compression` is on: brotli makes them a little
/// smaller than zlib. The client's order counts.
pub fn compressors() -> Vec<&'static dyn CertCompressor> {
    vec![&Brotli, ZLIB_COMPRESSOR]
}

/// For `ClientConfig::cert_decompressors`, toward upstreams.
pub fn decompressors() -> Vec<&'static dyn CertDecompressor> {
    vec![&Brotli, ZLIB_DECOMPRESSOR]
}

#[derive(Debug)]
struct Brotli;

impl CertCompressor for Brotli {
    fn compress(&self, input: Vec<u8>, level: CompressionLevel) -> Result<Vec<u8>, CompressionFailed> {
        let quality = match level {
            CompressionLevel::Interactive => 4,
            CompressionLevel::Amortized => 11,
        };
        let params = BrotliEncoderParams {
            quality,
            lgwin: WINDOW_BITS,
            size_hint: input.len(),
            ..BrotliEncoderParams::default()
        };
        let mut out = Vec::with_capacity(input.len());
        brotli::BrotliCompress(&mut input.as_slice(), &mut out, &params).map_err(|_| CompressionFailed)?;
        Ok(out)
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        CertificateCompressionAlgorithm::Brotli
    }
}

impl CertDecompressor for Brotli {
    /// `output` has the length that the peer has declared, which rustls bounds. The decoder needs at most the
    /// window that the input asks for, 16 MiB.
    fn decompress(&self, input: &[u8], output: &mut [u8]) -> Result<(), DecompressionFailed> {
        let mut decoder = brotli::Decompressor::new(input, READ_BYTES);
        decoder.read_exact(output).map_err(|_| DecompressionFailed)?;
        match decoder.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ => Err(DecompressionFailed),
        }
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        CertificateCompressionAlgorithm::Brotli
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back() {
        let chain: Vec<u8> = (0..400).flat_map(|n| format!("certificate {n},").into_bytes()).collect();
        for level in [CompressionLevel::Interactive, CompressionLevel::Amortized] {
            let small = Brotli.compress(chain.clone(), level).expect("it is compressed");
            assert!(small.len() < chain.len() / 2);
            let mut out = vec![0; chain.len()];
            Brotli.decompress(&small, &mut out).expect("it is whole");
            assert_eq!(out, chain);
            // A wrong length, a cut, and bytes that are not brotli.
            assert!(Brotli.decompress(&small, &mut vec![0; chain.len() - 1]).is_err());
            assert!(Brotli.decompress(&small, &mut vec![0; chain.len() + 1]).is_err());
            assert!(Brotli.decompress(&small[..small.len() / 2], &mut out).is_err());
        }
        assert!(Brotli.decompress(b"certificate", &mut [0; 11]).is_err());
    }

    #[test]
    fn brotli_is_first() {
        let first = compressors().first().map(|compressor| compressor.algorithm());
        assert_eq!(first, Some(CertificateCompressionAlgorithm::Brotli));
        assert_eq!(decompressors().len(), 2);
    }
}
