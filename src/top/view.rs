//! The screen: traffic, latencies, processes, zones, mail, and upstreams with their peers.
//!
//! A function from the model to a frame. Narrow terminals have one column, wide ones two.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};
use serde_json::Value;

use super::model::{Model, short, time};

/// From this width on there are two columns.
const WIDE: u16 = 120;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [top, traffic, middle, bottom, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(7),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    head(frame, top, model);
    show_traffic(frame, traffic, model);
    if frame.area().width >= WIDE {
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(middle);
        latencies(frame, left, model);
        processes(frame, right, model);
    } else {
        let [left, right] = Layout::horizontal([Constraint::Length(46), Constraint::Min(20)]).areas(middle);
        latencies(frame, left, model);
        processes(frame, right, model);
    }
    peers(frame, bottom, model);
    let keys = "q quit   ↑ ↓ PgUp PgDn scroll";
    frame.render_widget(Paragraph::new(keys).style(dim()), foot);
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(0.0)
}

fn text(value: &Value, key: &str) -> String {
    // Names come from configurations, and may hold anything.
    let text = value[key].as_str().unwrap_or_default();
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn head(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let status = &model.now.status;
    let generation = list(status, "workers").filter_map(|worker| worker["generation"].as_u64()).max();
    let mut spans = vec![
        Span::styled(format!("pronghorn {}", text(status, "version")), bold()),
        Span::raw(format!("  generation {}  ", generation.unwrap_or(0))),
        Span::styled(model.socket.display().to_string(), dim()),
    ];
    if let Some(why) = &model.trouble {
        spans = vec![Span::styled(format!("no answer: {why}"), Style::new().fg(Color::Red))];
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn show_traffic(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let process = |key: &'static str| move |status: &Value| status["process"][key].as_u64();
    let servers = |key: &'static str| move |status: &Value| Model::of_servers(status, key);
    let now = &model.now.status["process"];
    let errors = model.rate(servers("responses_5xx"));
    let [left, right] = Layout::horizontal([Constraint::Length(58), Constraint::Min(10)]).areas(area);
    let lines = vec![
        Line::from(format!(
            "requests {:>8}/s   accepted {:>8}/s   active {:>7}",
            short(model.rate(process("requests")).round()),
            short(model.rate(process("connections_accepted")).round()),
            short(number(now, "connections_active")),
        )),
        Line::from(format!(
            "received {:>7}B/s   sent     {:>7}B/s   idle   {:>7}",
            short(model.rate(servers("received_bytes")).round()),
            short(model.rate(servers("sent_bytes")).round()),
            short(number(now, "connections_waiting")),
        )),
        Line::from(vec![
            Span::raw(format!("4xx      {:>8}/s   ", short(model.rate(servers("responses_4xx")).round()))),
            Span::styled(
                format!("5xx      {:>8}/s", short(errors.round())),
                if errors > 0.0 { Style::new().fg(Color::Red) } else { Style::new() },
            ),
        ]),
    ];
    frame.render_widget(Paragraph::new(lines), left);
    let width = usize::from(right.width);
    let past = &model.past[model.past.len().saturating_sub(width)..];
    frame.render_widget(Sparkline::default().data(past).style(Style::new().fg(Color::Blue)), right);
}

/// A table with a line of heads.
fn table<'a>(heads: &[&'a str], rows: Vec<Row<'a>>, widths: Vec<Constraint>) -> Table<'a> {
    let heads = Row::new(heads.iter().map(|head| Cell::from(*head)).collect::<Vec<_>>()).style(bold());
    Table::new(rows, widths).header(heads).column_spacing(1)
}

fn latencies(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let latency = model.now.status["latency"].as_object();
    let rows = latency.into_iter().flatten().map(|(name, of)| {
        let quantiles = ["p50", "p90", "p99", "p999"].map(|key| time(number(of, key)));
        Row::new([vec![name.replace('_', " ")], quantiles.to_vec()].concat())
    });
    let widths = vec![
        Constraint::Length(17),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
    ];
    frame.render_widget(table(&["latency", "p50", "p90", "p99", "p99.9"], rows.collect(), widths), area);
}

fn processes(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let workers: Vec<&Value> = list(&model.now.status, "workers").collect();
    let all = model.now.processes.as_array();
    let rows = all.into_iter().flatten().map(|process| {
        let worker = workers.iter().find(|worker| worker["pid"] == process["pid"]);
        let of = |key: &str| worker.map_or_else(String::new, |worker| short(number(worker, key)));
        let turn = worker.map_or_else(String::new, |worker| time(number(worker, "loop_turn_max_seconds")));
        let is_leaving = process["exiting"] == true;
        let name = text(process, "name").replace(" process", "");
        // There is no room for both in 80 columns.
        let name = if is_leaving { "leaving".to_owned() } else { name };
        let style = if is_leaving { Style::new().fg(Color::Yellow) } else { Style::new() };
        let cells = [
            process["pid"].to_string(),
            process["generation"].to_string(),
            of("connections_active"),
            turn,
            name,
        ];
        Row::new(cells.to_vec()).style(style)
    });
    let mut rows: Vec<Row<'_>> = rows.collect();
    let room = usize::from(area.height.saturating_sub(1));
    if rows.len() > room && room > 0 {
        let more = rows.len() - room + 1;
        rows.truncate(room - 1);
        rows.push(Row::new(vec![format!("{more} more")]).style(dim()));
    }
    let widths = vec![
        Constraint::Length(8),
        Constraint::Length(3),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Min(8),
    ];
    frame.render_widget(table(&["pid", "gen", "active", "turn", "process"], rows, widths), area);
}

/// Zones, servers of mail, and upstreams, each with its peers; they scroll. The rate of mail is that of logins.
fn peers(frame: &mut Frame<'_>, area: Rect, model: &mut Model) {
    let status = &model.now.status;
    let mut rows = Vec::new();
    for (at, zone) in list(status, "zones").enumerate() {
        let rate = model.rate(|status| status["zones"][at]["requests"].as_u64());
        let times = &zone["latency"]["duration"];
        let name = format!("{} ({})", text(zone, "name"), text(zone, "place"));
        rows.push(row(
            [name, "zone".to_owned(), String::new(), short(rate.round()), counts(zone), quantiles(times)],
            Style::new(),
        ));
    }
    for (at, server) in list(status, "mail").enumerate() {
        let rate = model.rate(|status| status["mail"][at]["logins"].as_u64());
        let counts = ["sessions_4xx", "sessions_5xx"].map(|key| short(number(server, key)));
        let name = format!("{} ({})", text(server, "name"), text(server, "protocol"));
        let active = short(number(server, "sessions_active"));
        let refused = format!("{} refused", short(number(server, "logins_failed")));
        let cells = [name, "mail".to_owned(), active, short(rate.round()), counts.join(" / "), refused];
        rows.push(row(cells, Style::new()));
    }
    for (at, upstream) in list(status, "upstreams").enumerate() {
        let rate = model.rate(|status| status["upstreams"][at]["requests"].as_u64());
        let times = &upstream["latency"]["response"];
        let name = text(upstream, "name");
        rows.push(row(
            [
                name,
                "upstream".to_owned(),
                String::new(),
                short(rate.round()),
                counts(upstream),
                quantiles(times),
            ],
            bold(),
        ));
        for (nth, peer) in list(upstream, "peers").enumerate() {
            let rate = model.rate(|status| status["upstreams"][at]["peers"][nth]["requests"].as_u64());
            let mean = match number(peer, "requests") {
                0.0 => String::new(),
                requests => time(number(peer, "response_seconds") / requests),
            };
            let state = text(peer, "state");
            let style = match state.as_str() {
                "up" => Style::new(),
                "draining" | "checking" => Style::new().fg(Color::Yellow),
                _ => Style::new().fg(Color::Red),
            };
            let mark = if peer["backup"] == true { " (backup)" } else { "" };
            let name = format!("  {}{mark}", text(peer, "name"));
            let active = short(number(peer, "connections_active"));
            rows.push(row([name, state, active, short(rate.round()), counts(peer), mean], style));
        }
    }
    let room = usize::from(area.height.saturating_sub(1));
    model.offset = model.offset.min(rows.len().saturating_sub(room));
    let rows = rows.into_iter().skip(model.offset).take(room).collect();
    let widths = vec![
        Constraint::Min(24),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(15),
        Constraint::Length(15),
    ];
    let heads = ["zones and upstreams", "state", "active", "req/s", "4xx / 5xx", "p50 / p99, mean"];
    frame.render_widget(table(&heads, rows, widths), area);
}

fn row<'a>(cells: [String; 6], style: Style) -> Row<'a> {
    Row::new(cells.to_vec()).style(style)
}

fn counts(of: &Value) -> String {
    format!("{} / {}", short(number(of, "responses_4xx")), short(number(of, "responses_5xx")))
}

fn quantiles(times: &Value) -> String {
    if number(times, "count") == 0.0 {
        return String::new();
    }
    format!("{} / {}", time(number(times, "p50")), time(number(times, "p99")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::top::model::Sample;

    fn model(peers: usize) -> Model {
        let peer = |at: usize| {
            let state = if at == 1 { "down" } else { "up" };
            json!({ "name": format!("10.0.0.{at}:80"), "state": state, "requests": 10, "response_seconds": 0.5, "backup": at == 2,
                "connections_active": 3, "responses_4xx": 1, "responses_5xx": 0 })
        };
        let latency = json!({ "count": 5, "p50": 0.001, "p90": 0.002, "p99": 0.003, "p999": 1.5 });
        let status = json!({
            "version": "0.1.0", "process": { "requests": 1000, "connections_active": 12, "connections_waiting": 4 },
            "workers": [{ "pid": 77, "generation": 3, "connections_active": 12, "loop_turn_max_seconds": 0.002 }],
            "latency": { "request": latency }, "servers": [],
            "zones": [{ "name": "si\u{1b}te", "place": "server", "requests": 1000, "latency": { "duration": latency } }],
            "mail": [{ "name": "mail.example", "protocol": "imap", "sessions_active": 7, "logins": 6,
                "logins_failed": 2, "sessions_4xx": 3, "sessions_5xx": 1 }],
            "upstreams": [{ "name": "u", "requests": 900, "latency": { "response": latency },
                "peers": (0..peers).map(peer).collect::<Vec<_>>() }],
        });
        let processes = json!([{ "name": "worker process", "pid": 77, "exiting": false, "generation": 3 },
            { "name": "worker process", "pid": 66, "exiting": true, "generation": 2 }]);
        let sample = Sample { at: Instant::now(), status, processes };
        let mut before = sample.clone();
        before.at -= Duration::from_secs(2);
        before.status["process"]["requests"] = json!(0);
        let mut model = Model::new(Path::new("/run/ctl"), before);
        model.take(Ok(sample));
        model
    }

    fn drawn(model: &mut Model, (width, height): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| draw(frame, model)).expect("drawn");
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(line).collect()
    }

    #[test]
    fn the_usual_and_a_large_terminal_show_all_of_a_small_daemon() {
        for size in [(80, 24), (200, 60)] {
            let lines = drawn(&mut model(3), size);
            let all = lines.join("\n");
            for part in [
                "pronghorn 0.1.0  generation 3",
                "/run/ctl",
                "requests      500/s",
                "active      12",
                "1.0ms",
                "1.50s",
                "77",
                "leaving",
                "si?te (server)",
                "mail.example (imap)",
                "3 / 1",
                "2 refused",
                "10.0.0.1:80",
                "down",
                "10.0.0.2:80 (backup)",
                "50.0ms",
                "q quit",
            ] {
                assert!(all.contains(part), "{part} in {size:?}:\n{all}");
            }
        }
    }

    #[test]
    fn a_list_that_is_too_long_scrolls_to_its_end_and_no_further() {
        let mut model = model(500);
        assert!(!drawn(&mut model, (80, 24)).join("\n").contains("10.0.0.499:80"));
        model.scroll(10_000);
        let lines = drawn(&mut model, (80, 24)).join("\n");
        assert!(lines.contains("10.0.0.499:80") && lines.contains("10.0.0.490:80"), "{lines}");
        model.scroll(-1);
        assert!(!drawn(&mut model, (80, 24)).join("\n").contains("10.0.0.499:80"));
    }

    #[test]
    fn no_terminal_is_too_small() {
        for size in [(1, 1), (10, 3), (20, 8), (300, 2)] {
            drawn(&mut model(5), size);
        }
        let mut empty = model(0);
        empty.now.status = json!({});
        empty.trouble = Some("connect() failed".to_owned());
        assert!(drawn(&mut empty, (80, 24))[0].contains("no answer: connect() failed"));
    }
}
