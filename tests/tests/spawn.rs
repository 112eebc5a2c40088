//! bocker-spawn on the kernel: what a container is and is not, what a hostile image gets, and how it all ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bocker_tests::{Host, Output, Running, need};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Docker's capabilities without MKNOD, which only a device allow-list gives back.
const CAPABILITIES: &str = "00000000a00425fb";

fn root(host: &Host) -> PathBuf {
    // Shared by all containers, and kept.
    fs::create_dir_all(host.root().join("containers")).expect("a folder");
    let root = host.busybox_rootfs("rootfs");
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/tmp:/bin/sh\n",
    )
    .expect("passwd");
    root
}

fn document(root: &Path) -> Value {
    json!({"bocker": {"version": 1}, "root": {"path": root}})
}

/// `bocker-spawn VERB WORDS` with a document on stdin. The container's output comes out of stderr, the document of stdout.
fn call(host: &Host, document: &Value, words: &[&str]) -> bocker_tests::Running {
    let argv: Vec<&str> = ["bocker-spawn"].iter().chain(words).copied().collect();
    host.call(&argv).stdin(document.to_string()).spawn()
}

fn run(host: &Host, document: &Value, words: &[&str]) -> Output {
    let words: Vec<&str> = ["run"].iter().chain(words).copied().collect();
    call(host, document, &words).wait()
}

/// What a script prints in a container.
fn sh(host: &Host, document: &Value, script: &str) -> String {
    run(host, document, &["--", "sh", "-c", script])
        .exits(0)
        .stderr
}

/// A container that runs beside the test, and its document.
fn detached(host: &Host, document: &Value, words: &[&str]) -> Value {
    let words: Vec<&str> = ["--detach"].iter().chain(words).copied().collect();
    run(host, document, &words).ok().json()
}

fn id(document: &Value) -> &str {
    document["bocker"]["id"].as_str().expect("an id")
}

fn pid(document: &Value) -> i32 {
    let pid = document["bocker"]["spawn"]["pid"].as_i64().expect("a pid");
    pid.try_into().expect("a pid")
}

fn state(host: &Host, id: &str) -> Value {
    host.run(&["bocker-spawn", "state", id]).ok().json()
}

fn wait_for_state(host: &Host, id: &str, wanted: &str) -> Value {
    host.wait_for(wanted, || {
        let state = state(host, id);
        (state["status"] == wanted).then_some(state)
    })
}

fn exec(host: &Host, words: &[&str]) -> Output {
    let argv: Vec<&str> = ["bocker-spawn", "exec"]
        .iter()
        .chain(words)
        .copied()
        .collect();
    host.run(&argv)
}

fn kill(host: &Host, id: &str) {
    host.run(&["bocker-spawn", "kill", id]).ok();
    wait_for_state(host, id, "exited");
    host.run(&["bocker-spawn", "gc"]).ok();
}

#[test]
fn a_container_has_its_own_view_of_everything_and_leaves_nothing() {
    let host = Host::new();
    let document = document(&root(&host));
    let before = host.fingerprint();
    let output = run(
        &host,
        &document,
        &[
            "--",
            "sh",
            "-c",
            "echo $$; hostname; ls /; ip -o link | wc -l; ps | wc -l; tty; echo x > /dev/tty",
        ],
    );
    let document = output.json();
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines[0], "1");
    assert_eq!(lines[1], id(&document));
    assert!(
        !lines.contains(&"work") && lines.contains(&"bin"),
        "{lines:?}"
    );
    assert!(output.stderr.contains("not a tty"), "{}", output.stderr);
    assert!(
        output.stderr.contains("can't create /dev/tty"),
        "{}",
        output.stderr
    );
    host.assert_same(&before);
}

#[test]
fn the_environment_is_the_images_and_nothing_of_the_callers() {
    let host = Host::new();
    let mut document = document(&root(&host));
    document["bocker"]["image"] = json!({"config": {"Env": ["A=image", "B=image"], "User": "web", "WorkingDir": "/made/here", "Cmd": ["env"]}});
    let output = host
        .call(&[
            "bocker-spawn",
            "run",
            "-e",
            "A=option",
            "-e",
            "CALLER",
            "-e",
            "ABSENT",
        ])
        .env("SECRET", "x")
        .env("CALLER", "y")
        .stdin(document.to_string())
        .run()
        .exits(0);
    let mut lines: Vec<&str> = output.stderr.lines().collect();
    lines.sort_unstable();
    let hostname = format!("HOSTNAME={}", id(&output.json()));
    assert_eq!(
        lines,
        [
            "A=option",
            "B=image",
            "CALLER=y",
            "HOME=/tmp",
            &hostname,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ]
    );
    let output = run(&host, &document, &["--", "sh", "-c", "pwd; id -u; id -G"]).exits(0);
    assert_eq!(output.stderr, "/made/here\n33\n33\n");
}

#[test]
fn words_reach_the_command_as_they_are() {
    let host = Host::new();
    let document = document(&root(&host));
    let output = run(
        &host,
        &document,
        &[
            "--", "printf", "[%s]", "a  b", "", "*", "$HOME", "-v", "--", "ü\n",
        ],
    );
    assert_eq!(output.stderr, "[a  b][][*][$HOME][-v][--][ü\n]");
}

