//! Locations, and how a URI finds its location.
//!
//! Pure: no I/O. Contains the settings of all modules for one location.
//! Behaviour: nginx.org, ngx_http_core_module, `location`: an exact match ends the search; the longest prefix
//! is remembered, and final with `^~`; otherwise the first regular expression of the file wins.

use std::sync::Arc;

use crate::base::foreign;
use crate::config::Span;
use crate::http::modules::Confs;
use crate::http::upstream::protocol::Protocol;
use crate::http::upstream::tls::Layer;
use crate::proto::message::Method;
use crate::script::regex::hint::{Ends, Hint};
use crate::script::regex::{GaveUp, Groups, Regex};

/// Identifies a location within one configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocationId(pub u32);

/// How to compare a location's name with the URI.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The server itself, outside any location.
    Server,
    Exact,
    Prefix,
    /// `^~`: regular expressions are not tried.
    PrefixFinal,
    Regex(Regex),
    /// `@name`: only for internal redirects.
    Named,
}

/// A location (or the server around the locations) with the settings in force there.
///
/// Built once by `config/compile.rs` and immutable; requests refer to it for as long as they live.
/// [`Location::find`] starts the search for a URI's location here, [`Location::for_method`] and
/// [`Location::inside_if`] select the variants of its settings.
#[derive(Debug)]
pub struct Location {
    pub id: LocationId,
    pub kind: Kind,
    /// As written, without the modifier.
    pub name: Box<str>,
    /// How many bytes of a URI the name matches.
    pub name_length: usize,
    pub span: Span,
    pub confs: Confs,
    /// The protocol of its `…_pass`; HTTP without one.
    pub protocol: Protocol,
    nested: Option<Box<Locations>>,
    nameless: Option<Box<Nameless>>,
    /// A request for the name without its final slash is redirected to it (the location is proxied).
    pub redirects_to_slash: bool,
    /// TLS to its upstreams; `None`: they are all plain.
    pub tls: Option<Arc<Layer>>,
}

/// The blocks in a location that replace its settings under a condition. They have its name, and no inner
/// locations.
#[derive(Debug, Default)]
pub struct Nameless {
    /// Those of each `if`, in the order of the file.
    pub ifs: Box<[Location]>,
    pub limit_except: Option<LimitExcept>,
}

/// The settings for all methods except some (`limit_except`).
#[derive(Debug)]
pub struct LimitExcept {
    /// The methods to which they do not apply.
    pub methods: Box<[Method]>,
    pub location: Location,
}

/// The locations of one block, indexed for the search: names in sorted order with links to their prefixes,
/// then regular expressions in the order of the file.
#[derive(Debug, Default)]
pub struct Locations {
    /// Sorted by name.
    sorted: Box<[Entry]>,
    /// In the order of the file.
    regexes: Box<[Location]>,
    /// Which subjects each of them may match, stored compactly.
    hints: Box<[Hint]>,
    /// True if one of them redirects to its slash.
    has_slashes: bool,
    /// The only one is `location /`, as in many servers.
    is_root_alone: bool,
}

#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    exact: Option<Box<Location>>,
    prefix: Option<Box<Location>>,
    /// The entry with the longest name that is a prefix of this one.
    parent: Option<u32>,
}

impl Entry {
    fn locations(&self) -> impl Iterator<Item = &Location> {
        self.exact.iter().chain(&self.prefix).map(|location| &**location)
    }
}

