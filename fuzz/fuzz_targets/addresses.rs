//! Any bytes as a database of addresses, in either of MaxMind's formats: each lookup ends, and reads nothing outside.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use pronghorn::base::{geoip, mmdb};

fuzz_target!(|data: &[u8]| {
    let addresses: [IpAddr; 3] = [[10, 1, 2, 3].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0_u16; 8].into()];
    if let Ok(found) = mmdb::Database::parse(data.into()) {
        for address in addresses {
            found.lookup(address, &["country", "names", "en"]);
            found.lookup(address, &["subdivisions", "1", "iso_code"]);
        }
    }
    for kind in [geoip::Kind::Country, geoip::Kind::City, geoip::Kind::Organization] {
        let Ok(found) = geoip::Database::parse(data.into(), kind, true) else { continue };
        for address in addresses {
            found.country(Some(address));
            found.city(Some(address)).and_then(|record| record.region_name());
            found.organization(Some(address));
        }
    }
});
