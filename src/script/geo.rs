//! Variables that depend on an address (`geo`).
//!
//! Touches: the scope's peer address, or a variable; what a proxy in front says of the client, where it is trusted.
//! Behaviour: nginx.org, ngx_http_geo_module. What is no address (a unix socket, an empty variable) is looked up as
//! 255.255.255.255.

mod ranges;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::base::byte_table::ByteTable;
use crate::base::foreign;
use crate::base::network::Network;
use crate::base::radix::Radix;
use crate::config::{Cell, Diagnostic, Entry, HasDiagnostics, Node};
use crate::net::address::parse_inet;
use crate::script::value::Script;
use crate::script::{Compile, Scope, nested};
use ranges::Ranges;

/// One `geo` block: the definition of the variable that it makes.
pub struct Geo<S> {
    name: Box<str>,
    /// `None`: the client's address.
    source: Option<Script<S>>,
    table: Table,
    /// Each text once.
    values: ByteTable,
    /// Proxies that are trusted to name the client.
    proxies: Vec<Network>,
    is_recursive: bool,
    /// The slot that keeps the value; `None` for a volatile block.
    slot: Option<usize>,
}

/// From addresses to indexes of values.
#[derive(Debug)]
enum Table {
    Networks(Networks),
    Ranges { default: Option<u32>, ranges: Ranges },
}

#[derive(Debug, Default)]
struct Networks {
    v4: Radix<u32>,
    v6: Radix<u128>,
}

