//! Whether something listens on a port. The kernel is asked for listening sockets only (sock_diag(7)): reading
//! `/proc/net/tcp` walks over every connection of the machine, and takes 25 ms once tests have left ten thousand in
//! TIME_WAIT.

use std::io::Read;

use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST and NLM_F_DUMP.
const ALL: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
const TCP_LISTEN: u32 = 10;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// A struct nlmsghdr, a struct inet_diag_req_v2.
const HEAD_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEAD_BYTES + 56;

/// True if a process listens on the port, IPv4 or IPv6.
pub fn is_listening(port: u16) -> bool {
    let tcp = [(AF_INET, "tcp"), (AF_INET6, "tcp6")];
    // An open UDP socket is in the state of a closed TCP socket.
    tcp.iter().any(|(family, table)| asked(*family, port).unwrap_or_else(|| is_in(table, "0A", port)))
        || ["udp", "udp6"].iter().any(|table| is_in(table, "07", port))
}

/// The kernel's answer; `None` if it has none.
fn asked(family: u8, port: u16) -> Option<bool> {
    let mut socket =
        Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_SOCK_DIAG))).ok()?;
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    request.extend_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&ALL.to_ne_bytes());
    request.extend_from_slice(&[0; 8]); // sequence and sender
    request.extend_from_slice(&[family, IPPROTO_TCP, 0, 0]);
    request.extend_from_slice(&(1u32 << TCP_LISTEN).to_ne_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    request.resize(REQUEST_BYTES, 0); // any other port, addresses and interface
    socket.send(&request).ok()?;
    let mut buffer = [0; 16 * 1024];
    let mut is_found = false;
    loop {
        let count = socket.read(&mut buffer).ok()?;
        let mut rest = &buffer[..count];
        while rest.len() >= HEAD_BYTES {
            let length = u32::from_ne_bytes(rest[..4].try_into().expect("four bytes")) as usize;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                NLMSG_DONE => return Some(is_found),
                NLMSG_ERROR => return None,
                _ => is_found = true,
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }
}

/// True if a table of `/proc/net` has a socket with this port in this state.
fn is_in(table: &str, wanted: &str, port: u16) -> bool {
    let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    text.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().and_then(|word| word.rsplit(':').next());
        let state = words.nth(1);
        state == Some(wanted) && local.and_then(|hex| u16::from_str_radix(hex, 16).ok()) == Some(port)
    })
}
