//! Databases of addresses in MaxMind's format (`.mmdb`), and the single values that a path in one leads to.
//!
//! The crate maxminddb reads them, over bytes in memory. Pure data.

#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod toy;

use std::fmt;
use std::net::IpAddr;

use maxminddb::{MaxMindDbError, PathElement, Reader};
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// The largest database that is read; those of cities have less than 200 MiB.
pub const BYTES_MAX: u64 = 2 << 30;

/// A whole database in memory.
#[derive(Debug)]
pub struct Database(Reader<Box<[u8]>>);

/// Why bytes are no database.
#[derive(Debug)]
pub struct Error(MaxMindDbError);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no MaxMind database: {}", self.0)
    }
}

/// A single value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Text(&'a [u8]),
    Double(f64),
    Float(f32),
    Unsigned(u64),
    /// The largest type of numbers.
    Huge(u128),
    Signed(i32),
    Bool(bool),
}

impl Database {
    /// Reads a database. Errors: its description or its tree do not fit the file.
    pub fn parse(bytes: Box<[u8]>) -> Result<Self, Error> {
        Reader::from_source(bytes).map(Self).map_err(Error)
    }

    /// The time at which it was made, in seconds since 1970; 0 if it does not say.
    pub fn build_epoch_s(&self) -> u64 {
        self.0.metadata().build_epoch
    }

    /// The value at a path of names, and of numbers for elements of a list, in what is known of an address. `None`: there is
    /// none, it is a list or a map, or the database is damaged there.
    pub fn lookup(&self, address: IpAddr, path: &[impl AsRef<str>]) -> Option<Value<'_>> {
        let found = self.0.lookup(address).ok()?;
        let elements = |element: &dyn Fn(&'_ str) -> Option<usize>| -> Vec<PathElement<'_>> {
            let path = path.iter().map(AsRef::as_ref);
            path.map(|name| element(name).map_or(PathElement::Key(name), PathElement::Index)).collect()
        };
        match found.decode_path(&elements(&|name| name.parse().ok())) {
            Ok(value) => value,
            // A map may have numbers as names, too.
            Err(_) => found.decode_path(&elements(&|_| None)).ok()?,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Single)
    }
}

struct Single;

impl<'de> Visitor<'de> for Single {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a single value")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(text.as_bytes()))
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Value<'de>, E> {
        Ok(Value::Text(bytes))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Double(number))
    }

    fn visit_f32<E: de::Error>(self, number: f32) -> Result<Value<'de>, E> {
        Ok(Value::Float(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Unsigned(number))
    }

    fn visit_u128<E: de::Error>(self, number: u128) -> Result<Value<'de>, E> {
        Ok(Value::Huge(number))
    }

    fn visit_i32<E: de::Error>(self, number: i32) -> Result<Value<'de>, E> {
        Ok(Value::Signed(number))
    }

    fn visit_bool<E: de::Error>(self, is_true: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(is_true))
    }
}
