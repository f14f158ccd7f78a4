//! A worker's surroundings: environment, limits, processors, user, directory; and its title.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User, geteuid};

use crate::support::daemon::is_stand_in;
use crate::support::environment::environment;
use crate::support::{Daemon, Setup, get, process, wait_for};

const CONF: &str = r#"
worker_processes 2;
%%MORE%%
http {
    access_log %%DIR%%/access.log;
    server { listen 127.0.0.1:%%PORT_0%%; return 200 "here\n"; }
}
"#;

fn setup(more: &str) -> Setup {
    Setup::new(CONF).set("MORE", more)
}

/// A line of `/proc/PID/status` without its name.
fn status(pid: i32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn limit(pid: i32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// Both workers, once they are set up: they accept.
fn workers(daemon: &Daemon) -> Vec<i32> {
    get(daemon.port(0), "/");
    wait_for("settled workers", || {
        let pids = daemon.workers_now();
        let settled = pids.iter().all(|&pid| process::title(pid).contains("worker process"));
        (pids.len() == 2 && settled).then_some(pids)
    })
}

#[test]
fn nothing_but_tz_and_what_env_names_reaches_the_workers() {
    let daemon = setup("env KEPT;\nenv MADE=b=c;\nenv ABSENT;\nenv OVER=new;\nenv EMPTY=;")
        .prelude("export TZ=UTC; unset ABSENT;")
        .variable("KEPT", "from outside")
        .variable("OVER", "old")
        .variable("SECRET", "do-not-tell")
        .start();
    for worker in workers(&daemon) {
        let Some(mut found) = environment(worker) else {
            eprintln!("skipped: this user may not read another process's memory");
            return;
        };
        // nginx's own, and ours for bug reports.
        found.retain(|line| !line.starts_with("NGINX=") && !line.starts_with("RUST_BACKTRACE="));
        found.sort();
        assert_eq!(found, ["EMPTY=", "KEPT=from outside", "MADE=b=c", "OVER=new", "TZ=UTC"]);
        let shown = std::fs::read(format!("/proc/{worker}/environ")).expect("it lives");
        assert!(!String::from_utf8_lossy(&shown).contains("do-not-tell"));
    }
}

#[test]
fn the_master_s_own_environment_lives_on_in_an_upgrade() {
    if is_stand_in() {
        return;
    }
    let daemon = setup("env KEPT;").variable("KEPT", "from outside").start();
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    let new = wait_for("a new master with workers", || {
        let new: i32 = daemon.read("pronghorn.pid").trim().parse().ok()?;
        (new != old && process::children(new).len() == 2).then_some(new)
    });
    crate::support::daemon::send(old, Signal::SIGQUIT);
    wait_for("the old master to end", || (!process::is_alive(old)).then_some(()));
    daemon.follow(new);
    for worker in workers(&daemon) {
        let Some(found) = environment(worker) else { return };
        assert!(found.contains(&"KEPT=from outside".to_owned()), "{found:?}");
        assert!(!found.iter().any(|line| line.starts_with("PRONGHORN_FDS")), "{found:?}");
    }
}

#[test]
fn the_time_zone_of_env_is_the_logs_time_zone() {
    for (setup, offset) in [
        (setup("env TZ=ABC-05:30;"), "+0530"),
        (setup("").prelude("export TZ=XYZ+03;"), "-0300"),
        (setup("env TZ=ABC-07;").prelude("export TZ=XYZ+03;"), "+0700"),
    ] {
        let daemon = setup.start();
        get(daemon.port(0), "/");
        let line = daemon.wait_line("access.log", "GET");
        assert!(line.contains(&format!(" {offset}]")), "{line}");
    }
}

#[test]
fn limits_and_priority_are_the_workers_and_not_the_master_s() {
    let daemon = setup("worker_rlimit_nofile 333;\nworker_rlimit_core 1m;\nworker_priority 3;").start();
    let nice = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let rest = stat[stat.rfind(')').expect("a name") + 1..].to_owned();
        rest.split_whitespace().nth(16).map(str::to_owned)
    };
    for worker in workers(&daemon) {
        assert_eq!(limit(worker, "Max open files"), "333 333");
        assert_eq!(nice(worker).as_deref(), Some("3"));
        assert_eq!(limit(worker, "Max core file size"), "1048576 1048576");
    }
    assert_ne!(limit(daemon.pid(), "Max open files"), "333 333");
    assert_eq!(nice(daemon.pid()).as_deref(), Some("0"));
}

fn cpus(daemon: &Daemon) -> Vec<String> {
    workers(daemon).into_iter().map(|worker| status(worker, "Cpus_allowed_list:")).collect()
}

fn has_two_cpus() -> bool {
    let is_so = status(std::process::id() as i32, "Cpus_allowed_list:").contains("0-")
        && std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
    if !is_so {
        eprintln!("skipped: this machine has no two processors to choose from");
    }
    is_so
}

#[test]
fn masks_bind_workers_to_processors() {
    if !has_two_cpus() {
        return;
    }
    assert_eq!(cpus(&setup("worker_cpu_affinity 10 01;").start()), ["1", "0"]);
    let both = status(std::process::id() as i32, "Cpus_allowed_list:");
    assert_eq!(cpus(&setup("").start()), [both.clone(), both]);
    let mut bound = cpus(&setup("worker_cpu_affinity auto;").start());
    bound.sort();
    assert_eq!(bound, ["0", "1"]);
    assert_eq!(cpus(&setup("worker_cpu_affinity auto 10;").start()), ["1", "1"]);
}

#[test]
fn auto_counts_and_uses_the_processors_that_are_allowed() {
    if is_stand_in() || !has_two_cpus() {
        return;
    }
    let daemon = setup("worker_cpu_affinity auto;").prelude("taskset -pc 1 $$ >/dev/null;").start();
    assert_eq!(cpus(&daemon), ["1", "1"]);
    assert_eq!(daemon.complaints("alert"), Vec::<String>::new());
    let conf = CONF.replace("worker_processes 2;", "worker_processes auto;");
    let auto = |prelude: &str| Setup::new(&conf).set("MORE", "").prelude(prelude).start();
    assert_eq!(auto("taskset -pc 1 $$ >/dev/null;").workers().len(), 1);
    let count = std::thread::available_parallelism().expect("Linux tells").get();
    assert_eq!(auto("").workers().len(), count);
}

#[test]
fn the_working_directory_is_the_workers() {
    let daemon = setup("working_directory %%HERE%%;").file("core/file", "");
    let here = daemon.folder().join("core");
    let daemon = daemon.set("HERE", here.display()).start();
    for worker in workers(&daemon) {
        assert_eq!(std::fs::read_link(format!("/proc/{worker}/cwd")).expect("it lives"), here);
    }
    let own = std::fs::read_link(format!("/proc/{}/cwd", daemon.pid())).expect("it lives");
    assert_eq!(own, daemon.folder());
}

fn let_everybody_in(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
}

#[test]
fn workers_run_as_the_user_and_group_that_are_named() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let nobody = User::from_name("nobody").ok().flatten().expect("there is nobody");
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    let daemon_gid = nix::unistd::Group::from_name("daemon").ok().flatten().expect("a group").gid.as_raw();
    for (line, gid) in [("user nobody;", gid), ("user nobody daemon;", daemon_gid)] {
        let setup = setup(line);
        let_everybody_in(setup.folder());
        let daemon = setup.start();
        for worker in workers(&daemon) {
            assert_eq!(status(worker, "Uid:"), format!("{uid} {uid} {uid} {uid}"));
            assert_eq!(status(worker, "Gid:"), format!("{gid} {gid} {gid} {gid}"));
            assert_eq!(status(worker, "Groups:"), gid.to_string());
            assert_eq!(status(worker, "CapEff:").trim_matches('0'), "", "no privilege is left");
        }
        assert_eq!(status(daemon.pid(), "Uid:"), "0 0 0 0");
    }
}

