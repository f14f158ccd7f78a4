//! Two samples of the daemon's numbers, and what comes of the two: rates.
//!
//! Pure data.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

/// The daemon's numbers at a moment.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Instant,
    /// The JSON of `status`.
    pub status: Value,
    /// The processes, as nginx's control API lists them.
    pub processes: Value,
}

/// The figures on the screen.
#[derive(Debug)]
pub struct Model {
    pub socket: PathBuf,
    pub now: Sample,
    before: Option<Sample>,
    /// Why the last sample is an old one.
    pub trouble: Option<String>,
    /// The first line of the upstreams that is shown.
    pub offset: usize,
    /// Requests a second of the last samples, for the chart.
    pub past: Vec<u64>,
}

/// Samples in the chart.
const PAST_MAX: usize = 200;

impl Model {
    pub fn new(socket: &Path, now: Sample) -> Self {
        Self { socket: socket.to_owned(), now, before: None, trouble: None, offset: 0, past: Vec::new() }
    }

    pub fn take(&mut self, next: Result<Sample, String>) {
        match next {
            Ok(next) => {
                self.before = Some(std::mem::replace(&mut self.now, next));
                self.trouble = None;
                let rate = self.rate(|status| status["process"]["requests"].as_u64());
                if self.past.len() == PAST_MAX {
                    self.past.remove(0);
                }
                self.past.push(rate as u64);
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    pub fn scroll(&mut self, lines: isize) {
        self.offset = self.offset.saturating_add_signed(lines);
    }

    /// How fast a counter grows, a second. `of` finds it in a sample.
    pub fn rate(&self, of: impl Fn(&Value) -> Option<u64>) -> f64 {
        let Some(before) = &self.before else { return 0.0 };
        let seconds = self.now.at.duration_since(before.at).as_secs_f64();
        let (Some(then), Some(now)) = (of(&before.status), of(&self.now.status)) else { return 0.0 };
        if seconds > 0.0 { now.saturating_sub(then) as f64 / seconds } else { 0.0 }
    }

    /// The sum of a number over all servers, of mail too, and their zones.
    pub fn of_servers(status: &Value, key: &str) -> Option<u64> {
        let list = |name: &str| status[name].as_array().into_iter().flatten();
        let zones = list("zones").filter(|zone| zone["place"] == "server" || zone["place"] == "stream");
        Some(list("servers").chain(zones).chain(list("mail")).filter_map(|one| one[key].as_u64()).sum())
    }
}

/// A number in few letters: `1.2k`.
pub fn short(number: f64) -> String {
    for (size, letter) in [(1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')] {
        if number >= size {
            return format!("{:.1}{letter}", number / size);
        }
    }
    if number.fract() == 0.0 { format!("{number}") } else { format!("{number:.1}") }
}

/// Seconds as people read them.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2}s"),
        s if s >= 0.001 => format!("{:.1}ms", s * 1e3),
        s => format!("{:.0}µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let at = Instant::now();
        let sample = |seconds, requests: u64| Sample {
            at: at + Duration::from_secs(seconds),
            status: json!({ "process": { "requests": requests } }),
            processes: json!([]),
        };
        let mut model = Model::new(Path::new("/x"), sample(0, 100));
        let of = |status: &Value| status["process"]["requests"].as_u64();
        assert_eq!(model.rate(of), 0.0);
        model.take(Ok(sample(2, 150)));
        assert_eq!(model.rate(of), 25.0);
        model.take(Err("gone".to_owned()));
        assert!(model.trouble.is_some());
        // The daemon began anew.
        model.take(Ok(sample(3, 1)));
        assert!(model.rate(of) == 0.0 && model.trouble.is_none() && model.past == [25, 0]);
        model.scroll(isize::MIN);
        assert_eq!(model.offset, 0);
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [(0.0, "0"), (999.0, "999"), (12.34, "12.3"), (1500.0, "1.5k"), (2.5e9, "2.5G")]
        {
            assert_eq!(short(number), text);
        }
        for (seconds, text) in [(0.0, "0µs"), (0.000_25, "250µs"), (0.012, "12.0ms"), (1.5, "1.50s")] {
            assert_eq!(time(seconds), text);
        }
    }
}
