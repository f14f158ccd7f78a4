//! vsftpd behind, curl and Python's ftplib in front: all ways to open data connections, in clear and with TLS.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::support::program::{Program, find};
use crate::support::tls::{Authority, Pair};
use crate::support::{Daemon, Setup, port, process, wait_for};

/// A vsftpd with `pub/big`, and a folder `up` for uploads. `None` where it is not installed.
struct Vsftpd {
    program: Program,
    folder: TempDir,
    port: u16,
}

const LENGTH: usize = 5_000_000;

fn content() -> Vec<u8> {
    (0..LENGTH).map(|index| (index * 31 % 251) as u8).collect()
}

impl Vsftpd {
    fn start(more: &str) -> Option<Self> {
        let vsftpd = find(&["vsftpd"])?;
        let folder = tempfile::Builder::new().prefix("pronghorn-peer-").tempdir().expect("a folder");
        let is_root = Uid::effective().is_root();
        let root = folder.path().join("root");
        for name in ["root/pub", "root/up", "empty"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("the folder is ours");
        }
        std::fs::write(root.join("pub/big"), content()).expect("the folder is ours");
        if is_root {
            let user = User::from_name("daemon").expect("users are known").expect("it is everywhere");
            std::os::unix::fs::chown(root.join("up"), Some(user.uid.as_raw()), None).expect("we are root");
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(folder.path(), open).expect("the folder is ours");
        }
        let port = port::free();
        let text = format!(
            "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\n\
             write_enable=YES\nanon_upload_enable=YES\nanon_other_write_enable=YES\nanon_umask=022\n\
             anon_root={root}\nftp_username=daemon\nnopriv_user=nobody\nsecure_chroot_dir={empty}\n\
             run_as_launching_user={unprivileged}\nseccomp_sandbox=NO\nuse_localtime=NO\n{more}",
            root = root.display(),
            empty = folder.path().join("empty").display(),
            unprivileged = if is_root { "NO" } else { "YES" },
        );
        let conf = folder.path().join("vsftpd.conf");
        std::fs::write(&conf, text).expect("the folder is ours");
        let mut program = Program::start(Command::new(vsftpd).arg(&conf));
        wait_for("vsftpd to listen", || (process::is_listening(port) || program.has_ended()).then_some(()));
        assert!(!program.has_ended(), "it does not start");
        Some(Self { program, folder, port })
    }

    /// The path of an upload.
    fn upload(&self, name: &str) -> PathBuf {
        self.folder.path().join("root/up").join(name)
    }
}

fn start(server: &Vsftpd, pair: &Pair, more: &str) -> Daemon {
    let conf = "stream {
        ssl_certificate a.crt; ssl_certificate_key a.key;
        server { listen 127.0.0.1:%%PORT_0%%; listen [::1]:%%PORT_0%%; proxy_pass 127.0.0.1:%%OWN%%; ftp on; %%MORE%% }
    }";
    let setup = Setup::new(conf).set("OWN", server.port).set("MORE", more).level("info");
    setup.file("a.crt", &pair.certificate).file("a.key", &pair.key).start()
}

fn curl(arguments: &[&str], url: &str) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-g", "--max-time", "30"]).args(arguments).arg(url);
    curl.output().expect("curl is there")
}

fn downloads(arguments: &[&str], url: &str) {
    let output = curl(arguments, url);
    assert!(
        output.status.success() && output.stdout == content(),
        "{arguments:?} {url}: {:?}",
        output.stderr
    );
}

fn uploads(arguments: &[&str], server: &Vsftpd, url: &str, name: &str) {
    let source = server.folder.path().join("root/pub/big");
    let source = source.to_str().expect("text");
    let output = curl(&[arguments, &["-T", source]].concat(), &format!("{url}/up/{name}"));
    assert!(output.status.success(), "{arguments:?} {url}: {output:?}");
    assert!(std::fs::read(server.upload(name)).expect("it was stored") == content(), "{arguments:?}");
}

const WAYS: [&[&str]; 4] = [
    &["--ftp-pasv", "--disable-epsv"],
    &["--ftp-pasv"],
    &["--ftp-port", "127.0.0.1", "--disable-eprt"],
    &["--ftp-port", "127.0.0.1"],
];

#[test]
fn curl_opens_data_connections_in_all_ways() {
    let Some(server) = Vsftpd::start("") else { return };
    let daemon = start(&server, &Authority::new("ca").issue(&["localhost"]), "");
    let url = format!("ftp://127.0.0.1:{}", daemon.port(0));
    for (index, way) in WAYS.iter().enumerate() {
        downloads(way, &format!("{url}/pub/big"));
        uploads(way, &server, &url, &index.to_string());
    }
    downloads(&[], &format!("ftp://[::1]:{}/pub/big", daemon.port(0)));
    downloads(&["--ftp-port", "::1"], &format!("ftp://[::1]:{}/pub/big", daemon.port(0)));
    let listing = curl(&[], &format!("{url}/pub/"));
    assert!(String::from_utf8_lossy(&listing.stdout).contains("5000000"), "{listing:?}");
    let missing = curl(&[], &format!("{url}/pub/none"));
    assert_eq!(missing.status.code(), Some(78), "the file is not there: {missing:?}");
    assert_eq!(daemon.complaints("warn|error|crit|alert|emerg"), [""; 0]);
}

