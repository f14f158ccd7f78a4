//! Variables out of databases of addresses: `geoip_…` (the older format) and `geoip2`, in `http` and in `stream`.

#[path = "../../src/base/geoip/toy.rs"]
mod legacy;

use std::fs;

use crate::http::mmdb::{Item, database};
use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Response, Setup, fetch, get, wait_for};

const CONF: &str = r#"
http {
    geoip2 city.mmdb {
        auto_reload 5m;
        $city default=Nowhere city names en;
        $country country iso_code;
        $asked source=$arg_ip default=- country iso_code;
        $place location latitude;
        $first subdivisions 0 iso_code;
        $flags is_capital;
        $huge huge;
        $below below;
        $half half;
        $again again country iso_code;
        $built metadata build_epoch;
        $changed metadata last_change;
    }
    geoip2_proxy 127.0.0.1;
    geoip2_proxy_recursive on;
    geoip2_proxy 192.0.2.0/24;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "$city $country $asked"; }
        location /more { return 200 "$place $first $flags $huge $built"; }
        location /rest { return 200 "$below $half $again"; }
        location /time { return 200 $changed; }
    }
}
stream {
    geoip2 city.mmdb { $country default=ZZ country iso_code; $given source=$name country iso_code; }
    map $server_port $name { default 10.0.0.1; }
    server { listen 127.0.0.1:%%PORT_1%%; return "$country $given"; }
}
"#;

fn city(name: &'static str) -> Vec<u8> {
    let names = Item::Map(vec![("en", Item::Text(name))]);
    let here = Item::Map(vec![
        ("city", Item::Map(vec![("names", names)])),
        ("country", Item::Map(vec![("iso_code", Item::Text("RU"))])),
        ("location", Item::Map(vec![("latitude", Item::Double(55.7522))])),
        ("subdivisions", Item::List(vec![Item::Map(vec![("iso_code", Item::Text("MOW"))])])),
        ("is_capital", Item::Bool(true)),
        ("huge", Item::U128(0xabc)),
        ("below", Item::I32(-7)),
        ("half", Item::Float(0.5)),
        ("again", Item::Pointer(0)),
    ]);
    let there = Item::Map(vec![("country", Item::Map(vec![("iso_code", Item::Text("US"))]))]);
    database(28, &[("10.0.0.0", 8, here), ("2001:db8::", 32, there)])
}

fn ask(daemon: &Daemon, path: &str, forwarded: &str) -> Response {
    let head = "HTTP/1.1\r\nHost: a\r\nConnection: close";
    fetch(daemon.port(0), &format!("GET {path} {head}\r\nX-Forwarded-For: {forwarded}\r\n\r\n"))
}

#[test]
fn values_of_a_database_are_variables() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).file("city.mmdb", city("Moscow")).start();
    for (path, forwarded, expected) in [
        ("/", "10.1.2.3", "Moscow RU -"),
        ("/", "10.1.2.3, 192.0.2.9", "Moscow RU -"),
        ("/", "::ffff:10.1.2.3", "Moscow RU -"),
        ("/", "2001:db8::1", "Nowhere US -"),
        ("/", "10.1.2.3, 11.0.0.1", "Nowhere  -"),
        ("/", "nonsense", "Nowhere  -"),
        ("/?ip=2001:db8:5::", "10.1.2.3", "Moscow RU US"),
        ("/?ip=nonsense", "10.1.2.3", "Moscow RU -"),
        ("/more", "10.1.2.3", "55.75220 MOW 1 0x00000000000000000000000000000abc 1700000000"),
        ("/rest", "10.1.2.3", "-7 0.50000 RU"),
        ("/more", "11.1.2.3", "    1700000000"),
    ] {
        assert_eq!(ask(&daemon, path, forwarded).text(), expected, "{path} {forwarded}");
    }
    let changed: u64 = get(daemon.port(0), "/time").text().parse().unwrap();
    assert!(changed > 1_700_000_000);
    assert_eq!(Client::connect(daemon.port(1)).rest().0, b"ZZ RU");
}

#[test]
fn a_database_that_has_changed_is_used_without_a_reload() {
    if is_stand_in() {
        return;
    }
    let daemon = Setup::new(CONF).file("city.mmdb", city("Moscow")).start();
    // a broken file changes nothing, nor does one that is cut off under the workers
    daemon.write("city.mmdb", "broken");
    daemon.wait_log("cannot use database .*city.mmdb\": no MaxMind database.* former contents stay in force");
    assert_eq!(ask(&daemon, "/", "10.1.2.3").text(), "Moscow RU -");
    daemon.write("next.mmdb", city("Tver"));
    fs::rename(daemon.path("next.mmdb"), daemon.path("city.mmdb")).unwrap();
    wait_for("new workers with the new database", || {
        (ask(&daemon, "/", "10.1.2.3").text() == "Tver RU -").then_some(())
    });
    assert!(daemon.log_count("city.mmdb\" has changed: new workers begin with it") > 0);
}

