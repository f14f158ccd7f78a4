//! The options of sockets, and the beginning of connections, as the kernel has them.

use std::io::Write;

use super::*;

/// The options of a listening socket as the kernel reports them.
fn facts(fd: &OwnedFd) -> Vec<(&'static str, i32)> {
    let socket = SockRef::from(fd);
    let tcp = |name| option(&socket, libc::IPPROTO_TCP, name).expect("TCP has it");
    let own = |name| option(&socket, libc::SOL_SOCKET, name).expect("the kernel has it");
    let keepalive = own(libc::SO_KEEPALIVE);
    // Without SO_KEEPALIVE the probes do not matter.
    let probes = |name| if keepalive == 1 { tcp(name) } else { 0 };
    let locked = own(SO_BUF_LOCK);
    // A size that was not set explicitly may be changed by the kernel.
    let size = |name, bit| if locked & bit != 0 { own(name) } else { 0 };
    vec![
        ("rcvbuf", size(libc::SO_RCVBUF, 2)),
        ("sndbuf", size(libc::SO_SNDBUF, 1)),
        ("keepalive", keepalive),
        ("idle", probes(libc::TCP_KEEPIDLE)),
        ("interval", probes(libc::TCP_KEEPINTVL)),
        ("count", probes(libc::TCP_KEEPCNT)),
        ("deferred", i32::from(tcp(libc::TCP_DEFER_ACCEPT) > 0)),
        ("fastopen", tcp(libc::TCP_FASTOPEN)),
        ("multipath", i32::from(Make::of(fd.as_fd()).is_multipath)),
    ]
}

#[test]
fn a_socket_that_changes_is_as_one_that_is_made_so() {
    let address = SockAddr::Inet(([127, 0, 0, 1], 0).into());
    let plain = ListenOptions::default;
    let some = |idle_s, interval_s, count| Some(Probes { idle_s, interval_s, count });
    let all = [
        plain(),
        ListenOptions { backlog: 7, ..plain() },
        ListenOptions { rcvbuf: Some(32 * 1024), ..plain() },
        ListenOptions { rcvbuf: Some(64 * 1024), sndbuf: Some(48 * 1024), ..plain() },
        ListenOptions { sndbuf: Some(96 * 1024), deferred: true, ..plain() },
        ListenOptions { fastopen: Some(9), keepalive: some(None, None, None), ..plain() },
        ListenOptions { fastopen: Some(11), keepalive: some(Some(77), None, Some(3)), ..plain() },
        ListenOptions { keepalive: some(None, Some(5), None), deferred: true, ..plain() },
    ];
    for from in &all {
        for to in &all {
            let changed = listen(&address, from).expect("listens");
            change(changed.as_fd(), &address, to).expect("changes");
            let fresh = listen(&address, to).expect("listens");
            assert_eq!(facts(&changed), facts(&fresh), "from {from:?} to {to:?}");
        }
    }
}

#[test]
fn a_socket_says_what_no_option_changes() {
    let address = SockAddr::Inet("[::]:0".parse().expect("an address"));
    for (ipv6only, multipath) in [(true, false), (false, false), (true, has_multipath())] {
        let options = ListenOptions { ipv6only, multipath, ..ListenOptions::default() };
        let socket = listen(&address, &options).expect("listens");
        assert_eq!(Make::of(socket.as_fd()), Make::wanted(&address, &options), "{options:?}");
    }
}

#[test]
fn the_first_data_carries_the_end_of_the_handshake() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("a socket");
    let address = SockAddr::Inet(listener.local_addr().expect("an address"));
    let is_there = |speaks_first| {
        let (fd, _) =
            connect_nonblocking(&address, None, false, speaks_first, Buffers::default()).expect("connected");
        let at_once = listener.accept().is_ok();
        let mut stream = std::net::TcpStream::from(fd);
        stream.write_all(b"x").expect("it is connected");
        assert!(at_once || listener.accept().is_ok(), "the data comes with it");
        at_once
    };
    // The kernel ends the handshake itself if no data follows for some 40 ms, as on a loaded machine.
    assert!((0..100).any(|_| !is_there(true)));
    assert!((0..100).all(|_| is_there(false)));
}
