//! A directory as HTML, JSON, JSONP or XML, byte for byte as nginx writes it.
//!
//! Pure. Behaviour: nginx.org, ngx_http_autoindex_module.

use std::io::Write;

use crate::base::path::{Escape, escape_html, escape_uri};
use crate::http::modules::autoindex::listing::{Item, Kind};
use crate::log::format::http_date;
use crate::sys::clock_local;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Html,
    Json,
    Jsonp,
    Xml,
}

impl Format {
    pub fn content_type(self) -> &'static [u8] {
        match self {
            Self::Html => b"text/html",
            Self::Json => b"application/json",
            Self::Jsonp => b"application/javascript",
            Self::Xml => b"text/xml; charset=utf-8",
        }
    }
}

/// How to show a directory.
#[derive(Clone, Debug)]
pub struct Page {
    pub format: Format,
    /// The path of the request.
    pub uri: Vec<u8>,
    /// The function that JSONP calls.
    pub callback: Vec<u8>,
    /// Sizes in bytes instead of in a suitable unit.
    pub has_exact_sizes: bool,
    pub is_local_time: bool,
    /// The length of names is counted in characters.
    pub is_utf8: bool,
}

/// HTML shows at most this many characters of a name.
const NAME_MAX: usize = 50;

impl Page {
    pub fn render(&self, items: &[Item]) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + items.len() * 160);
        match self.format {
            Format::Html => self.html(items, &mut out),
            Format::Json => json(items, &mut out),
            Format::Jsonp => {
                out.extend_from_slice(b"/* callback */\r\n");
                out.extend_from_slice(&self.callback);
                out.push(b'(');
                json(items, &mut out);
                out.extend_from_slice(b");");
            }
            Format::Xml => xml(items, &mut out),
        }
        out
    }

    fn html(&self, items: &[Item], out: &mut Vec<u8>) {
        out.extend_from_slice(b"<html>\r\n<head><title>Index of ");
        escape_html(&self.uri, out);
        out.extend_from_slice(b"</title></head>\r\n<body>\r\n<h1>Index of ");
        escape_html(&self.uri, out);
        out.extend_from_slice(b"</h1><hr><pre><a href=\"../\">../</a>\r\n");
        for item in items {
            self.html_line(item, out);
        }
        out.extend_from_slice(b"</pre><hr></body>\r\n</html>\r\n");
    }

    fn html_line(&self, item: &Item, out: &mut Vec<u8>) {
        out.extend_from_slice(b"<a href=\"");
        escape_uri(&item.name, Escape::UriComponent, out);
        out.extend_from_slice(if item.is_directory() { b"/\">" } else { b"\">" });
        let length = if self.is_utf8 { characters(&item.name) } else { item.name.len() };
        if length > NAME_MAX {
            let shown = NAME_MAX - 3;
            let is_counted = self.is_utf8 && length != item.name.len();
            let end = if is_counted { end_of_character(&item.name, shown) } else { shown };
            escape_html(&item.name[..end], out);
            out.extend_from_slice(b"..&gt;</a>");
        } else {
            escape_html(&item.name, out);
            let has_slash = item.is_directory() && length < NAME_MAX;
            if has_slash {
                out.push(b'/');
            }
            out.extend_from_slice(b"</a>");
            out.resize(out.len() + NAME_MAX - length - usize::from(has_slash), b' ');
        }
        out.push(b' ');
        clock_local::format(item.modified, !self.is_local_time, b"%d-%b-%Y %H:%M ", out);
        self.html_size(item, out);
        out.extend_from_slice(b"\r\n");
    }

    fn html_size(&self, item: &Item, out: &mut Vec<u8>) {
        let width = if self.has_exact_sizes { 19 } else { 7 };
        let _ = match item.kind {
            Kind::Directory => write!(out, "{:>width$}", "-"),
            _ if self.has_exact_sizes => write!(out, "{:>width$}", item.size),
            _ => write!(out, "{:>width$}", short_size(item.size)),
        };
    }
}

/// A size in a suitable unit, rounded.
fn short_size(size: u64) -> String {
    let rounded = |unit: u64| size / unit + u64::from(size % unit > unit / 2 - 1);
    match size {
        0..=9999 => size.to_string(),
        10_000..=0xf_ffff => format!("{}K", rounded(1 << 10)),
        0x10_0000..=0x3fff_ffff => format!("{}M", rounded(1 << 20)),
        _ => format!("{}G", rounded(1 << 30)),
    }
}

fn json(items: &[Item], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"\r\n" } else { b",\r\n" });
        out.extend_from_slice(b"{ \"name\":\"");
        escape_json(&item.name, out);
        let _ = write!(out, "\", \"type\":\"{}\", \"mtime\":\"", name_of(item.kind));
        http_date(item.modified, out);
        out.push(b'"');
        if item.kind == Kind::File {
            let _ = write!(out, ", \"size\":{}", item.size);
        }
        out.extend_from_slice(b" }");
    }
    out.extend_from_slice(b"\r\n]");
}

fn xml(items: &[Item], out: &mut Vec<u8>) {
    out.extend_from_slice(b"<?xml version=\"1.0\"?>\r\n<list>\r\n");
    for item in items {
        let name = name_of(item.kind);
        let _ = write!(out, "<{name} mtime=\"");
        clock_local::format(item.modified, true, b"%Y-%m-%dT%H:%M:%SZ", out);
        out.push(b'"');
        if item.kind == Kind::File {
            let _ = write!(out, " size=\"{}\"", item.size);
        }
        out.push(b'>');
        escape_html(&item.name, out);
        let _ = write!(out, "</{name}>\r\n");
    }
    out.extend_from_slice(b"</list>\r\n");
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "directory",
        Kind::File => "file",
        Kind::Other => "other",
    }
}

fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            0..=0x1f => drop(write!(out, "\\u{byte:04X}")),
            byte => out.push(*byte),
        }
    }
}

/// The number of characters of a name, or of bytes if it is not UTF-8.
fn characters(name: &[u8]) -> usize {
    std::str::from_utf8(name).map_or(name.len(), |name| name.chars().count())
}

/// The position after the first `count` characters.
fn end_of_character(name: &[u8], count: usize) -> usize {
    let is_start = |byte: &u8| byte & 0xc0 != 0x80;
    name.iter().enumerate().filter(|(_, byte)| is_start(byte)).nth(count).map_or(name.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_nginx_rounds_them() {
        for (size, expected) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10K"),
            (10_751, "10K"),
            (10_752, "11K"),
            (1_048_575, "1024K"),
            (1_048_576, "1M"),
            (5_857_280, "6M"),
            (1_073_741_823, "1024M"),
            (3 << 30, "3G"),
            ((3 << 30) + (1 << 29), "4G"),
        ] {
            assert_eq!(short_size(size), expected, "{size}");
        }
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let name = "ж".repeat(60);
        assert_eq!((characters(name.as_bytes()), end_of_character(name.as_bytes(), 47)), (60, 94));
        assert_eq!((characters(b"a\xff"), end_of_character(b"ab", 5)), (2, 2));
    }

    #[test]
    fn text_cannot_leave_its_string() {
        let mut out = Vec::new();
        escape_json(b"a\"\\\n\x01\x1f", &mut out);
        assert_eq!(out, b"a\\\"\\\\\\n\\u0001\\u001F");
        out.clear();
        escape_html(b"<a href=\"&'\">", &mut out);
        assert_eq!(out, b"&lt;a href=&quot;&amp;'&quot;&gt;");
    }
}
