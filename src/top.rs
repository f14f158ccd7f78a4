//! `pronghorn top`: what the status page shows, in a terminal.
//!
//! A client of the control socket, as `ctl` is. One thread asks once a second; this one draws and reads keys, so that a
//! daemon that does not answer keeps nobody from leaving. Touches: the control socket, the terminal.

mod model;
mod view;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::ctl;
use crate::sys::{signal, terminal};
use model::{Model, Sample};

/// Time between two samples.
const PERIOD: Duration = Duration::from_secs(1);
/// How long to wait for a key before looking whether there is a new sample.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Lines of a page for the keys that scroll.
const PAGE: usize = 10;

/// Runs until the user leaves, and returns the exit code. `socket`: the one that the configuration names.
pub fn run(words: &[String], socket: Option<PathBuf>) -> i32 {
    let socket = match words {
        [] => socket,
        [word, path] if word == "--socket" => Some(PathBuf::from(path)),
        [word] if word.starts_with("--socket=") => word.split_once('=').map(|(_, path)| path.into()),
        _ => {
            let words = words.join(" ");
            terminal::tell(format_args!(
                "pronghorn: [error] \"top\" does not take \"{words}\"; usage: pronghorn top [--socket path]"
            ));
            return 2;
        }
    };
    let Some(socket) = socket else {
        terminal::tell(
            "pronghorn: [error] the configuration names no control socket: add \"control unix:/run/pronghorn.sock;\" to \
             it, or name the socket with --socket",
        );
        return 2;
    };
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        terminal::tell(
            "pronghorn: [error] top needs a terminal; \"pronghorn ctl status\" shows the same numbers",
        );
        return 2;
    }
    // A socket that cannot be used is told before the screen is taken.
    let first = match sample(&socket) {
        Ok(first) => first,
        Err(why) => {
            terminal::tell(format_args!("pronghorn: [error] {why}"));
            return 1;
        }
    };
    match show(&socket, first) {
        Ok(()) => 0,
        Err(error) => {
            terminal::tell(format_args!("pronghorn: [error] the terminal: {error}"));
            1
        }
    }
}

/// Draws until the user leaves. The terminal is as before then, also after a panic (`ratatui::init`).
fn show(socket: &Path, first: Sample) -> io::Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    signal::note_end(&is_over)?;
    let samples = sampled(socket.to_owned());
    let mut model = Model::new(socket, first);
    let mut screen = ratatui::try_init()?;
    let outcome = loop {
        while let Ok(next) = samples.try_recv() {
            model.take(next);
        }
        if let Err(error) = screen.draw(|frame| view::draw(frame, &mut model)) {
            break Err(error);
        }
        if is_over.load(Relaxed) {
            break Ok(());
        }
        match wait(&mut model) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    ratatui::try_restore()?;
    outcome
}

/// Waits for a key. False: the user leaves.
fn wait(model: &mut Model) -> io::Result<bool> {
    if !event::poll(KEY_WAIT)? {
        return Ok(true);
    }
    let Event::Key(key) = event::read()? else { return Ok(true) };
    if key.kind == KeyEventKind::Release {
        return Ok(true);
    }
    match key.code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Ok(false),
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(false),
        KeyCode::Down | KeyCode::Char('j') => model.scroll(1),
        KeyCode::Up | KeyCode::Char('k') => model.scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => model.scroll(PAGE as isize),
        KeyCode::PageUp => model.scroll(-(PAGE as isize)),
        KeyCode::Home => model.scroll(isize::MIN),
        _ => {}
    }
    Ok(true)
}

/// Asks the daemon again and again, on another thread. What it says waits in a queue of one: a terminal that is slow
/// gets fewer samples.
fn sampled(socket: PathBuf) -> Receiver<Result<Sample, String>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let ask = move || {
        loop {
            std::thread::sleep(PERIOD);
            let sample = sample(&socket).map_err(|why| why.to_string());
            if sender.send(sample).is_err() {
                return;
            }
        }
    };
    // Without the thread the first sample stays on the screen.
    let _ = std::thread::Builder::new().name("samples".to_owned()).spawn(ask);
    receiver
}

fn sample(socket: &Path) -> Result<Sample, ctl::Error> {
    let status = ctl::ask(socket, "GET", "/pronghorn/status", None)?.json()?;
    let processes = ctl::ask(socket, "GET", "/1/control/processes", None)?.json()?;
    Ok(Sample { at: Instant::now(), status, processes })
}
