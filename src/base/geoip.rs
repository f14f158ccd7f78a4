//! Databases of addresses in MaxMind's older format (`GeoIP.dat`, "GeoIP Legacy"): a search tree over the bits of an address,
//! with a country or the place of a record at each leaf.
//!
//! Pure data. Every place in a file is checked when it is read.
//! Truth: MaxMind's "GeoIP Legacy" documentation, and the databases that nginx's tests make.

mod countries;
mod regions;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod toy;

pub use countries::Country;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use countries::COUNTRIES;

/// The number at the leaves of databases of countries for a country that is not known.
const NO_COUNTRY: u32 = 0xff_ff00;
/// Three of these bytes precede the description at the end of a file.
const MARKER: [u8; 3] = [0xff; 3];
/// How far before the end the description may begin.
const DESCRIPTION_BYTES: usize = 20;
/// The longest name of an organization.
const NAME_BYTES_MAX: usize = 300;
/// The first type of databases that counts them from 106.
const OLD_TYPES: u8 = 105;

/// The subject of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Country,
    City,
    /// Organizations, providers, domains, autonomous systems.
    Organization,
}

/// A whole database in memory.
pub struct Database {
    bytes: Box<[u8]>,
    /// Its type's number in the format.
    edition: u8,
    kind: Kind,
    is_v6: bool,
    /// The numbers of nodes are below, those of leaves from here on.
    node_count: u32,
    record_bytes: usize,
    /// Names are converted to UTF-8; otherwise they are sent as they are, in ISO 8859-1.
    is_utf8: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("edition", &self.edition)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// The database is of a type that is not about what is wanted, or unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType(pub u8);

/// The facts about a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number in the table of countries; 0: none.
    country: u8,
    pub region: Option<Vec<u8>>,
    pub city: Option<Vec<u8>>,
    pub postal_code: Option<Vec<u8>>,
    pub latitude: f32,
    pub longitude: f32,
    /// For the United States; otherwise 0.
    pub dma_code: u32,
    pub area_code: u32,
}

impl Record {
    pub fn country(&self) -> Option<&'static Country> {
        country(u32::from(self.country))
    }

    pub fn region_name(&self) -> Option<&'static str> {
        regions::name(self.country()?.code, self.region.as_deref()?)
    }
}

fn country(number: u32) -> Option<&'static Country> {
    COUNTRIES.get(usize::try_from(number).ok()?.checked_sub(1)?)
}

impl Database {
    /// Reads a database. Errors: it is not about `kind`.
    pub fn parse(bytes: Box<[u8]>, kind: Kind, is_utf8: bool) -> Result<Self, WrongType> {
        // a file without a description is one of countries
        let (edition, rest) = description(&bytes).unwrap_or((1, &[]));
        let (found, is_v6, record_bytes) = match edition {
            1 => (Kind::Country, false, 3),
            12 => (Kind::Country, true, 3),
            2 | 6 => (Kind::City, false, 3),
            30 | 31 => (Kind::City, true, 3),
            4 | 5 | 11 => (Kind::Organization, false, 4),
            9 => (Kind::Organization, false, 3),
            22..=24 => (Kind::Organization, true, 4),
            21 => (Kind::Organization, true, 3),
            _ => return Err(WrongType(edition)),
        };
        if found != kind {
            return Err(WrongType(edition));
        }
        let node_count = match kind {
            Kind::Country => NO_COUNTRY,
            _ => little(rest.get(..3).ok_or(WrongType(edition))?),
        };
        Ok(Self { bytes, edition, kind, is_v6, node_count, record_bytes, is_utf8 })
    }

