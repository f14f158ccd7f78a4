//! Databases that tests make, and broken ones.

use super::countries::COUNTRIES;
use super::toy::{cities, countries, organizations};
use super::{Database, Kind, WrongType};

fn ip(text: &str) -> Option<std::net::IpAddr> {
    text.parse().ok()
}

fn parse(bytes: Vec<u8>, kind: Kind) -> Database {
    Database::parse(bytes.into(), kind, false).unwrap()
}

#[test]
fn countries_have_the_numbers_of_the_format() {
    for (number, code) in
        [(1, "AP"), (55, "CZ"), (76, "GA"), (185, "RU"), (225, "US"), (252, "MF"), (254, "SS")]
    {
        assert_eq!(COUNTRIES[number - 1].code, code, "{number}");
    }
    assert_eq!(COUNTRIES.len(), 254);
    let mut codes: Vec<&str> = COUNTRIES.iter().map(|country| country.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), 254);
}

#[test]
fn a_country_is_found_by_its_address() {
    let v4 = parse(countries("10.0.0.1", 185), Kind::Country);
    assert_eq!(v4.country(ip("10.0.0.1")).unwrap().name, "Russian Federation");
    assert_eq!(v4.country(ip("::ffff:10.0.0.1")).unwrap().code3, "RUS");
    for address in ["10.0.0.2", "11.0.0.1", "2001:db8::1", "unix:"] {
        assert!(v4.country(ip(address)).is_none(), "{address}");
    }
    assert!(v4.city(ip("10.0.0.1")).is_none() && v4.organization(ip("10.0.0.1")).is_none());
    let v6 = parse(countries("2001:db8::1", 225), Kind::Country);
    assert_eq!(v6.country(ip("2001:db8::1")).unwrap().continent, "NA");
    assert!(v6.country(ip("10.0.0.1")).is_none() && v6.country(None).is_none());
    let mapped = parse(countries("::ffff:10.0.0.1", 225), Kind::Country);
    assert_eq!(mapped.country(ip("10.0.0.1")).unwrap().code, "US");
}

#[test]
fn a_city_has_a_record() {
    for address in ["10.0.0.1", "2001:db8::1"] {
        let found = parse(cities(address, 185, [b"48", b"M\xfcnchen", b"119034"], 807_312), Kind::City);
        let record = found.city(ip(address)).unwrap();
        assert_eq!((record.country().unwrap().code, record.region_name()), ("RU", Some("Moscow City")));
        assert_eq!(record.city.as_deref(), Some(&b"M\xfcnchen"[..]));
        assert_eq!(record.postal_code.as_deref(), Some(&b"119034"[..]));
        assert_eq!(format!("{:.4} {:.4}", record.latitude, record.longitude), "55.7543 37.6202");
        assert_eq!((record.dma_code, record.area_code), (0, 0), "only in the United States");
        assert_eq!(found.city(ip("10.0.0.9")), None);
    }
    let states = parse(cities("10.0.0.1", 225, [b"CA", b"", b""], 807_312), Kind::City);
    let record = states.city(ip("10.0.0.1")).unwrap();
    assert_eq!((record.region_name(), record.city), (Some("California"), None));
    assert_eq!((record.dma_code, record.area_code), (807, 312));
    let utf8 =
        Database::parse(cities("10.0.0.1", 56, [b"02", b"M\xfcnchen", b""], 0).into(), Kind::City, true);
    assert_eq!(utf8.unwrap().city(ip("10.0.0.1")).unwrap().city.as_deref(), Some("München".as_bytes()));
}

#[test]
fn an_organization_has_a_name() {
    let found = parse(organizations("10.0.0.1", b"Nginx"), Kind::Organization);
    assert_eq!(found.organization(ip("10.0.0.1")).as_deref(), Some(&b"Nginx"[..]));
    assert_eq!(found.organization(ip("10.0.0.2")), None);
    let long = parse(organizations("10.0.0.1", &[b'x'; 400]), Kind::Organization);
    assert_eq!(long.organization(ip("10.0.0.1")), None, "longer than names are");
}

#[test]
fn other_types_are_refused() {
    let parse = |bytes: Vec<u8>, kind| Database::parse(bytes.into(), kind, false).map(|_| ());
    assert_eq!(parse(countries("10.0.0.1", 1), Kind::City), Err(WrongType(1)));
    assert_eq!(parse(organizations("10.0.0.1", b"x"), Kind::Country), Err(WrongType(5)));
    assert_eq!(parse(b"\xff\xff\xff\x08".to_vec(), Kind::Country), Err(WrongType(8)));
    assert_eq!(parse(b"\xff\xff\xff\x6a".to_vec(), Kind::Country), Ok(()), "106 means 1");
    assert_eq!(parse(b"\xff\xff\xff\x02\x01".to_vec(), Kind::City), Err(WrongType(2)), "cut off");
    assert_eq!(parse(Vec::new(), Kind::Country), Ok(()));
}

#[test]
fn any_change_of_a_byte_ends_in_an_answer_or_in_none() {
    let all = [
        (countries("10.0.0.1", 1), Kind::Country),
        (cities("10.0.0.1", 225, [b"CA", b"city", b"1"], 9), Kind::City),
        (organizations("2001:db8::1", b"name"), Kind::Organization),
    ];
    for (good, kind) in all {
        let look = |bytes: Vec<u8>| {
            let Ok(found) = Database::parse(bytes.into(), kind, true) else { return };
            for address in ["10.0.0.1", "2001:db8::1", "unix:"] {
                let record = found.city(ip(address));
                let _ = record.and_then(|record| record.region_name());
                found.country(ip(address));
                found.organization(ip(address));
            }
        };
        for at in 0..good.len() {
            look(good[..at].to_vec());
            for value in [0, 1, 31, 0x7f, 0xfe, 0xff] {
                let mut changed = good.clone();
                changed[at] = value;
                look(changed);
            }
        }
    }
}