/// The result of a search.
#[derive(Debug)]
pub enum Found<'a> {
    Location(&'a Location, Option<Groups>),
    /// The URI lacks only the final slash of this proxied location.
    AddSlash(&'a Location),
    /// It is unknown whether the regular expression of this location matches.
    GaveUp(&'a Location, GaveUp),
}

/// Two locations of one block that no URI can distinguish.
#[derive(Debug, PartialEq, Eq)]
pub struct Duplicate {
    pub name: String,
    pub span: Span,
}

impl Location {
    pub fn new(
        id: LocationId,
        (kind, name, span): (Kind, &str, Span),
        confs: Confs,
        nested: Locations,
    ) -> Self {
        let nested = (!nested.is_empty()).then(|| Box::new(nested));
        let name_length = foreign::bytes(name).len();
        Self {
            id,
            kind,
            name: name.into(),
            name_length,
            span,
            protocol: confs.proxy_pass.protocol(),
            confs,
            nested,
            nameless: None,
            redirects_to_slash: false,
            tls: None,
        }
    }

    #[must_use]
    pub fn with(mut self, nameless: Nameless) -> Self {
        if !nameless.ifs.is_empty() || nameless.limit_except.is_some() {
            self.nameless = Some(Box::new(nameless));
        }
        self
    }

    /// The location that replaces this one inside its `if` with this index.
    pub fn inside_if(&self, index: usize) -> Option<&Self> {
        self.nameless.as_ref()?.ifs.get(index)
    }

    /// The location that replaces this one for a method that `limit_except` restricts, otherwise itself.
    #[inline]
    pub fn for_method(&self, method: Method) -> &Self {
        match &self.nameless {
            None => self,
            Some(nameless) => match &nameless.limit_except {
                Some(limited) if !limited.methods.contains(&method) => &limited.location,
                _ => self,
            },
        }
    }

    /// The location for a decoded URI, searched from this one on.
    pub fn find(&self, uri: &[u8]) -> Found<'_> {
        if let Some(root) = self.nested.as_ref().and_then(|nested| nested.root_alone(uri)) {
            return Found::Location(root, None);
        }
        match self.search(uri) {
            Some((found, _)) => found,
            None => Found::Location(self, None),
        }
    }

    /// The match inside this location, if any, and whether it is final (no outer regular expression is
    /// tried).
    fn search(&self, uri: &[u8]) -> Option<(Found<'_>, bool)> {
        let nested = self.nested.as_deref()?;
        let mut best = None;
        match nested.lookup(uri) {
            Some(Static::Exact(location)) => return Some((Found::Location(location, None), true)),
            Some(Static::AddSlash(location)) => return Some((Found::AddSlash(location), true)),
            Some(Static::Prefix(location)) => {
                let no_regex = matches!(location.kind, Kind::PrefixFinal);
                match location.search(uri) {
                    Some((found, true)) => return Some((found, true)),
                    Some((found, false)) => best = Some(found),
                    None => best = Some(Found::Location(location, None)),
                }
                if no_regex {
                    return best.map(|found| (found, false));
                }
            }
            None => {}
        }
        nested.search_regexes(uri).map(|found| (found, true)).or(best.map(|found| (found, false)))
    }

    /// The variants of its settings: those of each `if`, and that of `limit_except`.
    pub fn variants(&self) -> impl Iterator<Item = &Self> {
        let nameless = self.nameless.iter();
        nameless.flat_map(|it| it.ifs.iter().chain(it.limit_except.iter().map(|limited| &limited.location)))
    }

    pub fn nested(&self) -> Option<&Locations> {
        self.nested.as_deref()
    }
}

enum Static<'a> {
    Exact(&'a Location),
    Prefix(&'a Location),
    AddSlash(&'a Location),
}

impl Locations {
    /// Builds the index. Errors: the second of two equal locations.
    pub fn new(list: Vec<Location>) -> Result<Self, Duplicate> {
        let mut named: Vec<Location> = Vec::with_capacity(list.len());
        let mut regexes = Vec::new();
        for location in list {
            match location.kind {
                Kind::Regex(_) => regexes.push(location),
                _ => named.push(location),
            }
        }
        // Stable: of two equal names the later one in the file is the duplicate.
        named.sort_by(|a, b| foreign::bytes(&a.name).cmp(&foreign::bytes(&b.name)));
        let mut sorted: Vec<Entry> = Vec::with_capacity(named.len());
        for location in named {
            let name = foreign::bytes(&location.name);
            if sorted.last().is_none_or(|last| *last.name != *name) {
                let parent = parent_of(&sorted, &name);
                sorted.push(Entry { name: name.into(), exact: None, prefix: None, parent });
            }
            let Some(entry) = sorted.last_mut() else { continue };
            let slot =
                if matches!(location.kind, Kind::Exact) { &mut entry.exact } else { &mut entry.prefix };
            if slot.is_some() {
                return Err(Duplicate { name: location.name.into(), span: location.span });
            }
            *slot = Some(Box::new(location));
        }
        let has_slashes =
            sorted.iter().flat_map(Entry::locations).any(|location| location.redirects_to_slash);
        let hint = |location: &Location| match &location.kind {
            Kind::Regex(regex) => regex.hint(),
            _ => Hint::default(),
        };
        let hints = regexes.iter().map(hint).collect();
        let is_root_alone = regexes.is_empty()
            && matches!(&*sorted, [Entry { name, exact: None, prefix: Some(root), .. }]
                if **name == *b"/" && root.nested.is_none());
        Ok(Self { sorted: sorted.into(), regexes: regexes.into(), hints, has_slashes, is_root_alone })
    }

    /// `location /`, if there is nothing else to find for this URI.
    #[inline]
    fn root_alone(&self, uri: &[u8]) -> Option<&Location> {
        let root = self.sorted.first().filter(|_| self.is_root_alone && uri.first() == Some(&b'/'))?;
        root.prefix.as_deref()
    }

    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty() && self.regexes.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Location> {
        self.sorted.iter().flat_map(Entry::locations).chain(&self.regexes)
    }

    /// The first regular expression of the file that matches, and the result of the search in its location.
    fn search_regexes(&self, uri: &[u8]) -> Option<Found<'_>> {
        if self.hints.is_empty() {
            return None;
        }
        let ends = Ends::of(uri);
        for (index, _) in self.hints.iter().enumerate().filter(|(_, hint)| hint.admits(&ends)) {
            let location = &self.regexes[index];
            let Kind::Regex(regex) = &location.kind else { continue };
            let groups = match regex.captures(uri) {
                Ok(None) => continue,
                Ok(Some(groups)) => groups,
                Err(gave_up) => return Some(Found::GaveUp(location, gave_up)),
            };
            return Some(match location.search(uri) {
                Some((Found::Location(inner, None), _)) => Found::Location(inner, Some(groups)),
                Some((found, _)) => found,
                None => Found::Location(location, Some(groups)),
            });
        }
        None
    }

    fn lookup(&self, uri: &[u8]) -> Option<Static<'_>> {
        let after = self.sorted.partition_point(|entry| &*entry.name <= uri);
        let is_named = || after > 0 && *self.sorted[after - 1].name == *uri;
        // All names that sort between the URI and the URI with a slash start with the URI.
        let may_lack_slash = || self.sorted.get(after).is_some_and(|entry| entry.name.starts_with(uri));
        if self.has_slashes
            && !is_named()
            && may_lack_slash()
            && let Some(location) = self.add_slash(uri)
        {
            return Some(Static::AddSlash(location));
        }
        // All names between the longest prefix and the URI start with that prefix, so it is an ancestor.
        let mut index = after.checked_sub(1);
        while let Some(at) = index {
            let entry = &self.sorted[at];
            if let Some(exact) = &entry.exact
                && *uri == *entry.name
            {
                return Some(Static::Exact(exact));
            }
            if let Some(prefix) = &entry.prefix
                && uri.starts_with(&entry.name)
            {
                return Some(Static::Prefix(prefix));
            }
            index = entry.parent.map(|parent| parent as usize);
        }
        None
    }

    /// The location `/dir/` for the URI `/dir`, if it redirects to its slash.
    ///
    /// Names such as `/dir-x` may sort between the two.
    fn add_slash(&self, uri: &[u8]) -> Option<&Location> {
        let named = |entry: &Entry| entry.name.iter().copied().cmp(uri.iter().copied().chain(*b"/"));
        let entry = &self.sorted[self.sorted.binary_search_by(named).ok()?];
        entry.locations().find(|location| location.redirects_to_slash)
    }
}

fn parent_of(sorted: &[Entry], name: &[u8]) -> Option<u32> {
    let mut index = sorted.len().checked_sub(1);
    while let Some(at) = index {
        if name.starts_with(&sorted[at].name) {
            return Some(at as u32);
        }
        index = sorted[at].parent.map(|parent| parent as usize);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scope::Registry;
    use crate::script::regex::Pattern;

    fn regex(pattern: &str, is_caseless: bool) -> Regex {
        let pattern = Pattern::new(pattern, is_caseless, Span::default()).unwrap();
        pattern.declare(&mut Registry::new(&[]))
    }
    use crate::http::modules::Confs;

    fn location(modifier: &str, name: &str, nested: Vec<Location>) -> Location {
        let kind = match modifier {
            "=" => Kind::Exact,
            "^~" => Kind::PrefixFinal,
            "~" => Kind::Regex(regex(name, false)),
            "~*" => Kind::Regex(regex(name, true)),
            _ => Kind::Prefix,
        };
        let nested = Locations::new(nested).unwrap();
        Location::new(LocationId::default(), (kind, name, Span::default()), Confs::default(), nested)
    }

    fn server(list: Vec<Location>) -> Location {
        let nested = Locations::new(list).unwrap();
        Location::new(LocationId::default(), (Kind::Server, "", Span::default()), Confs::default(), nested)
    }

    fn name(found: Found<'_>) -> String {
        match found {
            Found::Location(location, _) => location.name.to_string(),
            Found::AddSlash(location) => format!("+{}", location.name),
            Found::GaveUp(location, _) => format!("?{}", location.name),
        }
    }

    #[test]
    fn the_documented_example_chooses_as_documented() {
        let server = server(vec![
            location("=", "/", vec![]),
            location("", "/", vec![]),
            location("", "/documents/", vec![]),
            location("^~", "/images/", vec![]),
            location("~*", r"\.(gif|jpg|jpeg)$", vec![]),
        ]);
        let cases = [
            ("/", "/"),
            ("/index.html", "/"),
            ("/documents/document.html", "/documents/"),
            ("/images/1.gif", "/images/"),
            ("/documents/1.JPG", r"\.(gif|jpg|jpeg)$"),
        ];
        for (uri, expected) in cases {
            assert_eq!(name(server.find(uri.as_bytes())), expected, "{uri}");
        }
    }

    #[test]
    fn prefixes_nest_and_share_beginnings() {
        let server = server(vec![
            location("", "/a", vec![]),
            location("", "/ab/c", vec![location("", "/ab/c/d", vec![])]),
            location("", "/ab", vec![]),
        ]);
        let cases = [
            ("/abz", "/ab"),
            ("/ab/c/d/e", "/ab/c/d"),
            ("/ab/b", "/ab"),
            ("/az", "/a"),
            ("/b", ""),
            ("/ab/c", "/ab/c"),
        ];
        for (uri, expected) in cases {
            assert_eq!(name(server.find(uri.as_bytes())), expected, "{uri}");
        }
    }

    #[test]
    fn a_nested_regex_is_tried_before_an_outer_one() {
        let server = server(vec![
            location("", "/in/", vec![location("~", "php$", vec![])]),
            location("~", "^/in/.*p$", vec![]),
        ]);
        assert_eq!(name(server.find(b"/in/x.php")), "php$");
        assert_eq!(name(server.find(b"/in/x.p")), "^/in/.*p$");
        assert_eq!(name(server.find(b"/in/x")), "/in/");
    }

    #[test]
    fn a_proxied_directory_asks_for_its_slash() {
        let mut directory = location("", "/dir/", vec![]);
        directory.redirects_to_slash = true;
        let server = server(vec![directory, location("", "/", vec![])]);
        assert_eq!(name(server.find(b"/dir")), "+/dir/");
        assert_eq!(name(server.find(b"/dir/x")), "/dir/");
        assert_eq!(name(server.find(b"/dirx")), "/");
    }

    #[test]
    fn a_name_between_hides_no_slash_and_an_equal_name_needs_none() {
        let directory = |name| {
            let mut directory = location("", name, vec![]);
            directory.redirects_to_slash = true;
            directory
        };
        let server = server(vec![
            directory("/a/"),
            location("", "/a-b", vec![]),
            location("", "/b", vec![]),
            directory("/b/"),
            location("=", "/c", vec![]),
            directory("/c/"),
        ]);
        for (uri, expected) in [("/a", "+/a/"), ("/a-b", "/a-b"), ("/b", "/b"), ("/b/x", "/b/"), ("/c", "/c")]
        {
            assert_eq!(name(server.find(uri.as_bytes())), expected, "{uri}");
        }
    }

    #[test]
    fn equal_names_are_duplicates_but_exact_and_prefix_are_not() {
        assert!(Locations::new(vec![location("=", "/x", vec![]), location("", "/x", vec![])]).is_ok());
        let twice = Locations::new(vec![location("", "/x", vec![]), location("^~", "/x", vec![])]);
        assert_eq!(twice.unwrap_err().name, "/x");
    }
}
