//! Small databases for tests, which the tests of the daemon include as well: it uses nothing else of the program.

use std::net::IpAddr;

fn little(number: usize, bytes: usize) -> Vec<u8> {
    number.to_le_bytes()[..bytes].to_vec()
}

/// A tree in which one address leads to `found`, and any other to `other`. Records have `bytes` bytes.
fn tree(address: &str, bytes: usize, found: usize, other: usize) -> Vec<u8> {
    let (bits, count) = match address.parse().expect("an address") {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let mut out = Vec::new();
    for index in 0..count {
        let next = if index + 1 == count { found } else { index + 1 };
        let is_right = bits >> (count - 1 - index) & 1 == 1;
        let (left, right) = if is_right { (other, next) } else { (next, other) };
        out.extend([little(left, bytes), little(right, bytes)].concat());
    }
    out
}

/// A database of countries, for either version of IP.
pub fn countries(address: &str, number: usize) -> Vec<u8> {
    let edition = if address.contains(':') { 12 } else { 1 };
    [tree(address, 3, 0xff_ff00 + number, 0xff_ff00), vec![0; 3], vec![0xff; 3], vec![edition]].concat()
}

/// A database with one record, of this type.
fn records(address: &str, bytes: usize, edition: u8, record: &[u8]) -> Vec<u8> {
    let count = if address.contains(':') { 128 } else { 32 };
    // the first byte of the records stands for none
    let tree = tree(address, bytes, count + 1, count);
    [tree, vec![0], record.to_vec(), vec![0xff; 3], vec![edition], little(count, 3)].concat()
}

/// A database of cities with one address: a country by its number, region, city, postal code, and the code of DMA and area.
pub fn cities(address: &str, country: u8, texts: [&[u8]; 3], codes: usize) -> Vec<u8> {
    let edition = if address.contains(':') { 30 } else { 2 };
    let texts = texts.map(|text| [text, b"\0"].concat()).concat();
    let place =
        [little((55.7543_f64 + 180.0).mul_add(10_000.0, 0.5) as usize, 3), little(2_176_202, 3)].concat();
    records(address, 3, edition, &[vec![country], texts, place, little(codes, 3)].concat())
}

/// A database of organizations with one address.
pub fn organizations(address: &str, name: &[u8]) -> Vec<u8> {
    let edition = if address.contains(':') { 23 } else { 5 };
    records(address, 4, edition, &[name, b"\0"].concat())
}