#[test]
fn the_exit_status_is_the_commands_own() {
    let host = Host::new();
    let root = root(&host);
    let script = |name: &str, text: &str, mode: u32| {
        let path = root.join("bin").join(name);
        fs::write(&path, text).expect("a script");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    script("no-interpreter", "#!/nowhere/sh\n", 0o755);
    script("no-format", "just text\n", 0o755);
    script("no-permission", "#!/bin/sh\n", 0o644);
    let document = document(&root);
    let before = host.fingerprint();
    for (words, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "exit 255"], 255),
        (&["nowhere"], 127),
        (&["/nowhere"], 127),
        (&["no-interpreter"], 127),
        (&["no-format"], 126),
        (&["no-permission"], 126),
        (&["/etc"], 126),
        (&["/etc/passwd"], 126),
    ] {
        let words: Vec<&str> = ["--"].iter().chain(words).copied().collect();
        let output = run(&host, &document, &words).exits(code);
        let bocker = &output.json()["bocker"];
        if code == 126 || code == 127 {
            assert_eq!(bocker["error"]["code"], code, "{words:?}");
            assert!(bocker.get("exit").is_none(), "{bocker}");
        } else {
            assert_eq!(bocker["exit"]["code"], code, "{words:?}");
            assert_eq!(bocker["state"], "exited");
        }
    }
    host.assert_same(&before);
}

#[test]
fn a_document_with_an_error_passes_untouched() {
    let host = Host::new();
    let mut document = document(&root(&host));
    document["ociVersion"] = "1.0.2".into();
    document["bocker"]["error"] = json!({"stage": "net", "code": 125, "message": "no"});
    let output = run(&host, &document, &["--", "true"]).exits(125);
    assert_eq!(output.json(), document);
}

#[test]
fn the_streams_are_three_and_apart() {
    let host = Host::new();
    let root = root(&host);
    fs::write(host.scratch().join("doc"), document(&root).to_string()).expect("a document");
    let output = host
        .call(&["sh", "-c", "cd \"$0\" && bocker-spawn run --stdin 3 --stdout 4 --stderr 5 -- sh -c 'cat; echo err >&2' <doc 3<&0 3<in 4>out 5>err >finished"])
        .run();
    assert_eq!(output.code, 2, "sh cannot open in: {}", output.stderr);
    fs::write(host.scratch().join("in"), "given").expect("input");
    host.sh(&format!(
        "cd {} && bocker-spawn run --stdin 3 --stdout 4 --stderr 5 -- sh -c 'cat; echo err >&2' <doc 3<in 4>out 5>err >finished",
        host.scratch().display()
    ))
    .ok();
    let read = |name: &str| fs::read_to_string(host.scratch().join(name)).expect(name);
    assert_eq!(read("out"), "given");
    assert_eq!(read("err"), "err\n");
    let finished: Value = serde_json::from_str(&read("finished")).expect("the document");
    assert_eq!(finished["bocker"]["exit"]["code"], 0);
}

#[test]
fn a_large_stream_arrives_whole() {
    let host = Host::new();
    let root = root(&host);
    fs::write(host.scratch().join("doc"), document(&root).to_string()).expect("a document");
    let output = host.sh(&format!(
        "cd {} && dd if=/dev/urandom of=in bs=1M count=20 2>/dev/null && \
         {{ bocker-spawn run --stdin 3 --stdout 4 -- cat <doc 3<in 4>&1 >finished; }} | cmp - in && echo same",
        host.scratch().display()
    ));
    assert_eq!(output.text(), "same\n");
}

#[test]
fn a_reader_that_goes_ends_a_writer_that_does_not_stop() {
    let host = Host::new();
    let root = root(&host);
    fs::write(host.scratch().join("doc"), document(&root).to_string()).expect("a document");
    let output = host.sh(&format!(
        "cd {} && {{ bocker-spawn run --stdout 4 -- yes <doc 4>&1 >finished 2>/dev/null; }} | head -n 1",
        host.scratch().display()
    ));
    assert_eq!(output.text(), "y\n");
}

#[test]
fn a_container_has_dockers_privileges_and_no_more() {
    let host = Host::new();
    let document = document(&root(&host));
    let status = "grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status | tr -d '\\t '";
    let expected = format!(
        "Groups:0\nCapInh:0000000000000000\nCapPrm:{CAPABILITIES}\nCapEff:{CAPABILITIES}\nCapBnd:{CAPABILITIES}\nCapAmb:0000000000000000\nNoNewPrivs:1\n"
    );
    assert_eq!(sh(&host, &document, status), expected);

    let running = detached(&host, &document, &["--", "sleep", "1000"]);
    assert_eq!(
        exec(&host, &[id(&running), "sh", "-c", status]).text(),
        expected
    );
    let web = exec(&host, &["-u", "web", id(&running), "sh", "-c", status]).text();
    assert!(web.contains("CapEff:0000000000000000"), "{web}");
    assert!(web.contains(&format!("CapBnd:{CAPABILITIES}")), "{web}");
    kill(&host, id(&running));
}

#[test]
fn device_nodes_are_useless_where_no_allow_list_guards() {
    let host = Host::new();
    let document = document(&root(&host));
    let script = "mknod /tmp/null c 1 3 2>&1; ls /dev | tr '\\n' ' '; echo; mount | grep ' / ' | grep -c nodev";
    let output = sh(&host, &document, script);
    assert!(output.contains("Operation not permitted"), "{output}");
    assert!(
        output.contains(
            "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
        ),
        "{output}"
    );
    assert!(output.ends_with("\n1\n"), "{output}");
}

#[test]
fn what_tells_about_the_host_is_masked_or_read_only() {
    let host = Host::new();
    let document = document(&root(&host));
    let script = "cat /proc/keys /proc/timer_list /proc/interrupts | wc -c; ls /sys/firmware | wc -l; \
        for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/ksm/run; do echo 1 > $f || echo no; done 2>/dev/null";
    assert_eq!(sh(&host, &document, script), "0\n0\nno\nno\nno\n");
}

