//! The known bugs of the original script, by number: each has a test that names it, here or where it belongs.
//!
//! Elsewhere: 17, 18 and 23 (`pipeline.rs`: a failure at every step), 30 to 32 in full (`snap.rs`, `pull.rs`).
//! Not applicable: 11 (no `btrfs` program is run), 34 (no text is split by a shell).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use bocker_tests::{Image, Registry, Session};
use nix::sys::signal::Signal;

#[test]
fn bug_1_and_47_arguments_reach_the_command_as_they_were_given() {
    let s = Session::new();
    let words = [
        "a  b",
        "$HOME",
        "*",
        "",
        "it's",
        "\"q\"",
        "line\nbreak",
        "-n",
        "--",
    ];
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    let print = ["sh", "-c", "for w; do printf '<%s>' \"$w\"; done", "sh"];
    let argv = [&print[..], &words[..]].concat();
    assert_eq!(s.run(&["--rm"], &argv).text(), expected);
    assert_eq!(
        s.run(&["--rm"], &["sh", "-c", "echo 'a  b'"]).text(),
        "a  b\n"
    );
    s.sleeping("box");
    assert_eq!(
        s.bocker(&[&["exec", "box"], &argv[..]].concat()).text(),
        expected
    );
}

#[test]
fn bug_2_the_exit_status_is_the_commands() {
    let s = Session::new();
    s.run(&["--rm"], &["false"]).exits(1);
    s.run(&["--rm"], &["sh", "-c", "exit 42"]).exits(42);
    s.sleeping("box");
    s.bocker(&["kill", "-s", "KILL", "box"]).ok();
    let ended = || s.bocker(&["inspect", "box"]).json()[0]["bocker"]["exit"].clone();
    let exit = s.host.wait_for("the end is recorded", || {
        Some(ended()).filter(|exit| exit.is_object())
    });
    assert_eq!(
        (exit["code"].as_u64(), exit["signal"].as_u64()),
        (Some(137), Some(9)),
        "{exit}"
    );
    let oom = s.run(
        &["--rm", "--memory", "16m"],
        &["sh", "-c", "tail /dev/zero"],
    );
    assert_eq!(oom.code, 137, "{oom}");
    assert!(oom.stderr.contains("16"), "the limit is named: {oom}");
}

#[test]
fn bug_2_an_oom_kill_names_the_default_limit() {
    let s = Session::new();
    let oom = s.run(&["--rm"], &["tail", "/dev/zero"]).exits(137);
    assert!(oom.stderr.contains("limit 512 MB (default)"), "{oom}");
}

#[test]
fn bug_3_stdout_and_stderr_are_apart() {
    let s = Session::new();
    let output = s
        .run(&["--name", "box"], &["sh", "-c", "echo out; echo err >&2"])
        .ok();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
    let logs = s.bocker(&["logs", "box"]).ok();
    assert_eq!(
        (logs.stdout.as_str(), logs.stderr.as_str()),
        ("out\n", "err\n")
    );
}

#[test]
fn bug_4_and_5_missing_and_unknown_words_are_clear_errors() {
    let s = Session::new();
    for words in [
        &["frobnicate"][..],
        &["--no-such-flag"],
        &["run"],
        &["run", "--no-such-flag", "x"],
        &["exec"],
        &["rm"],
        &["logs"],
        &["commit", "x"],
        &["init"],
        &["init", "/no/such/directory"],
        &["--CPU_SHARE=", "run", "x", "true"],
    ] {
        let output = s.bocker(words);
        assert_eq!(output.code, 125, "{output}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{output}"
        );
        assert!(!output.stderr.contains("panicked"), "{output}");
    }
}

#[test]
fn bug_6_errors_are_never_on_stdout() {
    let s = Session::new();
    for words in [
        &["rm", "nothing"][..],
        &["logs", "nothing"],
        &["exec", "nothing", "true"],
        &["run", "img_zzzzzz", "true"],
    ] {
        let output = s.bocker(words);
        assert_ne!(output.code, 0, "{output}");
        assert_eq!(output.stdout, "", "{output}");
    }
}

