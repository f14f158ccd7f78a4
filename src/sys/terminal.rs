//! What people at the terminal are told. Whether they can read it changes nothing: a stream that is closed or full
//! is no reason to end.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes lines to standard error; the last needs no line end.
pub fn tell(text: impl Display) {
    write(io::stderr(), &text.to_string());
}

/// Writes lines to standard output.
pub fn show(text: impl Display) {
    write(io::stdout(), &text.to_string());
}

fn write(mut stream: impl Write, text: &str) {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = stream.write_all(format!("{text}{end}").as_bytes()).and_then(|()| stream.flush());
}