impl<S: Scope> Geo<S> {
    /// Reads a block `geo [SOURCE] $name { ENTRIES }`. What is wrong in an entry is told, and the others are read.
    pub fn read(node: &Node, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        let (source, target) = match &node.args[..] {
            [source, target] if source.text.starts_with('$') => (Some(Script::compile(source, cx)?), target),
            [target] => (None, target),
            others => {
                let first = &others[0];
                let message = format!("invalid variable name \"{}\"", first.text);
                return Err(Diagnostic::error(first.span, message));
            }
        };
        let geo = Self {
            name: cx.variables().declared_name(target)?.into(),
            source,
            table: Table::Networks(Networks::default()),
            values: ByteTable::default(),
            proxies: Vec::new(),
            is_recursive: false,
            slot: Some(0),
        };
        let mut reader = Reader { geo, has_entries: false };
        for entry in node.entries() {
            if let Err(diagnostic) = reader.entry(&entry, cx) {
                cx.diagnostics().push(diagnostic);
            }
        }
        let Reader { mut geo, .. } = reader;
        geo.values.shrink();
        geo.table.freeze();
        geo.slot = geo.slot.map(|_| cx.variables().new_slot());
        Ok(geo)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Appends the value: kept by the scope unless it is volatile.
    pub(super) fn evaluate(&'static self, scope: &mut S, out: &mut Vec<u8>) -> bool {
        if let Some(kept) = self.slot.and_then(|slot| scope.slot(slot)) {
            out.extend_from_slice(kept);
            return true;
        }
        let address = self.address(scope).map_or(Ipv4Addr::BROADCAST.into(), |ip| ip.to_canonical());
        let value = self.table.find(address).map_or(&b""[..], |index| self.values.key(index));
        out.extend_from_slice(value);
        if let Some(slot) = self.slot {
            scope.set_slot(slot, value);
        }
        true
    }

    /// The address that is looked up; `None` for what is none.
    fn address(&'static self, scope: &mut S) -> Option<IpAddr> {
        let address = match &self.source {
            None => scope.peer().ip(),
            Some(source) => {
                let source = nested(scope, &self.name, |scope| source.to_vec(scope));
                Some(parse_inet(&source)?.ip())
            }
        };
        if self.proxies.is_empty() {
            return address;
        }
        scope.named_client(&self.proxies, self.is_recursive, address).or(address)
    }
}

/// A block that is being read.
struct Reader<S> {
    geo: Geo<S>,
    has_entries: bool,
}

impl<S: Scope> Reader<S> {
    fn entry(&mut self, entry: &Entry<'_>, cx: &mut impl HasDiagnostics) -> Result<(), Diagnostic> {
        let name = entry.name.text;
        let word = match (name, &entry.args[..]) {
            // Said twice, it changes nothing, as in nginx.
            ("ranges", []) if matches!(self.geo.table, Table::Ranges { .. }) => return Ok(()),
            ("ranges", []) if self.has_entries => {
                let message = "the \"ranges\" directive must be the first directive inside \"geo\" block";
                return Err(Diagnostic::error(entry.span, message));
            }
            ("ranges", []) => {
                self.geo.table = Table::Ranges { default: None, ranges: Ranges::default() };
                return Ok(());
            }
            ("proxy_recursive", []) if S::HAS_NAMED_CLIENTS => {
                self.geo.is_recursive = true;
                return Ok(());
            }
            ("volatile", []) => {
                self.geo.slot = None;
                return Ok(());
            }
            (_, [word]) => word,
            _ => {
                let diagnostic = Diagnostic::error(entry.span, "invalid number of the geo parameters");
                return Err(
                    diagnostic.help("an entry is an address or network, and what the variable becomes")
                );
            }
        };
        match name {
            "proxy" if S::HAS_NAMED_CLIENTS => self.geo.proxies.push(network(word, cx)?),
            "default" => {
                self.has_entries = true;
                self.default(word, cx);
            }
            "delete" => {
                self.has_entries = true;
                self.delete(word, cx)?;
            }
            _ => {
                self.has_entries = true;
                self.add(&entry.name, word, cx)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, word: &Cell<'_>) -> u32 {
        self.geo.values.insert(&foreign::bytes(word.text), 0).unwrap_or_else(|there| there)
    }

    fn text(&self, value: u32) -> String {
        String::from_utf8_lossy(self.geo.values.key(value)).into_owned()
    }

    fn default(&mut self, word: &Cell<'_>, cx: &mut impl HasDiagnostics) {
        let value = self.value(word);
        let before = match &mut self.geo.table {
            Table::Networks(networks) => {
                networks.insert(Network::of(Ipv6Addr::UNSPECIFIED.into(), 0), value);
                networks.insert(Network::of(Ipv4Addr::UNSPECIFIED.into(), 0), value)
            }
            Table::Ranges { default, .. } => default.replace(value),
        };
        if let Some(before) = before {
            let old = self.text(before);
            let message =
                format!("duplicate network \"default\", value: \"{}\", old value: \"{old}\"", word.text);
            cx.diagnostics().push(Diagnostic::warning(word.span, message));
        }
    }

    fn add(
        &mut self,
        place: &Cell<'_>,
        word: &Cell<'_>,
        cx: &mut impl HasDiagnostics,
    ) -> Result<(), Diagnostic> {
        let value = self.value(word);
        let (what, before) = match &mut self.geo.table {
            Table::Networks(networks) => ("network", networks.insert(network(place, cx)?, value)),
            Table::Ranges { ranges, .. } => {
                ("range", ranges.add(range(place)?, value).map_err(|there| overlaps(place, there))?)
            }
        };
        if let Some(before) = before {
            let (place, value, old) = (place.text, word.text, self.text(before));
            let message = format!("duplicate {what} \"{place}\", value: \"{value}\", old value: \"{old}\"");
            cx.diagnostics().push(Diagnostic::warning(word.span, message));
        }
        Ok(())
    }

    fn delete(&mut self, place: &Cell<'_>, cx: &mut impl HasDiagnostics) -> Result<(), Diagnostic> {
        let (what, is_gone) = match &mut self.geo.table {
            Table::Networks(networks) => ("network", networks.remove(network(place, cx)?)),
            Table::Ranges { ranges, .. } => ("address range", ranges.remove(range(place)?)),
        };
        if !is_gone {
            let message = format!("no {what} \"{}\" to delete", place.text);
            cx.diagnostics().push(Diagnostic::warning(place.span, message));
        }
        Ok(())
    }
}

fn overlaps(place: &Cell<'_>, (first, last): (u32, u32)) -> Diagnostic {
    let [first, last] = [first, last].map(Ipv4Addr::from_bits);
    Diagnostic::error(place.span, format!("range \"{}\" overlaps \"{first}-{last}\"", place.text))
}

fn range(word: &Cell<'_>) -> Result<(u32, u32), Diagnostic> {
    let parse = |text: &str| text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    let parsed = word.text.split_once('-').and_then(|(start, end)| Some((parse(start)?, parse(end)?)));
    parsed.filter(|(start, end)| start <= end).ok_or_else(|| {
        let diagnostic = Diagnostic::error(word.span, format!("invalid range \"{}\"", word.text));
        diagnostic.help("a range is two IPv4 addresses, the lower one first: 10.0.0.1-10.0.0.9")
    })
}

fn network(word: &Cell<'_>, cx: &mut impl HasDiagnostics) -> Result<Network, Diagnostic> {
    let text = word.text;
    let parsed = Network::parse(text).filter(|parsed| parsed.network != Network::Unix).ok_or_else(|| {
        let diagnostic = Diagnostic::error(word.span, format!("invalid network \"{text}\""));
        diagnostic.help("an address, or a network such as 10.0.0.0/8")
    })?;
    if parsed.has_low_bits {
        let message = format!("low address bits of {text} are meaningless");
        cx.diagnostics().push(Diagnostic::warning(word.span, message));
    }
    Ok(parsed.network)
}

impl Networks {
    /// Sets the value of a network: the one it had.
    fn insert(&mut self, network: Network, value: u32) -> Option<u32> {
        match network {
            Network::Inet { address: IpAddr::V4(ip), prefix } => self.v4.insert(ip.to_bits(), prefix, value),
            Network::Inet { address: IpAddr::V6(ip), prefix } => self.v6.insert(ip.to_bits(), prefix, value),
            Network::Unix => None,
        }
    }

    fn remove(&mut self, network: Network) -> bool {
        let before = match network {
            Network::Inet { address: IpAddr::V4(ip), prefix } => self.v4.remove(ip.to_bits(), prefix),
            Network::Inet { address: IpAddr::V6(ip), prefix } => self.v6.remove(ip.to_bits(), prefix),
            Network::Unix => None,
        };
        before.is_some()
    }

    fn find(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(ip) => self.v4.find(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.find(ip.to_bits()),
        }
    }
}

impl Table {
    /// All has been read.
    fn freeze(&mut self) {
        match self {
            Self::Networks(networks) => {
                networks.v4.shrink();
                networks.v6.shrink();
            }
            Self::Ranges { ranges, .. } => ranges.freeze(),
        }
    }

    fn find(&self, address: IpAddr) -> Option<u32> {
        match self {
            Self::Networks(networks) => networks.find(address),
            Self::Ranges { default, ranges } => {
                let bits = match address {
                    IpAddr::V4(ip) => ip.to_bits(),
                    IpAddr::V6(_) => u32::MAX,
                };
                ranges.find(bits).or(*default)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    fn word(text: &str) -> Cell<'_> {
        Cell { text, span: Span::default() }
    }

    fn add(ranges: &mut Ranges, text: &str, value: u32) -> Result<Option<u32>, String> {
        let place = word(text);
        let range = range(&place).map_err(|diagnostic| diagnostic.message)?;
        ranges.add(range, value).map_err(|there| overlaps(&place, there).message)
    }

    #[test]
    fn ranges_nest_and_never_overlap() {
        let mut ranges = Ranges::default();
        assert_eq!(add(&mut ranges, "10.0.0.0-10.0.0.255", 1), Ok(None));
        assert_eq!(add(&mut ranges, "10.0.0.10-10.0.0.20", 2), Ok(None));
        assert_eq!(add(&mut ranges, "10.0.0.10-10.0.0.20", 3), Ok(Some(2)));
        assert_eq!(add(&mut ranges, "255.255.255.255-255.255.255.255", 4), Ok(None));
        for (text, expected) in [
            ("9.0.0.0-10.0.0.5", "range \"9.0.0.0-10.0.0.5\" overlaps \"10.0.0.0-10.0.0.9\""),
            ("10.0.0.15-10.0.0.25", "range \"10.0.0.15-10.0.0.25\" overlaps \"10.0.0.21-10.0.0.255\""),
            ("0.0.0.0-255.255.255.255", "overlaps \"255.255.255.255-255.255.255.255\""),
            ("10.0.0.2-10.0.0.1", "invalid range"),
            ("10.0.0.1", "invalid range"),
            ("::1-::2", "invalid range"),
        ] {
            let message = add(&mut ranges, text, 5).expect_err(text);
            assert!(message.contains(expected), "{message}");
        }
        ranges.freeze();
        let table = Table::Ranges { default: Some(0), ranges };
        for (address, expected) in [
            ("10.0.0.9", 1),
            ("10.0.0.10", 3),
            ("10.0.0.20", 3),
            ("10.0.0.21", 1),
            ("10.0.1.0", 0),
            ("::1", 4),
        ] {
            assert_eq!(table.find(address.parse().expect("an address")), Some(expected), "{address}");
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut networks = Networks::default();
        for (text, value) in [("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("2001:db8::/32", 3)] {
            networks.insert(Network::parse(text).expect("a network").network, value);
        }
        for (address, expected) in [
            ("9.0.0.1", Some(0)),
            ("10.2.0.1", Some(1)),
            ("10.1.2.3", Some(2)),
            ("2001:db8::1", Some(3)),
            ("::1", None),
        ] {
            assert_eq!(networks.find(address.parse().expect("an address")), expected, "{address}");
        }
        assert!(networks.remove(Network::parse("10.1.0.0/16").expect("a network").network));
        assert!(!networks.remove(Network::parse("10.1.0.0/16").expect("a network").network));
        assert_eq!(networks.find("10.1.2.3".parse().expect("an address")), Some(1));
    }
}
