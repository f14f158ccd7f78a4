//! The rows and variables of MaxMind's older databases (`geoip_country`, `geoip_city`, `geoip_org`), for every language part.
//!
//! A file is read once for each configuration, by the process that reads that: workers share its memory with the master,
//! and a file that is changed or cut off later harms none of them. Touches: the files; the scope's peer address, and what a
//! proxy in front says of the client, where it is trusted.
//! Behaviour: nginx.org, ngx_http_geoip_module, ngx_stream_geoip_module.

use std::io::Write;
use std::net::IpAddr;

use crate::base::geoip::{Country, Database, Kind, Record};
use crate::base::network::Network;
use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Directive, Node};
use crate::script::Scope;
use crate::script::variable::{Variable, variable};
use crate::shared::Environment;
use crate::shared::realip::read_networks;
use crate::sys::file;

/// The largest file that is read; real ones have less than 100 MiB.
const BYTES_MAX: u64 = 1 << 30;

/// The databases of a language part, while it is read and afterwards.
#[derive(Debug, Default)]
pub struct Databases {
    country: Option<Database>,
    city: Option<Database>,
    organization: Option<Database>,
    proxies: Vec<Network>,
    is_recursive: Option<bool>,
}

/// A compile context of a language part that has such databases.
pub trait Declares: Environment {
    fn geoip(&mut self) -> &mut Databases;
}

/// A scope whose configuration has them.
pub trait Located: Scope {
    fn databases(&self) -> &'static Databases;
}

/// `geoip_country`
#[rustfmt::skip]
pub const fn geoip_country<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("geoip_country", contexts, Arity::between(1, 2), |_: &mut C, cx: &mut X, node| read(Kind::Country, cx, node),
        "Names a database of countries in MaxMind's older format (GeoIP.dat), for $geoip_country_code and its like.")
}

/// `geoip_city`
#[rustfmt::skip]
pub const fn geoip_city<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("geoip_city", contexts, Arity::between(1, 2), |_: &mut C, cx: &mut X, node| read(Kind::City, cx, node),
        "Names a database of cities in MaxMind's older format, for $geoip_city and its like. With utf8 names are converted from ISO 8859-1.")
}

/// `geoip_org`
#[rustfmt::skip]
pub const fn geoip_org<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("geoip_org", contexts, Arity::between(1, 2), |_: &mut C, cx: &mut X, node| read(Kind::Organization, cx, node),
        "Names a database of organizations, providers, domains or autonomous systems in MaxMind's older format, for $geoip_org.")
}

/// `geoip_proxy`
#[rustfmt::skip]
pub const fn geoip_proxy<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("geoip_proxy", contexts, Arity::exactly(1), |_: &mut C, cx: &mut X, node| proxy(cx, node),
        "Names a proxy (an address, a network, or a name) whose X-Forwarded-For tells the geoip directives the client's address.")
}

/// `geoip_proxy_recursive`
#[rustfmt::skip]
pub const fn geoip_proxy_recursive<C: 'static, X: Declares + 'static>(contexts: Context) -> Directive<C, X> {
    custom("geoip_proxy_recursive", contexts, Arity::exactly(1), |_: &mut C, cx: &mut X, node| recursive(cx, node),
        "Looks up the last address in X-Forwarded-For that is not one of geoip_proxy, instead of the last one.").default("off")
}

/// The variables of all these databases.
#[rustfmt::skip]
pub const fn variables<S: Located>() -> [Variable<S>; 16] {
    [
        variable("geoip_country_code", |s, _, out| country(s, out, |country| country.code), "The country's code of two letters, by geoip_country."),
        variable("geoip_country_code3", |s, _, out| country(s, out, |country| country.code3), "The country's code of three letters, by geoip_country."),
        variable("geoip_country_name", |s, _, out| country(s, out, |country| country.name), "The country's name, by geoip_country."),
        variable("geoip_city_continent_code", |s, _, out| city_country(s, out, |country| country.continent),
            "The continent's code of two letters, by geoip_city."),
        variable("geoip_city_country_code", |s, _, out| city_country(s, out, |country| country.code), "The country's code of two letters, by geoip_city."),
        variable("geoip_city_country_code3", |s, _, out| city_country(s, out, |country| country.code3),
            "The country's code of three letters, by geoip_city."),
        variable("geoip_city_country_name", |s, _, out| city_country(s, out, |country| country.name), "The country's name, by geoip_city."),
        variable("geoip_region", |s, _, out| city_text(s, out, |record| record.region), "The region's code, by geoip_city."),
        variable("geoip_region_name", |s, _, out| {
            let name = city(s).and_then(|record| record.region_name());
            text(name.map(str::as_bytes), out)
        }, "The region's name, by geoip_city, in the United States, Canada, Australia, Germany and Russia; regions elsewhere have none here."),
        variable("geoip_city", |s, _, out| city_text(s, out, |record| record.city), "The city, by geoip_city."),
        variable("geoip_postal_code", |s, _, out| city_text(s, out, |record| record.postal_code), "The postal code, by geoip_city."),
        variable("geoip_latitude", |s, _, out| city(s).is_some_and(|record| write!(out, "{:.4}", record.latitude).is_ok()), "The latitude, by geoip_city."),
        variable("geoip_longitude", |s, _, out| city(s).is_some_and(|record| write!(out, "{:.4}", record.longitude).is_ok()),
            "The longitude, by geoip_city."),
        variable("geoip_dma_code", |s, _, out| city(s).is_some_and(|record| write!(out, "{}", record.dma_code).is_ok()),
            "The code of the market area, by geoip_city; 0 outside the United States."),
        variable("geoip_area_code", |s, _, out| city(s).is_some_and(|record| write!(out, "{}", record.area_code).is_ok()),
            "The telephone area code, by geoip_city; 0 outside the United States."),
        variable("geoip_org", |s, _, out| {
            let databases = s.databases();
            let name = databases.organization.as_ref().and_then(|found| found.organization(address(s, databases)));
            text(name.as_deref(), out)
        }, "The organization, by geoip_org."),
    ]
}

