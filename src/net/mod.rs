//! Sockets as the proxy uses them: addresses, listening, accepting, connecting.