#[test]
fn reopened_logs_belong_to_the_workers_user() {
    let Some(nobody) = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root()) else {
        eprintln!("skipped: only root can become another user");
        return;
    };
    let setup = setup("user nobody;");
    let_everybody_in(setup.folder());
    let daemon = setup.start();
    let old = workers(&daemon);
    for name in ["access.log", "error.log"] {
        std::fs::rename(daemon.path(name), daemon.path(&format!("{name}.1"))).expect("it is there");
    }
    daemon.signal(Signal::SIGUSR1);
    wait_for("each worker to write to the new file", || {
        get(daemon.port(0), "/");
        let holds = |pid: i32| {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let links: Vec<_> = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
            ["access.log", "error.log"].iter().all(|name| links.contains(&daemon.path(name)))
        };
        old.iter().all(|&pid| holds(pid)).then_some(())
    });
    for name in ["access.log", "error.log"] {
        let meta = std::fs::metadata(daemon.path(name)).expect("it is there");
        assert_eq!(Uid::from_raw(meta.uid()), nobody.uid, "{name}");
    }
    assert_eq!(daemon.log_count("\\[emerg\\]"), 0, "{}", daemon.log());
}

#[test]
fn without_root_the_user_is_ignored_with_a_warning() {
    let setup = setup("user root;");
    let setup = if geteuid().is_root() {
        let nobody = User::from_name("nobody").ok().flatten().expect("there is nobody").uid;
        nix::unistd::chown(setup.folder(), Some(nobody), None).expect("root may");
        let words = format!("exec setpriv --reuid {nobody} --clear-groups \"$@\";");
        setup.prelude(&words)
    } else {
        setup
    };
    let daemon = setup.start();
    let text = daemon.read("stderr");
    assert!(text.contains("[warn]") && text.contains("\"user\" directive makes sense only"), "{text}");
    let own = status(daemon.pid(), "Uid:");
    assert!(!own.starts_with("0 "));
    workers(&daemon).into_iter().for_each(|worker| assert_eq!(status(worker, "Uid:"), own));
}

