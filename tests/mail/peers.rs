//! Clients that others have written: Python's imaplib, poplib and smtplib, and curl.

use std::process::Command;

use super::imap::imap_server;
use super::{answer, echo_lines, next_line, pass_to, setup};
use crate::support::tls::Authority;
use crate::support::{Daemon, Origin, program};

/// A server for whole sessions of each protocol.
fn backend(protocol: &'static str) -> Origin {
    Origin::start(move |peer| {
        peer.send(match protocol {
            "pop3" => "+OK\r\n",
            "smtp" => "220 backend\r\n",
            _ => "* OK\r\n",
        });
        let mut is_data = false;
        while let Some(line) = next_line(peer) {
            let reply = match (protocol, &*line.split(' ').next().unwrap_or_default().to_uppercase()) {
                ("pop3", "STAT") => "+OK 2 320\r\n".into(),
                ("pop3", "LIST") => "+OK\r\n1 120\r\n2 200\r\n.\r\n".into(),
                ("pop3", "RETR") => "+OK\r\nSubject: hi\r\n\r\nhello\r\n.\r\n".into(),
                ("pop3", _) => "+OK\r\n".into(),
                ("smtp", "DATA") => {
                    is_data = true;
                    "354 go\r\n".into()
                }
                ("smtp", ".") if is_data => {
                    is_data = false;
                    "250 queued as 1234\r\n".into()
                }
                ("smtp", _) if is_data => String::new(),
                ("smtp", "QUIT") => "221 bye\r\n".into(),
                ("smtp", _) => "250 ok\r\n".into(),
                _ => return echo_lines(peer),
            };
            if peer.try_send(reply.as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn daemon(protocol: &str, auth: &Origin, more: &str, authority: &Authority) -> Daemon {
    let more = format!("starttls on; ssl_certificate s.crt; ssl_certificate_key s.key; {more}");
    let pair = authority.issue(&["localhost"]);
    let setup = setup(protocol, auth, &more).file("s.crt", &pair.certificate).file("s.key", &pair.key);
    setup.file("ca.crt", authority.certificate()).start()
}

fn run(mut command: Command) -> String {
    let output = command.output().expect("it can be run");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.trim_end().to_owned()
}

fn auth_for(server: &Origin) -> Origin {
    let port = server.port();
    Origin::replying(move |question| match question.header("auth-pass") {
        Some("secret") => pass_to(port),
        _ => answer("Auth-Status: wrong password\nAuth-Wait: 1\n"),
    })
}

#[test]
fn python_s_libraries_log_in() {
    let Some(python) = program::find(&["python3"]) else { return };
    let authority = Authority::new("ca");
    let imap = "
import imaplib, sys
for tls in (False, True):
    c = imaplib.IMAP4('127.0.0.1', port)
    if tls: c.starttls(context)
    try: c.login('me', 'bad')
    except imaplib.IMAP4.error as e: print('refused', e.args[0])
    print(c.login('me', 'secret')[0])
";
    let pop3 = "
import poplib
for tls in (False, True):
    c = poplib.POP3('127.0.0.1', port)
    if tls: c.stls(context)
    c.user('me'); c.pass_('secret')
    print(c.stat(), c.retr(1)[1])
    c.quit()
";
    let smtp = "
import smtplib
for tls in (False, True):
    c = smtplib.SMTP('127.0.0.1', port)
    c.ehlo()
    if tls: c.starttls(context=context); c.ehlo()
    c.login('me', 'secret')
    print(c.sendmail('a@b', ['c@d', 'e@f'], 'Subject: x\\r\\n\\r\\nhello'))
    print(c.quit())
";
    let refused = "refused b'wrong password'";
    let cases = [
        ("imap", imap, format!("{refused}\nOK\n{refused}\nOK")),
        ("pop3", pop3, ["(2, 320) [b'Subject: hi', b'', b'hello']"; 2].join("\n")),
        ("smtp", smtp, ["{}\n(221, b'bye')"; 2].join("\n")),
    ];
    for (protocol, script, expected) in cases {
        let server = if protocol == "imap" { imap_server() } else { backend(protocol) };
        let auth = auth_for(&server);
        let daemon = daemon(protocol, &auth, "xclient off;", &authority);
        let begin = format!(
            "import ssl, socket\nport = {}\nsocket.setdefaulttimeout(30)\ncontext = ssl.create_default_context(cafile='{}')\n\
             context.check_hostname = False\n",
            daemon.port(0),
            daemon.path("ca.crt").display()
        );
        let mut command = Command::new(&python);
        command.args(["-c", &(begin + script)]);
        assert_eq!(run(command), expected, "{protocol}");
    }
}

#[test]
fn curl_reads_and_sends_mail() {
    let Some(curl) = program::find(&["curl"]) else { return };
    let authority = Authority::new("ca");
    let pop3 = backend("pop3");
    let auth = auth_for(&pop3);
    let first = daemon("pop3", &auth, "", &authority);
    let ca = first.path("ca.crt").display().to_string();
    let mut command = Command::new(&curl);
    command.args(["-sS", "--max-time", "30", "--ssl-reqd", "--cacert", &ca, "-u", "me:secret"]);
    command.args(["--resolve", &format!("localhost:{}:127.0.0.1", first.port(0))]);
    command.arg(format!("pop3://localhost:{}/1", first.port(0)));
    assert_eq!(run(command).replace('\r', ""), "Subject: hi\n\nhello");

    let smtp = backend("smtp");
    let auth = auth_for(&smtp);
    let second = daemon("smtp", &auth, "", &authority);
    let mail = second.path("mail.txt");
    std::fs::write(&mail, "Subject: x\r\n\r\nhello\r\n").expect("the folder is ours");
    let mut command = Command::new(&curl);
    command.args([
        "-sS",
        "--max-time",
        "30",
        "-u",
        "me:secret",
        "--mail-from",
        "a@b",
        "--mail-rcpt",
        "c@d",
        "-T",
    ]);
    command.arg(&mail).arg(format!("smtp://127.0.0.1:{}", second.port(0)));
    run(command);
    assert_eq!(auth.last().header("auth-user"), Some("me"));
}
