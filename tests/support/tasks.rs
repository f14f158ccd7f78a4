//! Peers that are tasks of tokio: a loop for a test's own side, servers on loops of their own, and bodies of the `h2` crate.

use std::future::Future;
use std::net::SocketAddr;

use h2::RecvStream;
use hyper::HeaderMap;
use tokio::net::{TcpListener, TcpStream};

use super::deadline::deadline;

/// A loop on the thread that calls it.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs a test's own side to its end, within the time that a test has.
pub fn run<T>(side: impl Future<Output = T>) -> T {
    runtime().block_on(async { tokio::time::timeout(deadline(), side).await.expect("in time") })
}

/// Serves each connection with `serve`, as long as the test lives.
pub fn listen<S>(serve: impl Fn(TcpStream) -> S + Send + 'static) -> SocketAddr
where
    S: Future<Output = ()> + Send + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
    });
    address
}

/// A body with its trailers.
pub async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        all.extend_from_slice(&part);
        body.flow_control().release_capacity(part.len())?;
    }
    Ok((all, body.trailers().await?))
}