#[test]
fn a_read_only_root_is_one_and_its_volumes_are_not() {
    let host = Host::new();
    let mut document = document(&root(&host));
    let volume = host.scratch().join("volume");
    fs::create_dir(&volume).expect("a volume");
    document["mounts"] = json!([{"destination": "/new/data", "type": "bind", "source": volume, "options": ["rbind"]}]);
    let script = "touch /x 2>/dev/null || echo no; touch /new/data/x && echo yes; touch /dev/shm/x && echo yes; grep -c 'data.*nodev' /proc/self/mounts";
    let output = run(&host, &document, &["--read-only", "--", "sh", "-c", script]).exits(0);
    assert_eq!(output.stderr, "no\nyes\nyes\n1\n");
    assert!(volume.join("x").exists());
}

#[test]
fn no_descriptor_of_the_host_reaches_a_container() {
    let host = Host::new();
    let root = root(&host);
    fs::write(host.scratch().join("doc"), document(&root).to_string()).expect("a document");
    // CVE-2024-21626: runc leaked one of the host's cgroup directory.
    let output = host.sh(&format!(
        "exec 9</ 8</etc/passwd; bocker-spawn run -- sh -c 'ls /proc/self/fd' <{}/doc >/dev/null",
        host.scratch().display()
    ));
    // 3 is the folder that ls itself reads.
    assert_eq!(output.ok().stderr, "0\n1\n2\n3\n");
    let running = host
        .sh(&format!(
            "exec 9</ 8</etc/passwd; bocker-spawn run --detach -- sleep 1000 <{}/doc",
            host.scratch().display()
        ))
        .ok()
        .json();
    let listed = host.sh(&format!(
        "exec 9</; bocker-spawn exec {} ls /proc/self/fd",
        id(&running)
    ));
    assert_eq!(listed.text(), "0\n1\n2\n3\n");
    kill(&host, id(&running));
}

#[test]
fn what_stays_with_a_container_holds_nothing_open_that_its_caller_had() {
    let host = Host::new();
    let document = host.file("doc", &document(&root(&host)).to_string());
    let locked = host.file("lock", "");
    let hold = format!("exec 9<{locked}; flock 9");
    let line = format!("{hold}; bocker-spawn run --detach -- sleep 1000 <{document}");
    let running = host.sh(&line).ok().json();
    let is_free = || host.sh(&format!("flock --nonblock {locked} true"));
    is_free().ok();
    let line = format!("{hold}; bocker-spawn exec -d {} sleep 1000", id(&running));
    host.sh(&line).ok();
    is_free().ok();
    kill(&host, id(&running));
}