#[test]
fn bug_7_the_error_says_what_was_looked_for() {
    let s = Session::new();
    s.bocker(&["rm", "img_zzzzzz"])
        .says("No image named 'img_zzzzzz' exists");
    s.bocker(&["rm", "ps_zzzzzz"])
        .says("No container named 'ps_zzzzzz' exists");
    s.bocker(&["exec", "ps_zzzzzz", "true"])
        .says("No container named 'ps_zzzzzz' exists");
    let id = s.run(&["--name", "done"], &["true"]).ok();
    drop(id);
    s.bocker(&["exec", "done", "true"])
        .says("Container 'done' exists but is not running");
}

#[test]
fn bug_7_an_image_without_a_command_says_so() {
    let s = Session::new();
    let image = s.image();
    let output = s.bocker(&["run", "--rm", &image]).exits(125);
    assert!(output.stderr.contains("command"), "{output}");
}

#[test]
fn bug_8_limits_are_numbers_and_never_expressions() {
    let s = Session::new();
    let witness = s.host.scratch().join("ran");
    let attack = format!("a[$(touch {})]", witness.display());
    for value in [attack.as_str(), "1+1", "=2", "1=2", "-1", "0x10", " 7", ""] {
        for variable in ["BOCKER_MEM_LIMIT", "BOCKER_CPU_SHARE"] {
            let output = s
                .host
                .call(&["bocker", "run", "--rm", "--rootfs", &s.rootfs, "true"])
                .env(variable, value)
                .run();
            assert_eq!(output.code, 125, "{variable}={value:?}: {output}");
            assert!(
                output.stderr.contains(variable) || output.stderr.contains(value.trim()),
                "{output}"
            );
        }
        let flag = format!("--MEM_LIMIT={value}");
        s.bocker(&[&flag, "run", "--rm", "--rootfs", &s.rootfs, "true"])
            .exits(125);
    }
    assert!(!witness.exists());
}

#[test]
fn bug_9_a_name_is_compared_and_never_matched() {
    let s = Session::new();
    let id = s.sleeping("box");
    for pattern in [
        ".", "b.x", "box.*", "..", "*", "sleep", "1000", "ps_.*", "level", "/",
    ] {
        s.bocker(&["rm", "-f", pattern])
            .exits(1)
            .says("No container named");
    }
    s.bocker(&["rm", "-f", ""]);
    s.bocker(&["exec", &id, "true"]).ok();
}

#[test]
fn bug_10_an_image_is_found_every_time_among_many() {
    let s = Session::new();
    let image = s.image();
    for number in 0..150 {
        s.bocker(&["tag", &image, &format!("many:{number}")]).ok();
    }
    for _ in 0..20 {
        s.bocker(&["run", "--rm", &image, "true"]).ok();
    }
}

#[test]
fn bug_12_images_and_containers_are_not_mistaken_for_each_other() {
    let s = Session::new();
    let image = s.image();
    let id = s.sleeping("box");
    s.bocker(&["run", "--rm", &id, "true"])
        .exits(125)
        .says("No image named");
    s.bocker(&["logs", &image])
        .exits(125)
        .says("No container named");
    s.bocker(&["commit", &image, &image])
        .exits(125)
        .says("No container named");
    s.bocker(&["exec", &image, "true"])
        .exits(125)
        .says("No container named");
}

#[test]
fn bug_13_14_15_and_16_no_two_containers_share_an_address_or_have_the_gateways() {
    let s = Session::new();
    let ids: Vec<String> = (0..8)
        .map(|number| s.sleeping(&format!("box{number}")))
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for id in &ids {
        let address = s
            .bocker(&["exec", id, "ip", "-4", "-o", "addr", "show", "eth0"])
            .text();
        let route = s.bocker(&["exec", id, "ip", "route"]).text();
        let gateway = route
            .split_whitespace()
            .nth(2)
            .unwrap_or_default()
            .to_owned();
        assert!(
            !address.contains(&format!(" {gateway}/")),
            "{address} {route}"
        );
        assert!(seen.insert(address));
        let mac = s
            .bocker(&["exec", id, "cat", "/sys/class/net/eth0/address"])
            .text();
        assert_eq!(
            mac.trim()
                .split(':')
                .filter(|octet| octet.len() == 2)
                .count(),
            6,
            "{mac}"
        );
    }
}