fn read<X: Declares>(kind: Kind, cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
    let is_utf8 = match node.args.get(1) {
        None => false,
        Some(word) if &*word.text == "utf8" => true,
        Some(word) => {
            return Err(Diagnostic::error(word.span, format!("invalid parameter \"{}\"", word.text)));
        }
    };
    let path = cx.prefix().join(node.arg(0));
    let (bytes, _) = file::read_regular(&path, BYTES_MAX).map_err(|error| {
        Diagnostic::error(node.arg_span(0), format!("GeoIP_open(\"{}\") failed: {error}", path.display()))
    })?;
    let database = Database::parse(bytes.into(), kind, is_utf8).map_err(|wrong| {
        let message = format!("invalid GeoIP database \"{}\" type:{}", path.display(), wrong.0);
        Diagnostic::error(node.arg_span(0), message)
    })?;
    let databases = cx.geoip();
    let slot = match kind {
        Kind::Country => &mut databases.country,
        Kind::City => &mut databases.city,
        Kind::Organization => &mut databases.organization,
    };
    match slot.replace(database) {
        None => Ok(()),
        Some(_) => Err(crate::config::inherit::duplicate(node)),
    }
}

fn proxy<X: Declares>(cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
    let (networks, warning) = read_networks(node, cx.names())?;
    warning.into_iter().for_each(|warning| cx.diagnostics().push(warning));
    cx.geoip().proxies.extend(networks);
    Ok(())
}

fn recursive<X: Declares>(cx: &mut X, node: &Node) -> Result<(), Diagnostic> {
    let is_recursive = on_or_off(node)?;
    match cx.geoip().is_recursive.replace(is_recursive) {
        None => Ok(()),
        Some(_) => Err(crate::config::inherit::duplicate(node)),
    }
}

/// The value of a flag that belongs to a whole part of the language.
pub fn on_or_off(node: &Node) -> Result<bool, Diagnostic> {
    match node.arg(0) {
        "on" => Ok(true),
        "off" => Ok(false),
        other => {
            let name = &node.name.text;
            let message =
                format!("invalid value \"{other}\" in \"{name}\" directive, it must be \"on\" or \"off\"");
            Err(Diagnostic::error(node.arg_span(0), message))
        }
    }
}

/// The address that is looked up; `None` for what is none.
fn address<S: Located>(scope: &S, databases: &Databases) -> Option<IpAddr> {
    let peer = scope.peer().ip();
    if databases.proxies.is_empty() {
        return peer;
    }
    scope.named_client(&databases.proxies, databases.is_recursive.unwrap_or(false), peer).or(peer)
}

fn country<S: Located>(scope: &mut S, out: &mut Vec<u8>, what: fn(&Country) -> &'static str) -> bool {
    let databases = scope.databases();
    let found = databases.country.as_ref().and_then(|found| found.country(address(scope, databases)));
    text(found.map(|country| what(country).as_bytes()), out)
}

fn city<S: Located>(scope: &S) -> Option<Record> {
    let databases = scope.databases();
    databases.city.as_ref()?.city(address(scope, databases))
}

fn city_country<S: Located>(scope: &mut S, out: &mut Vec<u8>, what: fn(&Country) -> &'static str) -> bool {
    let record = city(scope);
    text(record.and_then(|record| record.country()).map(|country| what(country).as_bytes()), out)
}

fn city_text<S: Located>(scope: &mut S, out: &mut Vec<u8>, what: fn(Record) -> Option<Vec<u8>>) -> bool {
    text(city(scope).and_then(what).as_deref(), out)
}

fn text(text: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(text.unwrap_or_default());
    text.is_some()
}