#[test]
fn no_working_directory_leads_out_through_a_descriptor() {
    let host = Host::new();
    let document = document(&root(&host));
    for number in 3..=20 {
        let path = format!("/proc/self/fd/{number}");
        run(&host, &document, &["-w", &path, "--", "pwd"]).exits(125);
    }
    run(&host, &document, &["-w", "/proc/1/root", "--", "pwd"]).exits(125);
    let running = detached(&host, &document, &["--", "sleep", "1000"]);
    for number in 3..=20 {
        let path = format!("/proc/self/fd/{number}");
        exec(&host, &["-w", &path, id(&running), "pwd"]).exits(125);
    }
    kill(&host, id(&running));
    let output = run(&host, &document, &["-w", "/../../..", "--", "ls"]).exits(0);
    assert!(
        output.stderr.contains("bin") && !output.stderr.contains("work"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_link_in_place_of_a_kernel_mount_point_is_refused_and_nothing_is_made_behind_it() {
    let host = Host::new();
    // CVE-2019-16884, CVE-2019-19921, CVE-2026-41579, CVE-2026-47766.
    for name in ["dev", "proc", "sys"] {
        let root = host.busybox_rootfs(&format!("root-{name}"));
        let outside = host.scratch().join(format!("outside-{name}"));
        fs::create_dir(&outside).expect("a folder of the host");
        for target in [outside.to_str().expect("a path"), "bin"] {
            _ = fs::remove_file(root.join(name));
            _ = fs::remove_dir(root.join(name));
            symlink(target, root.join(name)).expect("a planted link");
            run(&host, &document(&root), &["--", "true"])
                .exits(125)
                .says("symbolic link");
        }
        assert_eq!(
            fs::read_dir(&outside).expect("the folder").count(),
            0,
            "{name}"
        );
    }
}

#[test]
fn a_volume_behind_a_planted_link_stays_in_the_container() {
    let host = Host::new();
    let root = root(&host);
    let outside = host.scratch().join("outside");
    fs::create_dir(&outside).expect("a folder of the host");
    symlink(&outside, root.join("absolute")).expect("a link");
    symlink(
        "../../../../../../../../../../../../etc",
        root.join("upwards"),
    )
    .expect("a link");
    symlink("../run/resolve/stub.conf", root.join("etc/resolv.conf")).expect("a link");
    let file = host.scratch().join("file");
    fs::write(&file, "given\n").expect("a file");
    let bind = |destination: &str| json!({"destination": destination, "type": "bind", "source": file, "options": ["bind", "ro"]});
    let mut document = document(&root);
    document["mounts"] = json!([
        bind("/absolute/new"),
        bind("/upwards/planted"),
        bind("/etc/resolv.conf")
    ]);
    let output = sh(
        &host,
        &document,
        "cat /absolute/new /etc/planted /etc/resolv.conf /run/resolve/stub.conf",
    );
    assert_eq!(output, "given\n".repeat(4));
    assert_eq!(fs::read_dir(&outside).expect("the folder").count(), 0);
    assert!(!Path::new("/etc/planted").exists());
}

#[test]
fn a_target_that_is_swapped_for_a_link_meanwhile_leads_nowhere() {
    let host = Host::new();
    // CVE-2021-30465, CVE-2024-45310: another container changes a volume that both have.
    let root = root(&host);
    let (volume, outside) = (
        host.scratch().join("volume"),
        host.scratch().join("outside"),
    );
    for folder in [&volume, &outside, &volume.join("a")] {
        fs::create_dir(folder).expect("a folder");
    }
    // In the container it points at a folder that is there too, so that both ways can be walked.
    symlink(&outside, volume.join("b")).expect("a link");
    fs::create_dir_all(root.join(outside.strip_prefix("/").expect("absolute"))).expect("a folder");
    let file = host.scratch().join("file");
    fs::write(&file, "given\n").expect("a file");
    let mut document = document(&root);
    document["mounts"] = json!([
        {"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]},
        {"destination": "/volume/a/new/file", "type": "bind", "source": file, "options": ["bind"]},
    ]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (volume.join("a"), volume.join("b"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &b, flags)
                    .expect("the exchange");
            }
        });
        for _ in 0..100 {
            // Whether it starts depends on the moment; what it leaves does not.
            run(&host, &document, &["--", "true"]);
            _ = fs::remove_dir_all(volume.join("a/new"));
            assert_eq!(fs::read_dir(&outside).expect("the folder").count(), 0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    assert!(
        !mounts.contains("outside") && !mounts.contains("/new/file"),
        "{mounts}"
    );
}

#[test]
fn a_planted_null_device_is_not_what_masks() {
    let host = Host::new();
    // CVE-2025-31133.
    let root = root(&host);
    let target = host.scratch().join("target");
    fs::write(&target, "of the host\n").expect("a file");
    symlink(&target, root.join("dev/null")).expect("a planted link");
    let output = sh(
        &host,
        &document(&root),
        "cat /proc/keys; echo x > /proc/keys; echo x > /dev/null; cat /dev/null",
    );
    assert_eq!(output, "");
    assert_eq!(
        fs::read_to_string(target).expect("the file"),
        "of the host\n"
    );
}

#[test]
fn a_passwd_that_is_no_file_neither_blocks_nor_fills_memory() {
    let host = Host::new();
    // CVE-2024-9676, CVE-2026-47262.
    let root = host.busybox_rootfs("rootfs");
    let passwd = root.join("etc/passwd");
    type Plant<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let plant: [Plant; 3] = [
        (
            "a FIFO",
            Box::new(|| {
                nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRUSR).expect("mkfifo")
            }),
        ),
        (
            "a link to a device",
            Box::new(|| symlink("/dev/zero", &passwd).expect("a link")),
        ),
        (
            "a huge file",
            Box::new(|| {
                fs::File::create(&passwd)
                    .expect("a file")
                    .set_len(2 << 30)
                    .expect("its length");
            }),
        ),
    ];
    for (what, plant) in plant {
        fs::remove_file(&passwd).expect("the former");
        plant();
        let words = |user| ["run", "-u", user, "--", "grep", "Uid", "/proc/self/status"];
        let named = host
            .call(&[&["bocker-spawn"][..], &words("web")[..]].concat())
            .stdin(document(&root).to_string())
            .timeout(Duration::from_secs(20))
            .run();
        assert_eq!(named.code, 125, "{what}: {}", named.stderr);
        let numbered = call(&host, &document(&root), &words("7")).wait().exits(0);
        assert_eq!(numbered.stderr, "Uid:\t7\t7\t7\t7\n", "{what}");
    }
}

#[test]
fn no_number_of_a_user_wraps_around_to_root() {
    let host = Host::new();
    // CVE-2024-40635, CVE-2026-30892.
    let document = document(&root(&host));
    for user in [
        "4294967296",
        "4294967296:0",
        "2147483648",
        "0:4294967296",
        "-1",
        "+1",
        "1x",
    ] {
        run(&host, &document, &["-u", user, "--", "id"]).exits(125);
    }
    let running = detached(&host, &document, &["--", "sleep", "1000"]);
    for user in ["4294967296", "2147483648", "-1", "1x"] {
        exec(&host, &["-u", user, id(&running), "id"]).exits(125);
    }
    kill(&host, id(&running));
}

#[test]
fn what_an_image_says_beside_the_six_keys_changes_nothing() {
    let host = Host::new();
    // CVE-2026-53488.
    let root = root(&host);
    let spec = |config: Value| {
        let mut document = document(&root);
        document["bocker"]["image"] = json!({"config": config});
        let mut spec = call(&host, &document, &["spec"]).wait().ok().json();
        spec["bocker"]
            .as_object_mut()
            .expect("the member")
            .remove("image");
        spec
    };
    let plain = spec(json!({"Cmd": ["true"]}));
    let loud = spec(
        json!({"Cmd": ["true"], "Labels": {"io.bocker.id": "ps_evil00", "bocker.cg": "x", "org.opencontainers.image.stopSignal": "KILL",
        "run.oci.hooks.stderr": "/x", "org.systemd.property.ExecStart": "x", "io.podman.annotations.privileged": "TRUE"},
        "annotations": {"a": "b"}, "mounts": [{"destination": "/x"}], "linux": {"maskedPaths": []}, "hooks": {"prestart": [{"path": "/x"}]},
        "process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}, "bocker": {"spawn": {"pid": 1}}, "Volumes": {"/proc": {}}}),
    );
    assert_eq!(plain, loud);
    assert!(plain.get("annotations").is_none());
}

#[test]
fn a_container_cannot_reach_this_programs_file() {
    let host = Host::new();
    // CVE-2019-5736.
    let root = root(&host);
    let file = host.bins().join("bocker-spawn");
    let before = fs::read(&file).expect("the program");
    let script = root.join("bin/self");
    fs::write(&script, "#!/proc/self/exe\n").expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let document = document(&root);
    fs::write(host.scratch().join("doc"), document.to_string()).expect("a document");
    for command in ["/proc/self/exe", "self", "/proc/1/exe"] {
        // As long as its stdin is open it waits for a document, if it is let.
        let output = host.sh(&format!(
            "cd {} && rm -f open && mkfifo open && \
             bocker-spawn run --document 3 --stdin 4 -- {command} run 3<doc 4<>open",
            host.scratch().display()
        ));
        output.exits(126).says("own file");
    }
    let running = detached(
        &host,
        &document,
        &[
            "--",
            "sh",
            "-c",
            "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *bocker*) (echo x > $p/exe) && echo written; ls -l $p/exe;; esac; done; done",
        ],
    );
    for command in ["/proc/self/exe", "self"] {
        // It is executed, and finds no verb; what it was executed from cannot be written to.
        exec(&host, &[id(&running), command, "frob"]).exits(125);
    }
    let log = host.run(&["bocker-spawn", "logs", id(&running)]).ok();
    assert!(!log.stdout.contains("written"), "{}", log.stdout);
    kill(&host, id(&running));
    assert!(
        fs::read(&file).expect("the program") == before,
        "the program has changed"
    );
}

#[test]
fn a_spec_is_what_other_runtimes_run() {
    if !need("runc crun") {
        return;
    }
    let host = Host::new();
    let bundle = host.scratch().join("bundle");
    fs::create_dir(&bundle).expect("a bundle");
    let document = document(&root(&host));
    let words = [
        "spec",
        "-u",
        "web",
        "-e",
        "A=1",
        "-w",
        "/tmp",
        "--",
        "sh",
        "-c",
        "id -u; pwd; echo $A; grep NoNewPrivs /proc/self/status",
    ];
    let spec = call(&host, &document, &words).wait().ok();
    fs::write(bundle.join("config.json"), &spec.stdout).expect("config.json");
    // Neither likes a hybrid tree of which only the old half has controllers.
    for runtime in ["runc", "crun"] {
        let output = host.sh(&format!(
            "umount /sys/fs/cgroup/unified 2>/dev/null; {runtime} run -b {} {runtime}-test",
            bundle.display()
        ));
        assert_eq!(output.text(), "33\n/tmp\n1\nNoNewPrivs:\t1\n", "{runtime}");
    }
}

#[test]
fn what_is_not_done_here_is_refused_and_not_left_out() {
    let host = Host::new();
    let mut document = document(&root(&host));
    document["linux"] = json!({"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}});
    run(&host, &document, &["--", "true"])
        .exits(125)
        .says("linux.seccomp");
}

#[test]
fn a_detached_container_is_found_asked_and_ended() {
    let host = Host::new();
    let finished = host.scratch().join("finished");
    let document = document(&root(&host));
    let before = host.fingerprint();
    let running = detached(
        &host,
        &document,
        &[
            "--on-exit",
            "/bin/sh",
            "--on-arg",
            "-c",
            "--on-arg",
            &format!("cat > {0}.new; mv {0}.new {0}", finished.display()),
            "--",
            "sh",
            "-c",
            "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done",
        ],
    );
    let id = id(&running);
    assert_eq!(running["bocker"]["state"], "running");
    let listed = host.run(&["bocker-spawn", "list"]).ok().json_lines();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["state"]),
        (&json!(id), &json!("running"))
    );
    host.wait_for("its first line", || {
        let log = host.run(&["bocker-spawn", "logs", id]).text();
        (log == "ready\n").then_some(())
    });
    run(&host, &running, &["--", "true"])
        .exits(125)
        .says("running");
    // The second takes nothing of the first away.
    assert_eq!(state(&host, id)["status"], "running");
    assert_eq!(host.run(&["bocker-spawn", "logs", id]).text(), "ready\n");
    assert!(Path::new("/run/bocker").join(id).join("claim").exists());

    host.run(&["bocker-spawn", "kill", "-s", "TERM", id]).ok();
    let state = wait_for_state(&host, id, "exited");
    assert_eq!(state["exit"]["code"], 7);
    let text = host.wait_for("the finished document", || {
        fs::read_to_string(&finished).ok()
    });
    let document: Value = serde_json::from_str(&text).expect("a document");
    assert_eq!(document["bocker"]["exit"]["code"], 7);
    assert!(document["bocker"]["spawn"].get("pid").is_none());
    exec(&host, &[id, "true"])
        .exits(125)
        .says(&format!("Container '{id}' exists but is not running"));
    host.run(&["bocker-spawn", "kill", id])
        .exits(125)
        .says("exists but is not running");

    host.run(&["bocker-spawn", "gc"]).ok();
    host.assert_same(&before);
}

#[test]
fn a_detached_container_that_cannot_begin_says_so_at_once() {
    let host = Host::new();
    let document = document(&root(&host));
    let before = host.fingerprint();
    let output = run(&host, &document, &["--detach", "--", "nowhere"]).exits(127);
    assert_eq!(output.json()["bocker"]["error"]["code"], 127);
    host.assert_same(&before);
}

#[test]
fn a_detached_container_that_nobody_would_know_of_does_not_run() {
    let host = Host::new();
    let document = document(&root(&host)).to_string();
    let before = host.fingerprint();
    let line = "bocker-spawn run --detach -- sleep 1000 > /dev/full";
    let output = host.call(&["sh", "-c", line]).stdin(document).run();
    output.exits(125).says("ENOSPC");
    host.run(&["bocker-spawn", "gc", "--grace", "0"]).ok();
    assert_eq!(host.run(&["bocker-spawn", "list"]).text(), "");
    host.assert_same(&before);
}

#[test]
fn exec_is_the_container_once_more() {
    let host = Host::new();
    let document = document(&root(&host));
    let running = detached(
        &host,
        &document,
        &["-e", "A=1", "-w", "/tmp", "--", "sleep", "1000"],
    );
    let id = id(&running);
    for name in ["mnt", "pid", "uts", "ipc", "net"] {
        let link = |of: String| host.run(&["readlink", &of]).text();
        let theirs = exec(&host, &[id, "readlink", &format!("/proc/self/ns/{name}")]).text();
        assert_eq!(
            theirs,
            link(format!("/proc/{}/ns/{name}", pid(&running))),
            "{name}"
        );
    }
    let output = exec(
        &host,
        &[
            "-e",
            "B=2",
            id,
            "sh",
            "-c",
            "echo $A $B; pwd; echo err >&2; exit 9",
        ],
    )
    .exits(9);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("1 2\n/tmp\n", "err\n")
    );
    assert_eq!(
        exec(&host, &["-w", "/etc", id, "--", "pwd"]).text(),
        "/etc\n"
    );
    assert_eq!(
        exec(&host, &[id, "printf", "[%s]", "a  b", ""]).text(),
        "[a  b][]"
    );
    let input = host
        .call(&["bocker-spawn", "exec", "-i", id, "cat"])
        .stdin("given")
        .run();
    assert_eq!(input.text(), "given");
    exec(&host, &[id, "nowhere"]).exits(127);
    exec(&host, &[id, "/etc"]).exits(126);
    exec(&host, &[id, "sh", "-c", "kill -TERM $$"]).exits(143);
    // What it leaves running in the container holds nobody up.
    exec(&host, &[id, "sh", "-c", "yes & sleep 100 & exit 4"]).exits(4);
    exec(&host, &[id]).exits(125);
    exec(&host, &["foo", "true"])
        .exits(125)
        .says("No container named 'foo' exists");
    kill(&host, id);
}

#[test]
fn a_client_of_exec_that_is_stopped_does_not_hold_the_container() {
    let host = Host::new();
    let document = document(&root(&host));
    let running = detached(&host, &document, &["--", "sleep", "1000"]);
    let id = id(&running);
    let client = host.spawn(&[
        "bocker-spawn",
        "exec",
        id,
        "sh",
        "-c",
        "echo > /tmp/begun; exec sleep 1000",
    ]);
    let begun = host.scratch().join("rootfs/tmp/begun");
    host.wait_for("the command", || begun.exists().then_some(()));
    client.signal_group(Signal::SIGSTOP);
    host.run(&["bocker-spawn", "kill", id]).ok();
    wait_for_state(&host, id, "exited");
    client.signal_group(Signal::SIGCONT);
    assert_eq!(client.wait().code, 137);
    host.run(&["bocker-spawn", "gc"]).ok();
}

fn begun(host: &Host, script: &str) -> (Running, PathBuf) {
    let root = root(host);
    let mark = root.join("tmp/begun");
    let running = call(
        host,
        &document(&root),
        &[
            "run",
            "--",
            "sh",
            "-c",
            &format!("{script}; echo > /tmp/begun; while :; do sleep 0.05; done"),
        ],
    );
    host.wait_for("the command", || mark.exists().then_some(()));
    (running, root)
}

#[test]
fn a_signal_that_process_1_does_not_handle_ends_it_as_any_other_process() {
    let host = Host::new();
    let document = document(&root(&host));
    let before = host.fingerprint();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let running = call(&host, &document, &["run", "--", "sleep", "1000"]);
        host.wait_for("the container", || {
            let listed = host.run(&["bocker-spawn", "list"]).ok().json_lines();
            (listed.first()?["state"] == "running").then_some(())
        });
        running.signal(signal);
        let output = running.wait().exits(128 + signal as i32);
        let exit = &output.json()["bocker"]["exit"];
        assert_eq!(exit["code"], 128 + signal as i32);
        assert_eq!(exit["signal"], signal as i32);
    }
    host.assert_same(&before);
}

#[test]
fn a_signal_that_process_1_handles_is_its_own_affair_until_somebody_insists() {
    let host = Host::new();
    let (running, _) = begun(&host, "trap 'exit 5' TERM; trap 'echo usr1' USR1");
    running.signal(Signal::SIGUSR1);
    std::thread::sleep(Duration::from_millis(200));
    running.signal(Signal::SIGTERM);
    let output = running.wait().exits(5);
    assert_eq!(output.stderr, "usr1\n");
    assert!(output.json()["bocker"]["exit"].get("signal").is_none());

    fs::remove_dir_all(host.scratch().join("rootfs")).expect("the root");
    let (running, _) = begun(&host, "trap '' INT");
    for _ in 0..3 {
        running.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(100));
    }
    running.wait().exits(130);
}

fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_container_that_does_not_handle_a_signal_need_not_be_waited_for() {
    let host = Host::new();
    let document = document(&root(&host));
    let running = detached(&host, &document, &["--", "sleep", "1000"]);
    host.run(&["bocker-spawn", "kill", "-s", "USR1", id(&running)])
        .ok();
    assert_eq!(state(&host, id(&running))["status"], "running");
    host.run(&["bocker-spawn", "kill", "-s", "TERM", id(&running)])
        .ok()
        .says("no handler");
    let state = wait_for_state(&host, id(&running), "exited");
    assert_eq!(state["exit"]["code"], 137);
    host.run(&["bocker-spawn", "gc"]).ok();
}

fn kill_supervisor(host: &Host, running: &Value) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid(running))).expect("stat");
    let fields = stat.rsplit_once(')').expect("a name").1;
    let parent = fields.split_ascii_whitespace().nth(1).expect("a parent");
    host.run(&["kill", "-9", parent]).ok();
}