#[test]
fn bug_19_and_20_a_commit_that_cannot_be_leaves_the_image_as_it_was() {
    let s = Session::new();
    let image = s.image();
    s.run(&["--name", "box"], &["true"]).ok();
    let before = s.bocker(&["images", "--json"]).text();
    s.bocker(&["commit", "ps_zzzzzz", &image]).exits(125);
    let id = s.bocker(&["ps", "-q"]).text().trim().to_owned();
    s.bocker(&["commit", &id, &id]);
    assert_eq!(s.bocker(&["images", "--json"]).text(), before);
    s.bocker(&["logs", &id]).ok();
}

#[test]
fn bug_21_a_commit_can_make_a_new_image_without_our_files_in_it() {
    let s = Session::new();
    s.run(
        &["--name", "box"],
        &["sh", "-c", "echo new > /made; rm /etc/group"],
    )
    .ok();
    let made = s.bocker(&["commit", "box", "made:1"]).text();
    assert!(made.starts_with("Created: img_"), "{made}");
    let listing = s
        .bocker(&[
            "run",
            "--rm",
            "made:1",
            "sh",
            "-c",
            "cat /made; ls -a / /etc",
        ])
        .text();
    assert!(listing.starts_with("new\n"), "{listing}");
    assert!(
        !listing.contains("ps_") && !listing.contains("img.source") && !listing.contains("group"),
        "{listing}"
    );
}

#[test]
fn bug_22_init_of_a_missing_directory_says_so() {
    let s = Session::new();
    s.bocker(&["init", "/no/such/directory"])
        .exits(125)
        .says("No directory named '/no/such/directory' exists");
}

#[test]
fn bug_24_a_terminated_run_leaves_nothing() {
    let s = Session::new();
    s.bocker(&["system", "setup"]).ok();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let running = s.host.spawn(&[
            "bocker", "run", "--rm", "--rootfs", &s.rootfs, "sleep", "1000",
        ]);
        s.wait_until_running();
        running.signal(signal);
        running.wait().exits(128 + signal as i32);
        s.host.assert_same(&before);
    }
}

#[test]
fn bug_25_no_cgroup_outlives_its_container() {
    let s = Session::new();
    let groups = || s.host.sh("find /sys/fs/cgroup -type d -name 'ps_*'").text();
    s.run(&["--name", "box"], &["true"]).ok();
    assert_eq!(groups(), "", "none outlives the run");
    let id = s.sleeping("other");
    assert!(groups().contains(&id));
    s.bocker(&["rm", "-f", "other", "box"]).ok();
    assert_eq!(groups(), "");
}

#[test]
fn bug_26_a_running_container_is_not_removed_without_force() {
    let s = Session::new();
    let id = s.sleeping("box");
    s.bocker(&["rm", &id]).exits(2);
    assert_eq!(s.bocker(&["exec", &id, "echo", "alive"]).text(), "alive\n");
    assert_eq!(
        s.bocker(&["rm", "-f", &id]).text(),
        format!("Removed: {id}\n")
    );
}

