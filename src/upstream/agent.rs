//! The questions to agents, which tell in one line how their server is.
//!
//! Touches: the agent's socket. Bounded: each question by the limit of time that its caller gives, and by
//! [`LINE_BYTES_MAX`]. Behaviour: HAProxy's `agent-check`.

use std::io;

use crate::net::address::Address;
use crate::net::connect::{Options, connect};
use crate::net::room;
use crate::runtime::timeout;
use crate::shm::peers::Advice;
use crate::upstream::prober::Outcome;
use crate::upstream::talk::{CONNECTING, READING, SENDING, read};

/// Maximum length of an agent's line.
const LINE_BYTES_MAX: usize = 256;

/// Asks an agent about its server. `before`: what it has said last.
pub async fn ask(address: &Address, send: &[u8], before: Advice, limit_ms: u64) -> Outcome {
    let mut doing = CONNECTING;
    let asked = timeout(limit_ms, async {
        let Some(_place) = room::for_upstream().await else {
            return Err(io::Error::other("worker_connections are not enough"));
        };
        let transport = connect(address, &Options::default()).await?;
        if !send.is_empty() {
            doing = SENDING;
            transport.write_all(send).await?;
        }
        doing = READING;
        let mut line = Vec::new();
        while !line.contains(&b'\n') && read(&transport, &mut line, LINE_BYTES_MAX).await? > 0 {}
        Ok(line)
    });
    match asked.await {
        Ok(Ok(line)) => {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or(b"");
            match advice(line, before) {
                Some(advice) => Outcome::Advised(advice),
                None => Outcome::Failed { doing: READING, why: format!("\"{}\"", crate::log::Text(line)) },
            }
        }
        Ok(Err(error)) => Outcome::Failed { doing, why: error.to_string() },
        Err(_) => Outcome::Failed { doing, why: format!("no line within {limit_ms} ms") },
    }
}

/// The meaning of a line: words, each of which changes something. `None`: it has no word that is known.
fn advice(line: &[u8], before: Advice) -> Option<Advice> {
    let mut advice = before;
    let mut is_known = false;
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b',' | b'\r');
    for word in line.split(is_space).filter(|word| !word.is_empty()) {
        // After `#` follows a remark.
        if word.starts_with(b"#") {
            break;
        }
        let word = String::from_utf8_lossy(word).to_ascii_lowercase();
        match &*word {
            "up" => advice.is_down = false,
            "down" | "fail" | "failed" | "stopped" => advice.is_down = true,
            "maint" => advice.is_in_maintenance = true,
            "drain" => advice.drains = true,
            "ready" => (advice.is_in_maintenance, advice.drains) = (false, false),
            other => match other.strip_suffix('%').and_then(|percent| percent.parse::<u8>().ok()) {
                Some(percent) => advice.percent = percent.min(100),
                None => continue,
            },
        }
        is_known = true;
    }
    is_known.then_some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_words_change_what_they_name() {
        let plain = Advice::default();
        let down = Advice { is_down: true, ..plain };
        let drains = Advice { drains: true, ..plain };
        for (line, before, after) in [
            ("up", down, Some(plain)),
            ("down # maintenance window", plain, Some(down)),
            ("STOPPED\r", plain, Some(down)),
            ("50%", plain, Some(Advice { percent: 50, ..plain })),
            ("up 250%", down, Some(Advice { percent: 100, ..plain })),
            ("drain", plain, Some(drains)),
            ("up", drains, Some(drains)),
            ("ready,up", drains, Some(plain)),
            ("maint", plain, Some(Advice { is_in_maintenance: true, ..plain })),
            ("maxconn:30 100%", plain, Some(plain)),
            ("", plain, None),
            ("hello", plain, None),
            ("300000%", plain, None),
        ] {
            assert_eq!(advice(line.as_bytes(), before), after, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_within_bounds(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            if let Some(advice) = advice(&line, Advice::default()) {
                assert!(advice.percent <= 100);
            }
        }
    }
}