#[test]
fn a_supervisor_that_is_killed_takes_the_container_with_it() {
    let host = Host::new();
    for user in ["0", "web"] {
        let running = detached(
            &host,
            &document(&root(&host)),
            &["-u", user, "--", "sleep", "1000"],
        );
        kill_supervisor(&host, &running);
        wait_for_state(&host, id(&running), "exited");
        let line = host.run(&["bocker-spawn", "gc"]).ok().json_lines();
        assert_eq!(line[0]["id"], running["bocker"]["id"]);
        assert!(host.run(&["bocker-spawn", "list"]).text().is_empty());
    }
}

#[test]
fn an_orphan_that_outlives_its_supervisor_is_ended() {
    let host = Host::new();
    let document = document(&root(&host));
    host.run(&["bocker-cg", "setup"]).ok();
    let before = host.fingerprint();
    for with_cgroups in [true, false] {
        let mut document = document.clone();
        if with_cgroups {
            let made = host.run(&["bocker-cg", "create", "--new"]).ok().json();
            document["bocker"] = made["bocker"].clone();
            document["linux"] = made["linux"].clone();
        }
        // A change of user clears the parent-death signal, so that process 1 does not notice.
        let running = detached(
            &host,
            &document,
            &["--", "su", "web", "-c", "exec sleep 1000"],
        );
        let id = id(&running);
        host.wait_for("the change of user", || {
            let status = fs::read_to_string(format!("/proc/{}/status", pid(&running))).ok()?;
            (status.contains("Uid:\t33") && status.contains("Name:\tsleep")).then_some(())
        });
        kill_supervisor(&host, &running);
        wait_for_state(&host, id, "orphaned");
        exec(&host, &[id, "true"]).exits(125).says("is not running");
        let dry = host
            .run(&["bocker-spawn", "gc", "--dry-run"])
            .ok()
            .json_lines();
        assert_eq!(
            (&dry[0]["state"], &dry[0]["removed"]),
            (&json!("orphaned"), &json!(false))
        );
        wait_for_state(&host, id, "orphaned");
        host.run(&["bocker-spawn", "gc"])
            .ok()
            .says("lost its supervisor: what was left of it was killed");
        // Reaped or not: that is for whoever inherited it.
        let status = fs::read_to_string(format!("/proc/{}/status", pid(&running)));
        assert!(status.is_ok_and(|text| text.contains("State:\tZ")) || !lives(pid(&running)));
        let exit = &state(&host, id)["exit"];
        assert_eq!((&exit["code"], &exit["signal"]), (&json!(137), &json!(9)));
        host.run(&["bocker-spawn", "gc"]).ok();
        if with_cgroups {
            host.call(&["bocker-cg", "delete"])
                .stdin(running.to_string())
                .run()
                .ok();
        }
    }
    host.assert_same(&before);
}