#[test]
fn bug_27_and_28_init_keeps_dotfiles_owners_modes_times_and_hard_links() {
    let s = Session::new();
    let dir = std::path::Path::new(&s.rootfs);
    fs::write(dir.join(".hidden"), "dot").unwrap_or_else(|e| panic!("{e}"));
    fs::write(dir.join("suid"), "x").unwrap_or_else(|e| panic!("{e}"));
    std::os::unix::fs::chown(dir.join("suid"), Some(1000), Some(1001))
        .unwrap_or_else(|e| panic!("{e}"));
    fs::set_permissions(dir.join("suid"), fs::Permissions::from_mode(0o4755))
        .unwrap_or_else(|e| panic!("{e}"));
    fs::hard_link(dir.join("suid"), dir.join("suid-too")).unwrap_or_else(|e| panic!("{e}"));
    let time = fs::metadata(dir.join("suid"))
        .map(|data| data.mtime())
        .unwrap_or_default();
    let image = s.image();
    let seen = s
        .bocker(&[
            "run",
            "--rm",
            &image,
            "stat",
            "-c",
            "%n %a %u:%g %h %Y",
            "/suid",
            "/suid-too",
            "/.hidden",
        ])
        .text();
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], format!("/suid 4755 1000:1001 2 {time}"));
    assert!(
        lines[1].starts_with("/suid-too 4755 1000:1001 2 "),
        "{seen}"
    );
    assert!(lines[2].starts_with("/.hidden 644 0:0 1 "), "{seen}");

    let empty = s.host.scratch().join("empty");
    fs::create_dir(&empty).unwrap_or_else(|e| panic!("{e}"));
    let made = s.bocker(&["init", &empty.display().to_string()]).text();
    assert!(made.starts_with("Created: img_"), "{made}");
    s.bocker(&["images"]).ok();
}

#[test]
fn bug_29_to_33_layers_are_applied_in_order_with_whiteouts_through_links_and_shared() {
    let s = Session::new();
    let registry = Registry::start(&s.host);
    let reference = registry.push(&Image::full(), "full:1");
    s.bocker(&["pull", &reference]).ok();
    let script = "cat /order /usr/lib/through-link; ls /opt/opaque /etc/removed /opt/gone 2>&1; cat /becomes-dir/inside; stat -c %h /data/linked-across";
    let output = s
        .bocker(&["run", "--rm", "-u", "root", &reference, "sh", "-c", script])
        .ok();
    assert!(!output.stdout.contains("the first layer"), "{output}");
    assert!(output.stdout.contains("in /usr/lib\n"), "{output}");
    assert!(
        output.stdout.contains("/etc/removed: No such file")
            && output.stdout.contains("/opt/gone: No such file"),
        "{output}"
    );
    assert!(
        !output.stdout.contains("\none\n") && output.stdout.contains("three\n"),
        "{output}"
    );
}

#[test]
fn bug_35_links_in_the_image_never_lead_to_the_hosts_files() {
    let s = Session::new();
    let registry = Registry::start(&s.host);
    let trap = s.host.scratch().join("trap");
    for dir in ["dev", "proc", "sys"] {
        fs::create_dir_all(trap.join(dir)).unwrap_or_else(|e| panic!("{e}"));
    }
    for file in ["resolv.conf", "hosts", "hostname", "mtab"] {
        fs::write(trap.join(file), "of the host\n").unwrap_or_else(|e| panic!("{e}"));
    }
    let reference = registry.push(&Image::links_to_the_host(&trap), "links:1");
    let output = s.bocker(&[
        "run",
        "--rm",
        &reference,
        "sh",
        "-c",
        "echo x > /etc/resolv.conf; echo ran",
    ]);
    eprintln!("{output}");
    let listing = |dir: &str| {
        fs::read_dir(trap.join(dir))
            .map(Iterator::count)
            .unwrap_or(99)
    };
    assert_eq!((listing("dev"), listing("proc"), listing("sys")), (0, 0, 0));
    for file in ["resolv.conf", "hosts", "hostname", "mtab"] {
        assert_eq!(
            fs::read_to_string(trap.join(file)).unwrap_or_default(),
            "of the host\n",
            "{file}"
        );
    }
}

#[test]
fn bug_36_logs_never_follow_what_the_container_planted() {
    let s = Session::new();
    let secret = s.host.scratch().join("secret");
    fs::write(&secret, "of the host\n").unwrap_or_else(|e| panic!("{e}"));
    let plant = format!(
        "for n in log ps.log config.json status; do ln -sf {} /$n; done; echo said",
        secret.display()
    );
    s.run(&["--name", "box"], &["sh", "-c", &plant]).ok();
    assert_eq!(s.bocker(&["logs", "box"]).text(), "said\n");
}