#[test]
fn titles_tell_master_and_generation_and_the_name_stays() {
    if is_stand_in() {
        return;
    }
    let long = format!("env LONG={};", "x".repeat(3000));
    for arguments in [&[][..], &["-g", &long]] {
        let daemon = setup("").arguments(arguments).start();
        let title = process::title(daemon.pid());
        assert!(title.starts_with("pronghorn: master process /"), "{title}");
        assert!(title.contains(" -c "), "{title}");
        assert_eq!(title.contains(&long), !arguments.is_empty(), "{title}");
        for generation in 1..4 {
            for worker in workers(&daemon) {
                let title = process::title(worker);
                let start = format!("pronghorn: worker process (generation {generation}, configuration ");
                assert!(title.starts_with(&start) && title.len() == start.len() + 9, "{title}");
            }
            for pid in [vec![daemon.pid()], daemon.workers()].concat() {
                let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives");
                assert_eq!(comm, "pronghorn\n");
            }
            daemon.reload();
        }
    }
}

#[test]
fn short_arguments_and_no_environment_leave_a_title_that_tells_the_process() {
    if is_stand_in() {
        return;
    }
    // The four words of argv are all the memory for the title.
    let daemon = setup("").prelude("exec env -i \"$@\";").start();
    assert!(process::title(daemon.pid()).starts_with("pronghorn: master process "));
    for worker in workers(&daemon) {
        assert!(
            process::title(worker).starts_with("pronghorn: worker process"),
            "{}",
            process::title(worker)
        );
    }
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
}

#[test]
fn a_variable_whose_name_is_none_does_not_end_the_start() {
    if is_stand_in() {
        return; // the same with nginx, which only looks at the variables it knows
    }
    // A shell cannot set such a name; env(1) can.
    let daemon = setup("env KEPT;").variable("KEPT", "yes").prelude("exec env =x=y \"$@\";").start();
    assert_eq!(get(daemon.port(0), "/").text(), "here\n");
    let worker = workers(&daemon)[0];
    let given = environment(worker).expect("it lives");
    assert!(
        given.contains(&"KEPT=yes".to_owned()) && !given.iter().any(|line| line.starts_with('=')),
        "{given:?}"
    );
}