    /// The country of an address; `None`: it is unknown, or the database is not about countries.
    pub fn country(&self, address: Option<IpAddr>) -> Option<&'static Country> {
        let leaf = self.leaf(address).filter(|_| self.kind == Kind::Country)?;
        country(leaf - NO_COUNTRY)
    }

    /// The record of an address in a database of cities.
    pub fn city(&self, address: Option<IpAddr>) -> Option<Record> {
        let record = self.record(address).filter(|_| self.kind == Kind::City)?;
        let (country, rest) = record.split_first()?;
        let (region, rest) = text(rest)?;
        let (city, rest) = text(rest)?;
        let (postal_code, rest) = text(rest)?;
        let (latitude, longitude) = (degrees(rest.get(..3)?), degrees(rest.get(3..6)?));
        let text = |text: &[u8]| (!text.is_empty()).then(|| self.converted(text));
        let mut record = Record {
            country: *country,
            region: text(region),
            city: text(city),
            postal_code: text(postal_code),
            latitude,
            longitude,
            dma_code: 0,
            area_code: 0,
        };
        let is_detailed =
            matches!(self.edition, 2 | 30) && record.country().is_some_and(|country| country.code == "US");
        if let Some(codes) = rest.get(6..9).filter(|_| is_detailed) {
            (record.dma_code, record.area_code) = (little(codes) / 1000, little(codes) % 1000);
        }
        Some(record)
    }

    /// The name of an address' organization.
    pub fn organization(&self, address: Option<IpAddr>) -> Option<Vec<u8>> {
        let record = self.record(address).filter(|_| self.kind == Kind::Organization)?;
        let (name, _) = text(&record[..record.len().min(NAME_BYTES_MAX)])?;
        Some(self.converted(name))
    }

    /// The bytes from a record on.
    fn record(&self, address: Option<IpAddr>) -> Option<&[u8]> {
        let leaf = self.leaf(address)?;
        if leaf == self.node_count {
            return None;
        }
        let tree = (2 * self.record_bytes as u64 - 1) * u64::from(self.node_count);
        self.bytes.get(usize::try_from(u64::from(leaf) + tree).ok()?..)
    }

    /// The number at the leaf of an address. What is no address is looked up as 255.255.255.255, or as `::`.
    fn leaf(&self, address: Option<IpAddr>) -> Option<u32> {
        let (bits, count) = match (self.is_v6, address.map(|ip| ip.to_canonical())) {
            (true, None) => (0, 128),
            (true, Some(IpAddr::V4(ip))) => (ip.to_ipv6_mapped().to_bits(), 128),
            (true, Some(IpAddr::V6(ip))) => (ip.to_bits(), 128),
            (false, Some(IpAddr::V4(ip))) => (u128::from(ip.to_bits()), 32),
            (false, _) => (u128::from(Ipv4Addr::BROADCAST.to_bits()), 32),
        };
        let mut node = 0_usize;
        for index in (0..count).rev() {
            let side = (bits >> index & 1) as usize;
            let at = node.checked_mul(2)?.checked_add(side)?.checked_mul(self.record_bytes)?;
            let next = little(self.bytes.get(at..at.checked_add(self.record_bytes)?)?);
            if next >= self.node_count {
                return Some(next);
            }
            node = usize::try_from(next).ok()?;
        }
        None
    }

    fn converted(&self, name: &[u8]) -> Vec<u8> {
        match self.is_utf8 {
            true => name.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes(),
            false => name.to_vec(),
        }
    }
}

/// The type of a database, and what follows it.
fn description(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let least = bytes.len().saturating_sub(MARKER.len() + DESCRIPTION_BYTES);
    let at = (least..bytes.len()).rev().find(|at| bytes[*at..].starts_with(&MARKER))?;
    let (edition, rest) = bytes[at + MARKER.len()..].split_first()?;
    Some((edition.checked_sub(OLD_TYPES).filter(|edition| *edition > 0).unwrap_or(*edition), rest))
}

/// A number with its lowest byte first.
fn little(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn degrees(bytes: &[u8]) -> f32 {
    (f64::from(little(bytes)) / 10_000.0 - 180.0) as f32
}

/// The text up to the next zero, and what follows that.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}