#[test]
fn bug_37_the_container_has_dockers_capabilities_and_cannot_mount() {
    let s = Session::new();
    let status = s
        .run(
            &["--rm"],
            &["grep", "-E", "Cap|NoNewPrivs", "/proc/self/status"],
        )
        .text();
    // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_ne!(
        s.run(&["--rm"], &["mount", "-t", "tmpfs", "none", "/tmp"])
            .code,
        0
    );
    // pivot_root, not chroot: the classic way out of a chroot ends in the container's own root.
    let out = s.run(&["--rm"], &["sh", "-c", "mkdir -p /tmp/x; chroot /tmp/x /bin/true 2>/dev/null; cd ../../../../..; ls / | head -3"]).ok();
    assert!(out.stdout.contains("bin"), "{out}");
}

#[test]
fn bug_38_there_is_a_proper_dev_sys_and_proc() {
    let s = Session::new();
    let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c && test -c /dev/null && test -c /dev/full && test -c /dev/random && test -c /dev/urandom && test -c /dev/tty && test -d /dev/pts && test -d /dev/shm && test -L /dev/ptmx && test -L /dev/fd && test -d /sys/class && test -d /proc/1 && echo all";
    assert_eq!(s.run(&["--rm"], &["sh", "-c", script]).text(), "3\nall\n");
}

#[test]
fn bug_39_nothing_of_the_hosts_environment_or_name_gets_in() {
    let s = Session::new();
    let output = s
        .host
        .call(&[
            "bocker",
            "run",
            "--rm",
            "--rootfs",
            &s.rootfs,
            "sh",
            "-c",
            "env; hostname",
        ])
        .env("SECRET", "hostsecret")
        .run()
        .text();
    assert!(
        !output.contains("hostsecret") && !output.contains("BOCKER"),
        "{output}"
    );
    assert!(
        output
            .lines()
            .last()
            .is_some_and(|name| name.starts_with("ps_")),
        "{output}"
    );
}

#[test]
fn bug_40_an_image_with_nothing_but_one_program_runs() {
    let s = Session::new();
    let scratch = s.host.scratch().join("only-one");
    fs::create_dir(&scratch).unwrap_or_else(|e| panic!("{e}"));
    fs::copy("/bin/busybox", scratch.join("busybox")).unwrap_or_else(|e| panic!("{e}"));
    let made = s.bocker(&["init", &scratch.display().to_string()]).text();
    let image = made.trim().trim_start_matches("Created: ");
    assert_eq!(
        s.bocker(&["run", "--rm", image, "/busybox", "echo", "alone"])
            .text(),
        "alone\n"
    );
}

#[test]
fn bug_41_the_images_configuration_is_used() {
    let s = Session::new();
    let registry = Registry::start(&s.host);
    let reference = registry.push(&Image::full(), "full:1");
    assert_eq!(
        s.bocker(&["run", "--rm", &reference]).ok().stdout,
        "hello from the image\n"
    );
    let output = s
        .bocker(&[
            "run",
            "--rm",
            &reference,
            "sh",
            "-c",
            "echo $FIXTURE; pwd; id -un",
        ])
        .text();
    assert_eq!(output, "from the image\n/data\napp\n");
}

#[test]
fn bug_42_there_is_a_limit_on_pids_and_memory_does_not_leak_to_swap() {
    let s = Session::new();
    let look = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let output = s
        .run(
            &["--rm", "--pids-limit", "64", "--memory", "64m"],
            &["sh", "-c", look],
        )
        .text();
    assert_eq!(output, "64\n67108864\n");
    assert_eq!(
        s.run(&["--rm"], &["cat", "/sys/fs/cgroup/pids/pids.max"])
            .text(),
        "2048\n"
    );
}

#[test]
fn bug_43_44_and_45_exec_finds_the_container_by_its_own_record_whatever_pids_look_like() {
    let s = Session::new();
    // Started without any terminal, and two with one command line.
    let first = s.sleeping("first");
    let second = s.sleeping("second");
    for id in [&first, &second] {
        assert_eq!(
            s.bocker(&["exec", id, "hostname"]).text().trim(),
            id.as_str()
        );
    }
}

