//! `pass`: an accepted connection goes to another listener of the same process.

use crate::support::tls::{Authority, TlsClient, trusting};
use crate::support::{Client, Daemon, Setup, get};

#[test]
fn a_connection_goes_to_a_listener_of_http_or_stream() {
    let conf = r"
        stream {
            map $server_port $where { %%PORT_0%% 127.0.0.1:%%PORT_2%%; default 127.0.0.1:%%PORT_3%%; }
            server { listen 127.0.0.1:%%PORT_0%%; listen 127.0.0.1:%%PORT_1%%; pass $where; }
            server { listen 127.0.0.1:%%PORT_3%%; return stream; }
        }
        http {
            access_log %%DIR%%/access.log;
            server { listen 127.0.0.1:%%PORT_2%%; return 200 http-$remote_addr; }
        }";
    let daemon = Daemon::start(conf);
    assert_eq!(get(daemon.port(0), "/").text(), "http-127.0.0.1");
    assert_eq!(Client::connect(daemon.port(1)).rest().0, b"stream");
}

#[test]
fn circles_and_missing_listeners_end_the_session() {
    let conf = r"
        stream {
            log_format status $status;
            access_log %%DIR%%/status.log status;
            server { listen 127.0.0.1:%%PORT_0%%; pass 127.0.0.1:%%PORT_1%%; }
            server { listen 127.0.0.1:%%PORT_1%%; pass 127.0.0.1:%%PORT_0%%; }
            server { listen 127.0.0.1:%%PORT_2%%; pass 127.0.0.1:1; }
        }";
    let daemon = Setup::new(conf).level("error").start();
    Client::connect(daemon.port(0)).expect_end();
    daemon.wait_log("\"pass\" leads in a circle");
    Client::connect(daemon.port(2)).expect_end();
    daemon.wait_log("port not found for \"127.0.0.1:1\"");
    daemon.wait_line("status.log", "^500");
}

#[test]
fn bytes_that_were_read_before_go_along_and_the_session_is_logged() {
    let conf = r"
        stream {
            log_format status '$status';
            access_log %%DIR%%/status.log status;
            server {
                listen 127.0.0.1:%%PORT_0%% ssl;
                ssl_certificate a.test.crt; ssl_certificate_key a.test.key;
                ssl_preread on; # of what TLS has carried
                pass 127.0.0.1:%%PORT_1%%;
            }
        }
        http { server { listen 127.0.0.1:%%PORT_1%%; return 200 passed; } }";
    let authority = Authority::new("ca");
    let pair = authority.issue(&["a.test"]);
    let daemon = Setup::new(conf).file("a.test.crt", &pair.certificate).file("a.test.key", &pair.key).start();
    let mut client = TlsClient::connect(daemon.port(0), &trusting(&authority), "a.test");
    assert_eq!(client.get("a.test", "/").text(), "passed");
    drop(client);
    daemon.wait_line("status.log", "^200$");
}
