//! Databases that tests make, and broken ones.

use super::toy::{Item, database};
use super::{Database, Value};

fn city() -> Item {
    let names = Item::Map(vec![("de", Item::Text("Moskau")), ("en", Item::Text("Moscow"))]);
    Item::Map(vec![
        ("city", Item::Map(vec![("geoname_id", Item::U32(524_901)), ("names", names)])),
        ("location", Item::Map(vec![("latitude", Item::Double(55.7522)), ("radius", Item::U16(20))])),
        (
            "subdivisions",
            Item::List(vec![
                Item::Map(vec![("iso_code", Item::Text("MOW"))]),
                Item::Map(vec![("iso_code", Item::Text("X"))]),
            ]),
        ),
        ("is_capital", Item::Bool(true)),
        ("is_island", Item::Bool(false)),
        ("below", Item::I32(-7)),
        ("float", Item::Float(1.5)),
        ("long", Item::U64(1 << 40)),
        ("huge", Item::U128(1 << 100)),
        ("text", Item::Text("0123456789012345678901234567890123456789")),
    ])
}

fn parse(bytes: Vec<u8>) -> Result<Database, String> {
    Database::parse(bytes.into()).map_err(|error| error.to_string())
}

fn lookup<'a>(database: &'a Database, address: &str, path: &str) -> Option<Value<'a>> {
    let path: Vec<&str> = path.split_whitespace().collect();
    database.lookup(address.parse().expect("an address"), &path)
}

#[test]
fn values_are_found_by_address_and_path() {
    for record_bits in [24, 28, 32] {
        let there = Item::Map(vec![("country", Item::Text("US"))]);
        let networks = [("10.0.0.0", 8, city()), ("2001:db8::", 32, there)];
        let found = parse(database(record_bits, &networks)).unwrap();
        assert_eq!(found.build_epoch_s(), 1_700_000_000);
        for (path, expected) in [
            ("city names en", Some(Value::Text(b"Moscow"))),
            ("city geoname_id", Some(Value::Unsigned(524_901))),
            ("location latitude", Some(Value::Double(55.7522))),
            ("location radius", Some(Value::Unsigned(20))),
            ("subdivisions 0 iso_code", Some(Value::Text(b"MOW"))),
            ("subdivisions 1 iso_code", Some(Value::Text(b"X"))),
            ("subdivisions 2 iso_code", None),
            ("subdivisions -1 iso_code", None),
            ("is_capital", Some(Value::Bool(true))),
            ("is_island", Some(Value::Bool(false))),
            ("below", Some(Value::Signed(-7))),
            ("float", Some(Value::Float(1.5))),
            ("long", Some(Value::Unsigned(1 << 40))),
            ("huge", Some(Value::Huge(1 << 100))),
            ("text", Some(Value::Text(b"0123456789012345678901234567890123456789"))),
            ("city", None),
            ("subdivisions", None),
            ("city names en more", None),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(lookup(&found, "10.1.2.3", path), expected, "{record_bits} {path}");
        }
        assert_eq!(lookup(&found, "2001:db8:5::1", "country"), Some(Value::Text(b"US")));
        for address in ["11.0.0.1", "9.255.255.255", "2001:db9::", "::", "0.0.0.0"] {
            assert_eq!(lookup(&found, address, "country"), None, "{address}");
        }
    }
}

#[test]
fn pointers_are_followed() {
    // the first network's value is at 0, so the others can share it
    let networks = [
        ("10.0.0.0", 8, Item::Text("shared")),
        ("11.0.0.0", 8, Item::Pointer(0)),
        ("12.0.0.0", 8, Item::Map(vec![("a", Item::Pointer(0)), ("b", Item::Text("after"))])),
        ("14.0.0.0", 8, Item::Pointer(u32::MAX)),
    ];
    let found = parse(database(28, &networks)).unwrap();
    assert_eq!(lookup(&found, "11.0.0.1", ""), Some(Value::Text(b"shared")));
    assert_eq!(lookup(&found, "12.0.0.1", "a"), Some(Value::Text(b"shared")));
    assert_eq!(lookup(&found, "12.0.0.1", "b"), Some(Value::Text(b"after")));
    assert_eq!(lookup(&found, "14.0.0.1", ""), None);
}

#[test]
fn what_is_no_database_is_refused() {
    const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
    let good = database(24, &[("10.0.0.0", 8, city())]);
    let marker = good.windows(14).position(|part| part == MARKER).expect("a marker");
    let with = |name: &str, offset: usize, value: u8| {
        let mut changed = good.clone();
        let at = changed.windows(name.len()).position(|part| part == name.as_bytes()).expect("a name");
        changed[at + name.len() + offset] = value;
        changed
    };
    for broken in [
        Vec::new(),
        b"text".repeat(100_000),
        good[marker..].to_vec(),
        good[..marker + 14].to_vec(),
        with("binary_format_major_version", 1, 3),
        with("record_size", 1, 25),
        with("ip_version", 1, 5),
        with("node_count", 1, 200),
    ] {
        let error = parse(broken).expect_err("it is broken");
        assert!(error.starts_with("no MaxMind database: "), "{error}");
    }
}

#[test]
fn any_change_of_a_byte_ends_in_a_value_or_in_none() {
    let good = database(28, &[("10.0.0.0", 8, city()), ("2001:db8::", 32, city())]);
    for at in 0..good.len() {
        for value in [0, 1, 0x3f, 0xe0, 0xff, good[at] ^ 0x20] {
            let mut changed = good.clone();
            changed[at] = value;
            let Ok(found) = parse(changed) else { continue };
            for path in ["city names en", "subdivisions 1 iso_code", "text", "none"] {
                lookup(&found, "10.1.2.3", path);
                lookup(&found, "2001:db8::1", path);
            }
        }
        let _ = parse(good[..at].to_vec()).map(|found| lookup(&found, "10.1.2.3", "text").is_some());
    }
}

#[test]
fn numbers_are_places_in_lists_and_names_in_maps() {
    let item = Item::Map(vec![("7", Item::Map(vec![("0", Item::Text("named"))]))]);
    let found = parse(database(32, &[("10.0.0.0", 8, item)])).unwrap();
    assert_eq!(lookup(&found, "10.0.0.1", "7 0"), Some(Value::Text(b"named")));
}