#[test]
fn faults_of_a_configuration_are_told() {
    if is_stand_in() {
        return;
    }
    for (block, message) in [
        ("geoip2 none.mmdb { $a b; }", "MMDB_open(\"/"),
        ("geoip2 text.mmdb { $a b; }", "text.mmdb\") failed - no MaxMind database"),
        ("geoip2 good.mmdb { $a; }", "invalid number of the geoip2 parameters"),
        ("geoip2 good.mmdb { a b; }", "invalid variable name \"a\""),
        ("geoip2 good.mmdb { $a source=x b; }", "invalid variable name \"x\""),
        ("geoip2 good.mmdb { $a source=$none b; }", "unknown \"none\" variable"),
        ("geoip2 good.mmdb { $a metadata b; }", "unknown metadata \"b\""),
        ("geoip2 good.mmdb { auto_reload soon; }", "invalid interval for auto_reload"),
        ("geoip2 good.mmdb { $a b; } geoip2 good.mmdb { $c d; }", "duplicate geoip2 database"),
        ("geoip2_proxy 1.2.3.4/99;", "invalid value \"1.2.3.4/99\""),
        ("geoip2_proxy_recursive maybe;", "it must be \"on\" or \"off\""),
        ("geoip_country none.dat;", "GeoIP_open(\"/"),
        ("geoip_city country.dat;", "invalid GeoIP database \"/"),
        ("geoip_country country.dat utf9;", "invalid parameter \"utf9\""),
        ("geoip_country country.dat; geoip_country country.dat;", "\"geoip_country\" directive is duplicate"),
    ] {
        let setup = Setup::new(&format!(
            "http {{ {block} server {{ listen 127.0.0.1:%%PORT_0%%; return 200 $a; }} }}"
        ))
        .file("good.mmdb", city("x"))
        .file("text.mmdb", "text")
        .file("country.dat", legacy::countries("10.0.0.1", 185));
        let said = String::from_utf8_lossy(&setup.run(&["-t"]).stderr).into_owned();
        assert!(said.contains(message), "{block}: {said}");
    }
}

#[test]
fn the_older_format_has_its_variables() {
    let conf = r#"
        http {
            geoip_country %%DIR%%/country.dat;
            geoip_city %%DIR%%/city.dat utf8;
            geoip_org %%DIR%%/org.dat;
            geoip_proxy 127.0.0.1;
            geoip_proxy_recursive on;
            server {
                listen 127.0.0.1:%%PORT_0%%;
                location / { return 200 "$geoip_country_code $geoip_country_code3 $geoip_country_name|$geoip_org"; }
                location /city { return 200 "$geoip_city_continent_code $geoip_city_country_code $geoip_city_country_code3 $geoip_city_country_name|$geoip_region $geoip_region_name|$geoip_city|$geoip_postal_code|$geoip_latitude $geoip_longitude $geoip_dma_code $geoip_area_code"; }
            }
        }"#;
    let daemon = Setup::new(conf)
        .file("country.dat", legacy::countries("10.0.0.1", 185))
        .file("city.dat", legacy::cities("10.0.0.1", 225, [b"CA", b"San Jos\xe9", b"95101"], 807_408))
        .file("org.dat", legacy::organizations("10.0.0.1", b"Example"))
        .start();
    for (path, forwarded, expected) in [
        ("/", "10.0.0.1", "RU RUS Russian Federation|Example"),
        ("/", "::ffff:10.0.0.1", "RU RUS Russian Federation|Example"),
        ("/", "10.0.0.1, 127.0.0.1", "RU RUS Russian Federation|Example"),
        ("/", "10.0.0.2", "  |"),
        ("/", "2001:db8::1", "  |"),
        ("/city", "10.0.0.1", "NA US USA United States|CA California|San José|95101|55.7543 37.6202 807 408"),
        ("/city", "10.0.0.2", "   | |||   "),
    ] {
        assert_eq!(ask(&daemon, path, forwarded).text(), expected, "{path} {forwarded}");
    }
    let stream = r#"
        stream {
            geoip_country country.dat;
            server { listen 127.0.0.1:%%PORT_0%%; return "<$geoip_country_code $geoip_city>"; }
        }"#;
    let daemon = Setup::new(stream).file("country.dat", legacy::countries("127.0.0.1", 225)).start();
    assert_eq!(Client::connect(daemon.port(0)).rest().0, b"<US >");
}