#[test]
fn a_container_is_in_its_cgroups_and_sees_them_and_no_others() {
    let host = Host::new();
    let made = host
        .run(&["bocker-cg", "create", "--new", "--memory", "64m"])
        .ok()
        .json();
    let mut document = made.clone();
    document["root"] = json!({"path": root(&host)});
    let script = "cat /proc/1/cgroup; cat /sys/fs/cgroup/memory/memory.limit_in_bytes; echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes || echo no; grep CapBnd /proc/self/status";
    let output = run(&host, &document, &["--", "sh", "-c", script]).exits(0);
    assert!(
        output.stderr.contains(&format!(":memory:/{}", id(&made))),
        "{}",
        output.stderr
    );
    assert!(
        output.stderr.contains("67108864\n") && output.stderr.contains("no\n"),
        "{}",
        output.stderr
    );
    // Behind a device allow-list MKNOD is Docker's.
    assert!(
        output.stderr.contains("00000000a80425fb"),
        "{}",
        output.stderr
    );

    let running = detached(&host, &document, &["--", "sleep", "1000"]);
    let inside = exec(&host, &[id(&running), "cat", "/proc/self/cgroup"]).text();
    assert!(
        inside.contains(&format!(":pids:/{}", id(&made))),
        "{inside}"
    );
    host.run(&["bocker-spawn", "kill", id(&running)]).ok();
    wait_for_state(&host, id(&running), "exited");
    host.call(&["bocker-cg", "delete"])
        .stdin(made.to_string())
        .run()
        .ok();
}