#[test]
fn bug_46_exec_is_in_the_cgroup_with_the_environment_and_privileges_of_the_container() {
    let s = Session::new();
    s.run(
        &["-d", "--name", "box", "-e", "GIVEN=yes"],
        &["sleep", "1000"],
    )
    .ok();
    let look = "echo $GIVEN; cat /proc/self/cgroup; grep -E 'Cap|NoNew' /proc/self/status; readlink /proc/self/ns/pid; readlink /proc/1/ns/pid";
    let output = s.bocker(&["exec", "box", "sh", "-c", look]).text();
    assert!(output.starts_with("yes\n"), "{output}");
    assert!(
        output.contains("/ps_")
            && output.contains("CapEff:\t00000000a80425fb")
            && output.contains("NoNewPrivs:\t1"),
        "{output}"
    );
    let namespaces: Vec<&str> = output
        .lines()
        .filter(|line| line.starts_with("pid:["))
        .collect();
    assert_eq!(namespaces[0], namespaces[1]);
}

#[test]
fn bug_48_ps_knows_state_exit_code_image_and_time() {
    let s = Session::new();
    s.sleeping("alive");
    s.run(&["--name", "over"], &["sh", "-c", "exit 3"]).exits(3);
    let lines = s.bocker(&["ps", "--json"]).ok().json_lines();
    let find = |name: &str| {
        lines
            .iter()
            .find(|line| line["name"] == name)
            .unwrap_or_else(|| panic!("{lines:?}"))
    };
    assert_eq!(find("alive")["state"], "running");
    assert_eq!(find("over")["state"], "exited");
    assert_eq!(find("over")["exit"]["code"], 3);
    assert!(find("over")["exit"]["finished"].is_string());
    s.bocker(&["stop", "-t", "1", "alive"]).ok();
    s.bocker(&["inspect", "alive"]).ok();
}

#[test]
fn bug_49_nothing_of_the_users_is_flushed_or_removed() {
    let s = Session::new();
    s.host.run(&["nft", "add", "table", "ip", "mine"]).ok();
    s.host
        .run(&[
            "nft",
            "add",
            "chain",
            "ip",
            "mine",
            "input",
            "{ type filter hook input priority 0; }",
        ])
        .ok();
    s.host
        .run(&[
            "nft", "add", "rule", "ip", "mine", "input", "tcp", "dport", "1234", "drop",
        ])
        .ok();
    s.host
        .run(&["ip", "link", "add", "users0", "type", "bridge"])
        .ok();
    s.host.run(&["ip", "netns", "add", "users"]).ok();
    let before = s.host.fingerprint();
    s.run(&["--rm", "-p", "8080:80"], &["true"]).ok();
    s.sleeping("box");
    s.bocker(&["system", "reset", "--force"]);
    s.bocker(&["rm", "-f", "box"]);
    s.bocker(&["system", "reset", "--force"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn bug_50_there_are_hosts_resolv_conf_volumes_and_ports() {
    let s = Session::new();
    let shared = s.host.scratch().join("shared");
    fs::create_dir(&shared).unwrap_or_else(|e| panic!("{e}"));
    let volume = format!("{}:/shared", shared.display());
    let output = s.run(&["--rm", "-v", &volume, "-h", "name"], &["sh", "-c", "echo from-inside > /shared/file; grep name /etc/hosts | wc -l; cat /etc/hostname; test -s /etc/resolv.conf && echo resolv"]).text();
    assert_eq!(output, "1\nname\nresolv\n");
    assert_eq!(
        fs::read_to_string(shared.join("file")).unwrap_or_default(),
        "from-inside\n"
    );
    s.run(
        &["-d", "--name", "web", "-p", "8080:80"],
        &["sh", "-c", "while :; do echo served | nc -l -p 80; done"],
    )
    .ok();
    let answer = s.host.wait_for("the published port answers", || {
        let output = s
            .host
            .sh("nc -w 2 127.0.0.1 8080 </dev/null || busybox nc -w 2 127.0.0.1 8080 </dev/null");
        output.stdout.contains("served").then_some(output.stdout)
    });
    assert_eq!(answer, "served\n");
}
