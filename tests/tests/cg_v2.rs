//! bocker-cg and bocker-spawn on cgroup v2 with all its controllers, which only the virtual machine has: what is made there,
//! what the limits do, how a container is in its group from birth, and that it all ends.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_tests::{Host, Output, Session, need};
use serde_json::{Value, json};

/// Where the tests' own tree is, and what all containers share there.
const TREE: &str = "/sys/fs/cgroup";
const SHARED: &str = "/sys/fs/cgroup/bocker";

/// Every kind of limit.
const LIMITS: &str = "--cpu-shares 512 --cpus 1.5 --memory 64m --pids-limit 50";

/// The user of a container that changes it, so that a parent's death does not end it.
const USER: &str = "web";

/// A machine on which all that containers share has been made.
fn host() -> Host {
    let host = Host::new();
    host.run(&["bocker-cg", "setup"]).ok();
    host
}

fn create(host: &Host, options: &str) -> Value {
    host.sh(&format!("bocker-cg create --new {options}"))
        .ok()
        .json()
}

fn delete(host: &Host, document: &Value, options: &[&str]) -> Output {
    let argv: Vec<&str> = ["bocker-cg", "delete"]
        .iter()
        .chain(options)
        .copied()
        .collect();
    host.call(&argv).stdin(document.to_string()).run()
}

fn id(document: &Value) -> &str {
    document["bocker"]["id"].as_str().expect("an id")
}

fn group(document: &Value) -> PathBuf {
    Path::new(SHARED).join(id(document))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim_end().to_owned()
}