#[test]
fn a_kill_for_want_of_memory_is_told() {
    let host = Host::new();
    let made = host
        .run(&["bocker-cg", "create", "--new", "--memory", "16m"])
        .ok()
        .json();
    let mut document = made.clone();
    document["root"] = json!({"path": root(&host)});
    let output = run(
        &host,
        &document,
        &[
            "--",
            "sh",
            "-c",
            "dd if=/dev/zero of=/dev/shm/x bs=1M count=60",
        ],
    );
    assert_eq!(
        output.json()["bocker"]["exit"]["oom"],
        true,
        "{}",
        output.stderr
    );
    host.call(&["bocker-cg", "delete"])
        .stdin(made.to_string())
        .run()
        .ok();
}

#[test]
fn a_log_keeps_every_byte_apart_by_stream() {
    let host = Host::new();
    let document = document(&root(&host));
    let running = detached(
        &host,
        &document,
        &[
            "--",
            "sh",
            "-c",
            "printf 'a\\n\\000\\377b\\n'; printf 'err' >&2; printf 'no end'",
        ],
    );
    wait_for_state(&host, id(&running), "exited");
    let out = host.sh(&format!(
        "bocker-spawn logs {} 2>/dev/null | od -An -c | tr -s ' \\n' ' '",
        id(&running)
    ));
    assert_eq!(out.text(), " a \\n \\0 377 b \\n n o e n d ");
    assert_eq!(
        host.run(&["bocker-spawn", "logs", id(&running)])
            .ok()
            .stderr,
        "err"
    );
    let log = fs::metadata(
        host.root()
            .join("containers")
            .join(id(&running))
            .join("log"),
    )
    .expect("the log");
    assert_eq!(log.permissions().mode() & 0o777, 0o600);
    host.run(&["bocker-spawn", "gc"]).ok();
}

