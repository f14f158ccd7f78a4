//! Heads of requests and responses as the tests read them: simply, and with code of their own.

/// A request as an origin received it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// A response as a client received it.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Request {
    /// Parses a complete head; panics if it is invalid.
    pub fn parse(head: &[u8]) -> Self {
        let (first, headers) = lines(head);
        let words: Vec<&str> = first.split(' ').collect();
        let [method, target, version] = words[..] else { panic!("request line {first:?}") };
        Self {
            method: method.into(),
            target: target.into(),
            version: version.into(),
            headers,
            ..Self::default()
        }
    }

    /// The value of the first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn length(&self) -> Option<usize> {
        self.header("content-length").map(|value| value.parse().expect("a Content-Length is a number"))
    }

    /// Every name in lower case, in the order of the wire.
    pub fn names(&self) -> Vec<String> {
        self.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }
}

impl Response {
    /// Parses a complete head; panics if it is invalid.
    pub fn parse(head: &[u8]) -> Self {
        let (first, headers) = lines(head);
        let mut words = first.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        assert!(version.starts_with("HTTP/1."), "status line {first:?}");
        let status = words.next().and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("status line {first:?}"));
        let reason = words.next().unwrap_or_default().to_owned();
        Self { version, status, reason, headers, ..Self::default() }
    }

    /// The value of the first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The values of all fields of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    pub fn length(&self) -> Option<usize> {
        self.header("content-length").map(|value| value.parse().expect("a Content-Length is a number"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// True if the response says that the connection ends with it.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The length of a head including its empty line, if it is complete.
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Splits `Name: value`.
pub fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in the field {line:?}"));
    (name.to_owned(), value.trim().to_owned())
}

fn lines(head: &[u8]) -> (String, Vec<(String, String)>) {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    (first, lines.map(field).collect())
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
