//! Messages for people at the terminal. Errors are ignored: a closed or full stream is no reason to exit.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes lines to standard error, and ends the last one if need be.
pub fn tell(text: impl Display) {
    write(io::stderr(), &text.to_string());
}

/// Likewise to standard output.
pub fn show(text: impl Display) {
    write(io::stdout(), &text.to_string());
}

fn write(mut stream: impl Write, text: &str) {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = stream.write_all(format!("{text}{end}").as_bytes()).and_then(|()| stream.flush());
}