#[test]
fn too_few_open_files_are_told_with_the_number_to_write() {
    if is_stand_in() {
        return;
    }
    let conf = "worker_rlimit_nofile 400;\nevents { worker_connections 4096; }\n\
                http { server { listen 127.0.0.1:%%PORT_0%%; return 200; } }";
    let daemon = Setup::new(conf).level("warn").start();
    let line = daemon.wait_log("worker_connections need");
    assert!(line.contains("4096 worker_connections need 5") && line.contains("may have 400"), "{line}");
    let tested = daemon.run(&["-t"]);
    let text = String::from_utf8_lossy(&tested.stderr).into_owned();
    assert!(tested.status.success() && text.contains("[warn] 4096 worker_connections need 5"), "{text}");
    let needed =
        text.split("\"worker_rlimit_nofile\" to ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let needed = needed.expect("the number").to_owned();
    // The number is enough, and not much more than that.
    daemon.rewrite(|text| text.replace("nofile 400", &format!("nofile {needed}")));
    let text = String::from_utf8_lossy(&daemon.run(&["-t"]).stderr).into_owned();
    assert!(!text.contains("need"), "{text}");
    let less = needed.parse::<u64>().expect("a number") - 10;
    daemon.rewrite(|text| text.replace(&format!("nofile {needed}"), &format!("nofile {less}")));
    let text = String::from_utf8_lossy(&daemon.run(&["-t"]).stderr).into_owned();
    assert!(text.contains("need"), "{text}");
}

/// The number after some words of a text.
fn number_after(text: &str, words: &str) -> u64 {
    let rest = text.split(words).nth(1).unwrap_or_else(|| panic!("{words}: {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{words}: {text}"))
}

#[test]
fn too_little_memory_is_told_with_the_number_to_write() {
    if is_stand_in() {
        return;
    }
    let conf = "worker_processes 2;\nworker_memory_budget 900000g;\n\
                http { server { listen 127.0.0.1:%%PORT_0%%; return 200; } }";
    let daemon = Setup::new(conf).level("warn").start();
    let line = daemon.wait_log("of memory, but there are only");
    assert!(line.contains("2 workers with 512 connections") && line.contains("to "), "{line}");
    let test = |words: &[&str]| {
        let tested = daemon.run(words);
        assert!(tested.status.success(), "a configuration is not worse for it: {tested:?}");
        String::from_utf8_lossy(&tested.stderr).into_owned() + &String::from_utf8_lossy(&tested.stdout)
    };
    let text = test(&["-t", "--strict"]);
    let enough = number_after(&text, "set \"worker_memory_budget\" to ");
    daemon.rewrite(|text| text.replace("900000g", &format!("{enough}m")));
    assert!(!test(&["-t"]).contains("memory"), "the number is enough");
    daemon.rewrite(|text| text.replace(&format!("{enough}m"), &format!("{}m", enough + 64)));
    assert!(test(&["-t"]).contains("[warn] 2 workers"), "and not much less than what there is");
    daemon.rewrite(|text| text.replace(&format!("{}m", enough + 64), "64m"));
    let text = test(&["-t", "--resources"]);
    assert!(
        text.contains("a worker may need ") && text.contains("worker_memory_budget of 64 MiB may need"),
        "{text}"
    );
    let json = test(&["-t", "--format=json"]);
    let (memory, limit) = (number_after(&json, "\"memory\":"), number_after(&json, "\"memory_limit\":"));
    assert!(((128 << 20)..limit).contains(&memory), "{json}");
    assert!(number_after(&json, "\"open_files\":") >= 512, "{json}");
}

#[test]
fn buffers_and_zones_are_part_of_the_memory_that_is_told() {
    if is_stand_in() {
        return;
    }
    let need = |main: &str, http: &str, server: &str| {
        let conf = format!(
            "worker_processes 4;\nworker_memory_budget 1m;\n{main}\nhttp {{ {http} server {{ listen 127.0.0.1:%%PORT_0%%; {server} \
             location / {{ proxy_pass http://127.0.0.1:9; }} }} }}"
        );
        let tested = Setup::new(&conf).run(&["-t", "--format=json"]);
        number_after(&String::from_utf8_lossy(&tested.stdout), "\"memory\":")
    };
    let least = need("", "", "");
    let connections = 4 * 512;
    let cases = [
        ("", "limit_req_zone $binary_remote_addr zone=a:64m rate=1r/s;", "", 64 << 20),
        ("", "keyval_zone zone=k:8m; keyval $uri $v zone=k;", "", 5 * (8 << 20)),
        ("", "", "client_body_buffer_size 272k;", connections * (256 << 10)),
        (
            "",
            "",
            "location /in { if ($arg_a) { proxy_pass http://127.0.0.1:9; } client_body_buffer_size 272k; }",
            connections * (256 << 10),
        ),
        ("", "", "proxy_buffers 16 64k;", connections * ((1 << 20) - (32 << 10)) / 2),
        ("events { worker_connections 1024; }", "", "", connections * (64 << 10)),
    ];
    for (main, http, server, more) in cases {
        let told = need(main, http, server) - least;
        assert!(
            told > more / 2 && told < more * 2 + (4 << 20),
            "{main}{http}{server}: {told}, not about {more}"
        );
    }
}
