//! `listen`: several addresses, IPv6, unix sockets, ports alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::support::{Setup, deadline, get, wait_for};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen %%PORT_1%%;
        listen [::1]:%%PORT_2%%;
        listen unix:%%DIR%%/http.sock;
        return 200 "$server_port|$remote_addr|$server_addr";
    }
}
"#;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn last_line(mut stream: impl Read + Write) -> String {
    stream.write_all(REQUEST).expect("it listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    text.rsplit("\r\n").next().unwrap_or_default().to_owned()
}

#[test]
fn every_kind_of_address_is_listened_on() {
    let daemon = Setup::new(CONF).start();
    let ports: Vec<u16> = (0..3).map(|index| daemon.port(index)).collect();
    assert_eq!(get(ports[0], "/").text(), format!("{}|127.0.0.1|127.0.0.1", ports[0]));
    assert_eq!(get(ports[1], "/").text(), format!("{}|127.0.0.1|127.0.0.1", ports[1]));

    let six = TcpStream::connect(("::1", ports[2])).expect("it listens on IPv6");
    six.set_read_timeout(Some(deadline())).expect("not zero");
    assert_eq!(last_line(six), format!("{}|::1|::1", ports[2]));

    let path = daemon.path("http.sock");
    let unix = wait_for("the unix socket", || UnixStream::connect(&path).ok());
    unix.set_read_timeout(Some(deadline())).expect("not zero");
    assert!(last_line(unix).starts_with("|unix:|"), "a unix client has no port and no address");
}