/// A number of a file of `name number` lines.
fn count(path: impl AsRef<Path>, name: &str) -> u64 {
    let text = read(path);
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let number = line.and_then(|l| l.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// A script whose shell is in a document's group.
fn sh_in(host: &Host, document: &Value, script: &str) -> Output {
    let procs = group(document).join("cgroup.procs");
    host.sh(&format!("echo 0 > {}; {script}", procs.display()))
}

/// A process in a document's group that runs until it is killed.
fn occupy(host: &Host, document: &Value) -> bocker_tests::Running {
    let procs = group(document).join("cgroup.procs");
    let script = format!("echo 0 > {}; exec sleep 1000", procs.display());
    let running = host.spawn(&["sh", "-c", &script]);
    host.wait_for("the process is in its group", || {
        (!read(&procs).is_empty()).then_some(())
    });
    running
}

/// A document with the root of a container, and a group for it.
fn prepare(host: &Host, limits: &str) -> Value {
    fs::create_dir_all(host.root().join("containers")).expect("a folder");
    let root = host.busybox_rootfs("rootfs");
    let users = format!("root:x:0:0:root:/root:/bin/sh\n{USER}:x:33:33:{USER}:/tmp:/bin/sh\n");
    fs::write(root.join("etc/passwd"), users).expect("passwd");
    let mut document = create(host, limits);
    document["root"] = json!({"path": root});
    document
}

fn run(host: &Host, document: &Value, words: &[&str]) -> Output {
    let argv: Vec<&str> = ["bocker-spawn", "run"]
        .iter()
        .chain(words)
        .copied()
        .collect();
    host.call(&argv).stdin(document.to_string()).run()
}

fn state(host: &Host, id: &str) -> Value {
    host.run(&["bocker-spawn", "state", id]).ok().json()
}

fn wait_for_state(host: &Host, id: &str, wanted: &str) {
    host.wait_for(wanted, || {
        (state(host, id)["status"] == wanted).then_some(())
    });
}

/// A container that has ended leaves its document and its group.
fn remove(host: &Host, document: &Value) {
    host.run(&["bocker-spawn", "gc"]).ok();
    delete(host, document, &[]).ok();
}

fn kill_supervisor(host: &Host, running: &Value) {
    let pid = running["bocker"]["spawn"]["pid"].to_string();
    let stat = read(Path::new("/proc").join(pid).join("stat"));
    let fields = stat.rsplit_once(')').expect("a name").1;
    let parent = fields.split_ascii_whitespace().nth(1).expect("a parent");
    host.run(&["kill", "-9", parent]).ok();
}

#[test]
#[ignore = "in the virtual machine"]
fn one_group_with_all_limits_and_nothing_after() {
    let host = host();
    let before = host.fingerprint();
    let document = create(&host, LIMITS);
    for (file, value) in [
        ("cpu.weight", "59"),
        ("cpu.max", "150000 100000"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "0"),
        ("pids.max", "50"),
        ("cgroup.freeze", "0"),
    ] {
        assert_eq!(read(group(&document).join(file)), value, "{file}");
    }
    let path = format!("/bocker/{}", id(&document));
    let cg = &document["bocker"]["cg"];
    assert_eq!((&cg["version"], &cg["path"]), (&json!(2), &json!(path)));
    assert_eq!(document["linux"]["cgroupsPath"], path);
    let swap = &document["linux"]["resources"]["memory"]["swap"];
    assert_eq!(
        swap, 67_108_864,
        "memory and swap together, as runc wants it"
    );
    for controller in ["cpu", "memory", "pids", "devices", "freezer"] {
        assert_eq!(cg["paths"][controller], json!(group(&document)));
    }
    let deleted = delete(&host, &document, &[]).ok();
    assert_eq!(deleted.json()["bocker"], json!({"version": 1}));
    host.assert_same(&before);
}

#[test]
#[ignore = "in the virtual machine"]
fn runc_makes_the_same_group_of_the_document() {
    if !need("runc") {
        return;
    }
    let host = host();
    let document = prepare(&host, LIMITS);
    let group = group(&document);
    // Debian 12's runc converts shares in the former way: the weight is its own.
    let limits = || {
        [
            "cpu.max",
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "pids.max",
        ]
        .map(|file| read(group.join(file)))
    };
    let ours = limits();
    let spec = host
        .call(&["bocker-spawn", "spec", "--", "sleep", "1000"])
        .stdin(document.to_string())
        .run()
        .ok();
    delete(&host, &document, &[]).ok();
    let bundle = host.scratch();
    fs::write(bundle.join("config.json"), spec.stdout).expect("a bundle");
    let bundle = bundle.display();
    host.sh(&format!(
        "cd {bundle} && runc --root state run -d theirs </dev/null >/dev/null 2>&1"
    ))
    .ok();
    let theirs = limits();
    host.sh(&format!(
        "cd {bundle} && runc --root state delete --force theirs"
    ))
    .ok();
    assert_eq!(ours, theirs);
}

#[test]
#[ignore = "in the virtual machine"]
fn what_all_share_is_made_at_first_need_and_reset_puts_the_tree_back() {
    let host = Host::new();
    let before = host.fingerprint();
    let enabled = || read(format!("{TREE}/cgroup.subtree_control"));
    // One controller was enabled by somebody else.
    fs::write(format!("{TREE}/cgroup.subtree_control"), "+pids").expect("enable pids");
    let document = create(&host, "--memory 64m");
    assert_eq!(enabled(), "cpu memory pids");
    assert_eq!(
        read(format!("{SHARED}/cgroup.subtree_control")),
        "cpu memory pids"
    );
    let info = host.run(&["bocker-cg", "info"]).ok().json();
    assert_eq!(
        info["shared"],
        json!({"group": SHARED, "enabled": ["cpu", "memory"]})
    );
    host.run(&["bocker-cg", "reset"])
        .exits(125)
        .says(&format!("is in use by {}", id(&document)));
    delete(&host, &document, &[]).ok();
    host.run(&["bocker-cg", "reset"]).ok();
    assert_eq!(enabled(), "pids");
    // One that is killed just then has noted what it enabled.
    host.sh("BOCKER_FAIL_AT=kill:cg.parent bocker-cg create --new")
        .exits(137);
    assert_eq!(enabled(), "cpu memory pids");
    host.run(&["bocker-cg", "gc", "--grace", "0"]).ok();
    host.run(&["bocker-cg", "reset"]).ok();
    assert_eq!(enabled(), "pids");
    fs::write(format!("{TREE}/cgroup.subtree_control"), "-pids").expect("disable pids");
    host.assert_same(&before);
}

#[test]
#[ignore = "in the virtual machine"]
fn twenty_that_all_find_nothing_shared_do_not_stand_in_each_others_way() {
    let host = Host::new();
    let before = host.fingerprint();
    let running: Vec<_> = (0..20)
        .map(|_| host.spawn(&["bocker-cg", "create", "--new", "--memory", "64m"]))
        .collect();
    let documents: Vec<Value> = running.into_iter().map(|r| r.wait().ok().json()).collect();
    for document in &documents {
        assert_eq!(read(group(document).join("memory.max")), "67108864");
        delete(&host, document, &[]).ok();
    }
    host.run(&["bocker-cg", "reset"]).ok();
    assert_eq!(read(format!("{TREE}/cgroup.subtree_control")), "");
    host.assert_same(&before);
}

#[test]
#[ignore = "in the virtual machine"]
fn controllers_that_cannot_be_handed_down_are_explained() {
    let host = Host::new();
    let before = host.fingerprint();
    // This is not the root of the machine's tree, and so must not hold processes and hand controllers down.
    let output = host.sh(&format!(
        "echo 0 > {TREE}/cgroup.procs; bocker-cg create --new --memory 64m"
    ));
    let output = output.exits(125).says("Device or resource busy (EBUSY)");
    assert!(
        output.stderr.contains(&format!("mkdir {TREE}/init")),
        "{output}"
    );
    // What was made of what all share stays, and the next one goes on from there.
    let document = create(&host, "--memory 64m");
    delete(&host, &document, &[]).ok();
    host.run(&["bocker-cg", "reset"]).ok();
    host.assert_same(&before);
}

#[test]
#[ignore = "in the virtual machine"]
fn the_lines_that_v_prints_make_the_same_group() {
    let host = Host::new();
    let before = host.fingerprint();
    let made = host.sh(&format!("bocker-cg create --new -v {LIMITS}")).ok();
    let document = made.json();
    let files = || {
        [
            "cpu.weight",
            "cpu.max",
            "memory.max",
            "memory.swap.max",
            "pids.max",
        ]
        .map(|file| read(group(&document).join(file)))
    };
    let by_the_tool = files();
    assert!(
        made.stderr.contains("# bpf: to /sys/fs/cgroup/bocker/ps_"),
        "{made}"
    );
    delete(&host, &document, &[]).ok();
    host.run(&["bocker-cg", "reset"]).ok();
    host.assert_same(&before);

    let lines: Vec<&str> = made
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "))
        // Of use to reset alone, and busybox has no such program.
        .filter(|line| !line.starts_with("setfattr "))
        .collect();
    host.sh(&format!("set -e\n{}", lines.join("\n"))).ok();
    assert_eq!(by_the_tool, files());
}

#[test]
#[ignore = "in the virtual machine"]
fn a_failure_at_any_step_is_taken_back() {
    let host = host();
    let before = host.fingerprint();
    for step in ["claim", "group", "cpu", "memory", "pids", "devices"] {
        let failed = host
            .sh(&format!(
                "BOCKER_FAIL_AT=cg.{step} bocker-cg create --new {LIMITS}"
            ))
            .exits(125);
        assert_eq!(
            failed.json()["bocker"]["error"]["kind"],
            "injected",
            "{step}"
        );
        host.assert_same(&before);
    }
    // One that is killed leaves a group or a bare claim, which gc finds.
    for step in ["group", "devices"] {
        host.sh(&format!(
            "BOCKER_FAIL_AT=kill:cg.{step} bocker-cg create --new {LIMITS}"
        ))
        .exits(137);
        let lines = host
            .run(&["bocker-cg", "gc", "--grace", "0"])
            .ok()
            .json_lines();
        assert_eq!((lines.len(), &lines[0]["removed"]), (1, &json!(true)));
        host.assert_same(&before);
    }
}

#[test]
#[ignore = "in the virtual machine"]
fn memory_is_limited_and_the_limit_is_named_that_nobody_chose() {
    let host = host();
    let document = create(&host, "--default-memory 20MB");
    // Doubling a string: more than 20 MB soon, and without a limit no more than 128 MB.
    let eater = "x=aaaaaaaaaaaaaaaa; i=0; while [ $i -lt 23 ]; do x=$x$x; i=$((i+1)); done";
    sh_in(&host, &document, eater).exits(137);
    let listed = host.run(&["bocker-cg", "list"]).ok().json_lines();
    assert_eq!(listed[0]["oom_kills"], 1);
    delete(&host, &document, &[])
        .ok()
        .says("ran out of memory, limit 20 MB (default): the kernel killed 1 process");
}

#[test]
#[ignore = "in the virtual machine"]
fn a_container_that_ran_out_of_memory_says_so() {
    let host = host();
    let document = prepare(&host, "--memory 20m");
    let eater = "x=aaaaaaaaaaaaaaaa; i=0; while [ $i -lt 23 ]; do x=$x$x; i=$((i+1)); done";
    let finished = run(&host, &document, &["--", "sh", "-c", eater])
        .exits(137)
        .json();
    let exit = &finished["bocker"]["exit"];
    assert_eq!((&exit["oom"], &exit["signal"]), (&json!(true), &json!(9)));
    delete(&host, &finished, &[])
        .ok()
        .says("limit 20 MiB: the kernel");
}

#[test]
#[ignore = "in the virtual machine"]
fn processes_are_limited() {
    let host = host();
    let document = create(&host, "--pids-limit 5");
    sh_in(
        &host,
        &document,
        "for i in 1 2 3 4 5 6; do sleep 1 & done; wait",
    )
    .says("fork");
    assert_eq!(count(group(&document).join("pids.events"), "max"), 1);
}

#[test]
#[ignore = "in the virtual machine"]
fn a_tenth_of_a_processor_slows_a_busy_loop_down() {
    let host = host();
    let document = create(&host, "--cpus 0.1");
    let stat = group(&document).join("cpu.stat");
    let busy = "end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do :; done";
    sh_in(&host, &document, busy).ok();
    assert!(count(&stat, "nr_throttled") > 5, "{}", read(&stat));
    // About a tenth of two seconds; a whole processor would have been two million.
    assert!(count(&stat, "usage_usec") < 800_000, "{}", read(&stat));
}

#[test]
#[ignore = "in the virtual machine"]
fn only_devices_of_the_list_can_be_opened_whoever_made_the_node() {
    let host = host();
    let nodes = host.scratch();
    let look = |document: &Value| {
        sh_in(
            &host,
            document,
            &format!(
                "cd {}; rm -f made* ; mknod made-null c 1 3 && mknod made-kmsg c 1 11 && mknod made-disk b 254 0
                for node in made-null made-kmsg made-disk /dev/zero /dev/full /dev/random /dev/urandom /dev/mem; do
                    (: < $node) 2>/dev/null && echo $node
                done
                echo x > made-null && echo written; (echo x > made-kmsg) 2>&1",
                nodes.display()
            ),
        )
        .stdout
    };
    let listed = create(&host, "");
    let output = look(&listed);
    let (allowed, refused) = output.split_once("written\n").expect("null is written to");
    assert_eq!(
        allowed,
        "made-null\n/dev/zero\n/dev/full\n/dev/random\n/dev/urandom\n"
    );
    assert!(refused.contains("Operation not permitted"), "{output}");
    // The same without a list: it is the program that stands in the way, and nothing else.
    let all = create(&host, "--devices all");
    assert!(look(&all).contains("made-kmsg\nmade-disk\n"));
}

#[test]
#[ignore = "in the virtual machine"]
fn a_container_is_in_its_group_from_birth_and_sees_it_as_the_root() {
    let host = host();
    let document = prepare(&host, LIMITS);
    let look = "grep ^0: /proc/self/cgroup; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cgroup.procs; \
        mkdir /sys/fs/cgroup/x 2>&1; grep ' /sys/fs/cgroup ' /proc/mounts; grep CapEff /proc/self/status";
    let output = run(&host, &document, &["--stdout", "2", "--", "sh", "-c", look]).ok();
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines[..3], ["0::/", "67108864", "1"], "{output}");
    assert!(
        lines.iter().any(|l| l.contains("Read-only file system")),
        "{output}"
    );
    let mounted =
        |l: &&str| l.starts_with("cgroup") && l.contains(" cgroup2 ro,nosuid,nodev,noexec");
    assert!(lines.iter().any(mounted), "{output}");
    // MKNOD is among them: the program guards.
    assert!(
        lines.iter().any(|l| l.ends_with("00000000a80425fb")),
        "{output}"
    );
    delete(&host, &output.json(), &[]).ok();
}

#[test]
#[ignore = "in the virtual machine"]
fn exec_lands_in_the_group_and_kill_ends_all_of_it() {
    let host = host();
    let document = prepare(&host, "--pids-limit 50");
    let running = run(&host, &document, &["--detach", "--", "sleep", "1000"])
        .ok()
        .json();
    let id = id(&running);
    let procs = group(&running).join("cgroup.procs");
    assert_eq!(read(&procs).lines().count(), 1);
    let seen = host.run(&[
        "bocker-spawn",
        "exec",
        id,
        "grep",
        "^0:",
        "/proc/self/cgroup",
    ]);
    assert_eq!(seen.ok().stdout, "0::/\n");
    let exec = host.spawn(&["bocker-spawn", "exec", id, "sleep", "1000"]);
    host.wait_for("the command is in the group", || {
        (read(&procs).lines().count() == 2).then_some(())
    });
    delete(&host, &running, &[])
        .exits(125)
        .says("2 processes are in its cgroup");
    host.run(&["bocker-spawn", "kill", id]).ok();
    wait_for_state(&host, id, "exited");
    exec.wait().exits(137);
    assert_eq!(read(&procs), "");
    remove(&host, &running);
    assert!(!group(&running).exists());
}

#[test]
#[ignore = "in the virtual machine"]
fn a_frozen_container_is_paused_and_can_be_killed() {
    let host = host();
    let document = prepare(&host, "");
    let running = run(&host, &document, &["--detach", "--", "sleep", "1000"])
        .ok()
        .json();
    let id = id(&running);
    fs::write(group(&running).join("cgroup.freeze"), "1").expect("freeze");
    wait_for_state(&host, id, "paused");
    let listed = host.run(&["bocker-cg", "list"]).ok().json_lines();
    assert_eq!(
        (&listed[0]["frozen"], &listed[0]["processes"]),
        (&json!(true), &json!(1))
    );
    host.run(&["bocker-spawn", "exec", id, "true"])
        .exits(125)
        .says("is paused");
    delete(&host, &running, &["--force"]).ok();
    wait_for_state(&host, id, "exited");
    host.run(&["bocker-spawn", "gc"]).ok();
}

#[test]
#[ignore = "in the virtual machine"]
fn force_kills_what_forks_and_groups_made_inside_go_too() {
    let host = host();
    let before = host.fingerprint();
    // With cgroup.kill, and as before Linux 5.14, without: each process on its own, while all stand still.
    for at_once in [true, false] {
        let document = create(&host, "--pids-limit 200");
        let inner = group(&document).join("a/b");
        fs::create_dir_all(&inner).expect("groups inside");
        if !at_once {
            let file = group(&document).join("cgroup.kill");
            let file = file.display();
            host.sh(&format!(
                "mount --bind {file} {file} && mount -o remount,bind,ro {file}"
            ))
            .ok();
        }
        // In an inner group, so that what is beneath counts.
        let inner = inner.join("cgroup.procs");
        let bomb = format!(
            "echo 0 > {}; while :; do (sleep 5 &) ; done 2>/dev/null",
            inner.display()
        );
        let bomb = host.spawn(&["sh", "-c", &bomb]);
        host.wait_for("it forks", || {
            (read(&inner).lines().count() > 50).then_some(())
        });
        delete(&host, &document, &[])
            .exits(125)
            .says("processes are in its cgroup");
        delete(&host, &document, &["--force"]).ok();
        drop(bomb);
        // What covered the file is the test's own, and has nowhere to be any more.
        let after = host.fingerprint();
        assert_eq!(after.section("cgroups"), before.section("cgroups"));
        assert_eq!(after.section("processes"), before.section("processes"));
    }
}

#[test]
#[ignore = "in the virtual machine"]
fn an_orphan_is_ended_and_gc_removes_its_group() {
    let host = host();
    let document = prepare(&host, "");
    // A change of user clears the parent-death signal, so that process 1 does not notice.
    let command = format!("(sleep 1000 &) ; exec su {USER} -c 'exec sleep 1000'");
    let running = run(&host, &document, &["--detach", "--", "sh", "-c", &command])
        .ok()
        .json();
    let id = id(&running);
    host.wait_for("the change of user", || {
        let pid = running["bocker"]["spawn"]["pid"].to_string();
        read(format!("/proc/{pid}/status"))
            .contains("Uid:\t33")
            .then_some(())
    });
    kill_supervisor(&host, &running);
    wait_for_state(&host, id, "orphaned");
    host.run(&["bocker-spawn", "gc"])
        .ok()
        .says("lost its supervisor: what was left of it was killed");
    assert!(read(group(&running).join("cgroup.events")).contains("populated 0"));
    let exit = &state(&host, id)["exit"];
    assert_eq!((&exit["code"], &exit["signal"]), (&json!(137), &json!(9)));
    let collected = host.run(&["bocker-cg", "gc"]).ok().json_lines();
    assert_eq!(
        (&collected[0]["id"], &collected[0]["removed"]),
        (&json!(id), &json!(true))
    );
    assert!(!group(&running).exists());
}

#[test]
#[ignore = "in the virtual machine"]
fn a_group_that_hands_controllers_down_takes_no_process_and_that_is_explained() {
    let host = host();
    let document = prepare(&host, "");
    fs::create_dir(group(&document).join("inner")).expect("a group inside");
    // One of those that know no threads (cpu and pids do).
    fs::write(group(&document).join("cgroup.subtree_control"), "+memory").expect("hand down");
    run(&host, &document, &["--", "true"])
        .exits(125)
        // It is the birth that fails, not a move.
        .says("cannot make a process in /sys/fs/cgroup/bocker/")
        .says("holds no processes: see /sys/fs/cgroup/bocker/");
    delete(&host, &document, &[]).ok();
}

#[test]
#[ignore = "in the virtual machine"]
fn a_container_that_is_just_ending_is_waited_for() {
    let host = host();
    let document = create(&host, "");
    let running = occupy(&host, &document);
    let pid = running.pid().to_string();
    let ended = host.spawn(&["sh", "-c", &format!("sleep 0.2; kill -9 {pid}")]);
    delete(&host, &document, &[]).ok();
    ended.wait().ok();
    drop(running);
    assert!(!group(&document).exists());
}

#[test]
#[ignore = "in the virtual machine"]
fn the_front_ends_limits_are_those_of_its_page_and_a_reset_leaves_nothing() {
    let s = Session::new();
    let before = s.host.fingerprint();
    let enabled = || read(format!("{TREE}/cgroup.subtree_control"));
    let enabled_before = enabled();
    let look = "cd /sys/fs/cgroup; cat cpu.weight memory.max memory.swap.max pids.max";
    let limits = s
        .host
        .call(&[
            "bocker", "run", "--rm", "--rootfs", &s.rootfs, "sh", "-c", look,
        ])
        .env("BOCKER_CPU_SHARE", "1024")
        .env("BOCKER_MEM_LIMIT", "1024")
        .run();
    assert_eq!(limits.text(), "100\n1024000000\n0\n2048\n");
    let defaults = s.run(&["--rm"], &["sh", "-c", look]).text();
    assert_eq!(defaults, "59\n512000000\n0\n2048\n");

    let id = s.sleeping("web");
    let seen = s.bocker(&["exec", "web", "cat", "/sys/fs/cgroup/pids.current"]);
    // Process 1 and the command itself.
    assert_eq!(seen.text(), "2\n");
    assert_eq!(
        s.host.run(&["bocker-cg", "list"]).ok().json()["id"],
        json!(id)
    );
    s.bocker(&["rm", "-f", "web"]).ok();
    assert_eq!(s.host.run(&["bocker-cg", "list"]).ok().stdout, "");
    s.bocker(&["system", "reset", "--force"]).ok();
    assert!(!Path::new(SHARED).exists());
    assert_eq!(enabled(), enabled_before);
    let after = s.host.fingerprint();
    assert_eq!(after.section("cgroups"), before.section("cgroups"));
}
