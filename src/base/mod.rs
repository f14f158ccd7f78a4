//! Pure data types and text functions that no crate offers: no system calls, no clock.

pub mod base64;
pub mod byte_table;
pub mod checksum;
pub mod crypt;
pub mod foreign;
pub mod frame;
pub mod geoip;
pub mod gzip;
pub mod http_date;
pub mod image;
pub mod in_place;
pub mod jose;
pub mod json;
pub mod mmdb;
pub mod network;
pub mod number;
pub mod path;
pub mod radix;
pub mod wildcard;