#[test]
fn curl_encrypts_what_vsftpd_gets_in_clear() {
    let Some(server) = Vsftpd::start("") else { return };
    let daemon = start(&server, &Authority::new("ca").issue(&["localhost"]), "ftp_starttls on;");
    let url = format!("ftp://127.0.0.1:{}", daemon.port(0));
    downloads(&["-k", "--ssl-reqd"], &format!("{url}/pub/big"));
    downloads(&["-k", "--ssl-reqd", "--ftp-ssl-control"], &format!("{url}/pub/big"));
    downloads(&[], &format!("{url}/pub/big"));
    uploads(&["-k", "--ssl-reqd"], &server, &url, "a");
    let daemon = start(&server, &Authority::new("ca").issue(&["localhost"]), "");
    let url = format!("ftp://127.0.0.1:{}/pub/big", daemon.port(0));
    downloads(&["-k", "--ssl"], &url);
    assert_eq!(curl(&["-k", "--ssl-reqd"], &url).status.code(), Some(64), "it needs TLS, and stops");
}

#[test]
fn a_server_of_tls_gets_its_data_by_tls() {
    let pair = Authority::new("server").issue(&["localhost"]);
    let keys = tempfile::Builder::new().prefix("pronghorn-peer-").tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = keys.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    };
    let more = format!(
        "ssl_enable=YES\nimplicit_ssl=YES\nallow_anon_ssl=YES\nforce_anon_data_ssl=YES\n\
         force_anon_logins_ssl=YES\nrequire_ssl_reuse=YES\nssl_ciphers=HIGH\nrsa_cert_file={}\n\
         rsa_private_key_file={}\n",
        write("a.crt", &pair.certificate),
        write("a.key", &pair.key)
    );
    let Some(server) = Vsftpd::start(&more) else { return };
    let daemon = start(&server, &pair, "proxy_ssl on; ftp_starttls on;");
    let url = format!("ftp://127.0.0.1:{}", daemon.port(0));
    downloads(&[], &format!("{url}/pub/big"));
    downloads(&["-k", "--ssl-reqd"], &format!("{url}/pub/big"));
    uploads(&["-k", "--ssl-reqd"], &server, &url, "a");
}

const FTPLIB: &str = r#"
import ftplib, io, ssl, sys
port, path = int(sys.argv[1]), sys.argv[2]
content = open(path, "rb").read()
for secure in (False, True):
    if secure:
        ftp = ftplib.FTP_TLS(context=ssl._create_unverified_context())
    else:
        ftp = ftplib.FTP()
    ftp.connect("127.0.0.1", port, timeout=30)
    ftp.login()
    if secure:
        ftp.prot_p()
    for passive in (True, False):
        ftp.set_pasv(passive)
        got = io.BytesIO()
        print(ftp.retrbinary("RETR /pub/big", got.write))
        assert got.getvalue() == content
        print(ftp.storbinary(f"STOR /up/{secure}{passive}", io.BytesIO(content)))
        assert ftp.size(f"/up/{secure}{passive}") == len(content)
        assert "/pub/big" in ftp.nlst("/pub")
    ftp.set_pasv(True)
    connection = ftp.transfercmd("RETR /pub/big")
    connection.recv(1000)
    connection.close()
    try:
        print(ftp.abort() if False else ftp.getresp())
    except ftplib.Error as error:
        print(error)
    print(ftp.sendcmd("NOOP"), ftp.quit())
"#;

#[test]
fn ftplib_transfers_in_clear_and_encrypted() {
    let Some(server) = Vsftpd::start("") else { return };
    let daemon = start(&server, &Authority::new("ca").issue(&["localhost"]), "ftp_starttls on;");
    let source = server.folder.path().join("root/pub/big");
    let mut python = Command::new("python3");
    python.args(["-c", FTPLIB, &daemon.port(0).to_string()]).arg(Path::new(&source));
    let output = python.output().expect("python is there");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.matches("226 Transfer complete.").count(), 8, "{told}");
    assert_eq!(told.matches("221 Goodbye.").count(), 2, "{told}");
    assert!(told.contains("426 "), "a download that is broken off is no success: {told}");
    for name in ["FalseTrue", "FalseFalse", "TrueTrue", "TrueFalse"] {
        assert!(std::fs::read(server.upload(name)).expect("it was stored") == content(), "{name}");
    }
    let _ = &server.program;
}