#[test]
fn a_terminal_is_the_containers_own() {
    let host = Host::new();
    fs::write(
        host.scratch().join("doc"),
        document(&root(&host)).to_string(),
    )
    .expect("a document");
    let output = host.sh(&format!(
        "cd {} && sleep 2 | script -qec \"stty rows 40 cols 99; bocker-spawn run --document 3 -t -- sh -c 'tty; stty size; ls -1 /dev/pts; test -c /dev/console && echo console; echo \\$TERM; exit 6' 3<doc >finished\" /dev/null",
        host.scratch().display()
    ));
    assert_eq!(output.code, 6, "{}{}", output.stdout, output.stderr);
    assert_eq!(
        output.stdout.replace('\r', ""),
        "/dev/pts/0\n40 99\n0\nptmx\nconsole\nxterm\n"
    );
}

#[test]
fn a_step_that_fails_leaves_nothing() {
    let host = Host::new();
    let document = document(&root(&host));
    // What a first run makes in the root (mount points) stays there, as with any runtime.
    run(&host, &document, &["--", "true"]).exits(0);
    let before = host.fingerprint();
    for step in [
        "claim",
        "namespaces",
        "cgroup",
        "root",
        "mounts",
        "devices",
        "volumes",
        "mask",
        "privileges",
        "config",
        "exec",
    ] {
        for detach in [&[][..], &["--detach"]] {
            let words = [
                &["bocker-spawn", "run"][..],
                detach,
                &["--", "sleep", "1000"],
            ]
            .concat();
            let output = host
                .call(&words)
                .env("BOCKER_FAIL_AT", format!("spawn.{step}"))
                .stdin(document.to_string())
                .run()
                .exits(125);
            assert_eq!(
                output.json()["bocker"]["error"]["kind"],
                "injected",
                "{step}"
            );
            host.assert_same(&before);
        }
    }
}

#[test]
fn a_tool_that_is_killed_at_a_step_is_swept_up_after() {
    let host = Host::new();
    let document = document(&root(&host));
    run(&host, &document, &["--", "true"]).exits(0);
    let before = host.fingerprint();
    for step in [
        "claim",
        "namespaces",
        "cgroup",
        "root",
        "mask",
        "privileges",
        "config",
        "exec",
    ] {
        for (detach, code) in [(&[][..], 137), (&["--detach"], 125)] {
            let words = [
                &["bocker-spawn", "run"][..],
                detach,
                &["--", "sleep", "1000"],
            ]
            .concat();
            host.call(&words)
                .env("BOCKER_FAIL_AT", format!("kill:spawn.{step}"))
                .stdin(document.to_string())
                .run()
                .exits(code);
        }
        host.wait_for("the sweep", || {
            host.run(&["bocker-spawn", "gc", "--grace", "0"]).ok();
            before.diff(&host.fingerprint()).is_empty().then_some(())
        });
    }
}

#[test]
fn a_dry_run_prints_and_does_nothing() {
    let host = Host::new();
    let before = host.fingerprint();
    let mut document = document(Path::new("/not/made/yet"));
    document["bocker"]["dry_run"] = true.into();
    let output = run(&host, &document, &["-u", "web", "--", "true"]).ok();
    assert!(
        output.stderr.contains("+ mount -t proc"),
        "{}",
        output.stderr
    );
    assert_eq!(output.json()["bocker"]["dry_run"], true);
    host.assert_same(&before);
}

#[test]
fn without_descriptors_it_fails_once_and_nothing_goes_on_unseen() {
    let host = Host::new();
    let document = document(&root(&host));
    run(&host, &document, &["--", "true"]).ok();
    let before = host.fingerprint();
    // Enough to begin with, and too few at one place or another.
    for most in 4..10 {
        let line = format!("ulimit -n {most}; exec bocker-spawn run --detach -- sleep 1000");
        let call = host.call(&["sh", "-c", &line]);
        let output = call.stdin(document.to_string()).run().exits(125);
        assert_eq!(output.stderr.lines().count(), 1, "{most}: {output}");
        assert!(output.stderr.contains("EMFILE"), "{most}: {output}");
    }
    // Where there were too few even to take it back.
    host.run(&["bocker-spawn", "gc", "--grace", "0"]).ok();
    host.assert_same(&before);
}
