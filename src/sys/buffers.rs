//! The sizes of a connection's buffers in the kernel (SO_RCVBUF, SO_SNDBUF).
//!
//! Touches: one socket, before it connects: the window scale of TCP is announced in the first packet. socket(7), tcp(7).

use socket2::SockRef;

/// Sizes in bytes; 0: the kernel chooses the size, and lets the buffer grow as needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    pub receive: u32,
    pub send: u32,
}

impl Buffers {
    /// The sizes of a configuration.
    pub fn new(receive: u64, send: u64) -> Self {
        let bytes = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        Self { receive: bytes(receive), send: bytes(send) }
    }

    /// Sets the sizes. It cannot fail: the kernel limits them to `net.core.rmem_max` and `net.core.wmem_max`.
    pub fn set(self, socket: &SockRef<'_>) {
        if self.receive > 0 {
            let _ = socket.set_recv_buffer_size(self.receive as usize);
        }
        if self.send > 0 {
            let _ = socket.set_send_buffer_size(self.send as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn sizes(buffers: Buffers) -> (usize, usize) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        buffers.set(&SockRef::from(&socket));
        (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap())
    }

    #[test]
    fn each_size_is_set_alone_and_a_huge_one_is_limited() {
        let (receive, send) = sizes(Buffers::default());
        // the kernel doubles a size (socket(7))
        assert_eq!(sizes(Buffers::new(16_384, 0)), (32_768, send));
        assert_eq!(sizes(Buffers::new(0, 16_384)), (receive, 32_768));
        let huge = sizes(Buffers::new(u64::MAX, u64::MAX));
        assert!(huge.0 >= 32_768 && huge.1 >= 32_768, "{huge:?}");
    }
}
