//! Clients that send requests without pause while a test does something to the daemon; no request may fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::client::Client;
use super::daemon::is_stand_in;
use super::deadline::wait_for;
use super::message::Response;

/// Threads of clients; `finish` checks that none failed.
pub struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    /// Starts `count` clients that ask for `/`: every other one on a single kept-alive connection, the rest
    /// on a new connection for each request. (nginx closes kept connections, so against it all are new.)
    pub fn start(port: u16, count: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |index: usize| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                let keeps = index.is_multiple_of(2) && !is_stand_in();
                let outcome = catch_unwind(AssertUnwindSafe(|| ask(port, keeps, &stop, &served)));
                let text = |cause: Box<dyn std::any::Any + Send>| {
                    let text = cause.downcast_ref::<String>().cloned();
                    let kind = if keeps { "kept-alive" } else { "new" };
                    format!("{kind}: {}", text.unwrap_or_else(|| "a client failed".to_owned()))
                };
                outcome.map_err(text)
            })
        };
        let threads = (0..count).map(client).collect();
        Self { stop, served, threads }
    }

    /// Waits until `count` more requests have been answered.
    pub fn wait(&self, count: usize) {
        let before = self.served.load(Ordering::SeqCst);
        wait_for("requests to be answered", || {
            let failed = self.threads.iter().any(JoinHandle::is_finished);
            (failed || self.served.load(Ordering::SeqCst) >= before + count).then_some(())
        });
    }

    /// Stops the clients, and returns how many requests were answered; panics if any has failed.
    pub fn finish(self) -> usize {
        self.wait(1);
        self.stop.store(true, Ordering::SeqCst);
        let failures: Vec<String> = self
            .threads
            .into_iter()
            .filter_map(|thread| thread.join().expect("its panics are caught").err())
            .collect();
        assert!(failures.is_empty(), "failed clients: {failures:#?}");
        self.served.load(Ordering::SeqCst)
    }
}

fn ask(port: u16, keeps: bool, stop: &AtomicBool, served: &AtomicUsize) {
    let mut kept = keeps.then(|| Client::connect(port));
    while !stop.load(Ordering::SeqCst) {
        let response = kept.as_mut().map_or_else(|| ask_once(port), |kept| kept.get("/"));
        assert_eq!(response.status, 200);
        served.fetch_add(1, Ordering::SeqCst);
    }
}

/// Asks on a new connection, which is reset in the end: thousands in TIME_WAIT would slow down reading
/// /proc/net.
fn ask_once(port: u16) -> Response {
    let mut client = Client::connect(port);
    client.reset_on_close();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.response()
}
