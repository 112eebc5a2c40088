//! bocker-cg on the kernel: what it makes, what it refuses, and that it leaves nothing.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_tests::{Host, Output, need};
use serde_json::{Value, json};

/// Every kind of limit.
const LIMITS: &str = "--cpu-shares 512 --cpus 1.5 --memory 64m --pids-limit 50";

const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"];

fn create(host: &Host, options: &str) -> Value {
    host.sh(&format!("bocker-cg create --new {options}"))
        .ok()
        .json()
}

fn delete(host: &Host, document: &Value, options: &str) -> Output {
    host.call(&["sh", "-c", &format!("bocker-cg delete {options}")])
        .stdin(document.to_string())
        .run()
}

fn group(document: &Value, controller: &str) -> PathBuf {
    let path = document["bocker"]["cg"]["paths"][controller].as_str();
    path.unwrap_or_else(|| panic!("no {controller} in {document}"))
        .into()
}

fn id(document: &Value) -> &str {
    document["bocker"]["id"].as_str().expect("an id")
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim_end().to_owned()
}

/// A process in all of a document's groups, that runs until it is killed.
fn occupy(host: &Host, document: &Value) -> bocker_tests::Running {
    let mut script = String::new();
    for controller in CONTROLLERS {
        script += &format!(
            "echo $$ > {}/cgroup.procs; ",
            group(document, controller).display()
        );
    }
    let running = host.spawn(&["sh", "-c", &format!("{script} exec sleep 1000")]);
    let procs = group(document, "freezer").join("cgroup.procs");
    host.wait_for("the process is in its group", || {
        read(&procs)
            .contains(&running.pid().to_string())
            .then_some(())
    });
    running
}

#[test]
fn a_group_in_every_hierarchy_with_its_limits_and_nothing_after() {
    let host = Host::new();
    let before = host.fingerprint();
    let document = create(&host, LIMITS);
    for (controller, file, value) in [
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "150000"),
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "67108864"),
        ("pids", "pids.max", "50"),
        ("freezer", "freezer.state", "THAWED"),
        ("cpuacct", "cpuacct.usage", "0"),
    ] {
        assert_eq!(
            read(&group(&document, controller).join(file)),
            value,
            "{file}"
        );
    }
    assert_eq!(
        document["linux"]["cgroupsPath"],
        format!("/{}", id(&document))
    );
    let deleted = delete(&host, &document, "").ok();
    assert_eq!(deleted.json()["bocker"], json!({"version": 1}));
    assert!(deleted.json().get("linux").is_none());
    assert_eq!(deleted.stderr, "");
    host.assert_same(&before);
}

#[test]
fn deleting_twice_is_success_and_the_rest_of_the_document_is_passed_on() {
    let host = Host::new();
    let before = host.fingerprint();
    let mut document = create(&host, LIMITS);
    document["bocker"]["x-unknown"] = json!({"kept": [1, 2.50]});
    document["linux"]["resources"]["hugepageLimits"] = json!([]);
    document["bocker"]["error"] = json!({"stage": "spawn", "code": 127, "message": "not found"});
    delete(&host, &document, "").ok();
    let second = delete(&host, &document, "--status").exits(127).json();
    assert_eq!(
        second["bocker"]["x-unknown"],
        document["bocker"]["x-unknown"]
    );
    assert_eq!(
        second["linux"],
        json!({"resources": {"hugepageLimits": []}})
    );
    assert!(second["bocker"].get("cg").is_none());
    host.assert_same(&before);
}

#[test]
fn the_lines_that_v_prints_make_the_same_groups() {
    let host = Host::new();
    let empty = host.fingerprint();
    let made = host.sh(&format!("bocker-cg create --new -v {LIMITS}")).ok();
    let document = made.json();
    let files = |document: &Value| -> Vec<String> {
        let shown = [
            ("cpu", "cpu.shares"),
            ("cpu", "cpu.cfs_quota_us"),
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
            ("pids", "pids.max"),
            ("devices", "devices.list"),
        ];
        shown
            .iter()
            .map(|(c, f)| read(&group(document, c).join(f)))
            .collect()
    };
    let by_the_tool = (
        host.fingerprint().section("cgroups").to_vec(),
        files(&document),
    );
    delete(&host, &document, "").ok();
    host.assert_same(&empty);

    let lines: Vec<&str> = made
        .stderr
        .lines()
        .filter_map(|l| l.strip_prefix("+ "))
        .collect();
    host.sh(&format!("set -e\n{}", lines.join("\n"))).ok();
    let by_root = (
        host.fingerprint().section("cgroups").to_vec(),
        files(&document),
    );
    assert_eq!(by_the_tool, by_root);
}

#[test]
fn a_dry_run_makes_nothing_and_says_so_to_the_next_stage() {
    let host = Host::new();
    let before = host.fingerprint();
    let plan = host
        .sh(&format!("bocker-cg create --new --dry-run {LIMITS}"))
        .ok();
    assert_eq!(plan.json()["bocker"]["dry_run"], true);
    assert!(
        plan.stderr
            .contains("+ mkdir /sys/fs/cgroup/memory/ps_dryrun"),
        "{plan}"
    );
    delete(&host, &plan.json(), "").ok();
    host.assert_same(&before);
}

#[test]
fn a_failure_at_any_step_is_taken_back() {
    let host = Host::new();
    let before = host.fingerprint();
    let steps = [
        "claim", "cpu", "cpuacct", "memory", "pids", "devices", "freezer",
    ];
    for step in steps.map(|s| format!("cg.{s}")) {
        let failed = host
            .call(&["bocker-cg", "create", "--new", "--memory", "64m"])
            .env("BOCKER_FAIL_AT", &step)
            .run()
            .exits(125)
            .says(&step);
        assert_eq!(
            failed.json()["bocker"]["error"]["kind"],
            "injected",
            "{step}"
        );
        assert!(failed.json()["bocker"].get("cg").is_none());
        host.assert_same(&before);
    }
}

#[test]
fn what_a_killed_create_has_left_is_collected_after_its_grace_and_not_before() {
    let host = Host::new();
    let before = host.fingerprint();
    for step in ["cg.claim", "cg.cpu", "cg.devices", "cg.freezer"] {
        host.call(&["bocker-cg", "create", "--new"])
            .env("BOCKER_FAIL_AT", format!("kill:{step}"))
            .run()
            .exits(137);
        assert_ne!(before.diff(&host.fingerprint()), "", "{step}");
        let left = host.fingerprint();
        host.run(&["bocker-cg", "gc"]).ok();
        host.run(&["bocker-cg", "gc", "--grace", "0", "--dry-run"])
            .ok();
        host.assert_same(&left);
        let gone = host
            .run(&["bocker-cg", "gc", "--grace", "0"])
            .ok()
            .json_lines();
        assert_eq!(gone.len(), 1);
        assert_eq!(
            (&gone[0]["state"], &gone[0]["removed"]),
            (&json!("creating"), &json!(true))
        );
        host.assert_same(&before);
    }
}

#[test]
fn the_groups_of_another_root_and_of_nobody_are_never_collected() {
    let host = Host::new();
    let other = host.another_root("other");
    host.call(&["bocker-cg", "create", "--new"])
        .env("BOCKER_ROOT", &other)
        .run()
        .ok();
    host.sh("mkdir /sys/fs/cgroup/pids/ps_nobody").ok();
    let before = host.fingerprint();
    let gc = host
        .run(&["bocker-cg", "gc", "--grace", "0", "--force"])
        .ok();
    assert_eq!(gc.stdout, "");
    let gc = host
        .run(&["bocker-cg", "gc", "--grace", "0", "--orphans"])
        .ok()
        .json_lines();
    assert_eq!(gc.len(), 1);
    assert_eq!(
        (&gc[0]["id"], &gc[0]["removed"]),
        (&json!("ps_nobody"), &json!(false))
    );
    host.assert_same(&before);
}

#[test]
fn a_document_cannot_make_another_roots_groups_go() {
    let host = Host::new();
    let other = host.another_root("other");
    let theirs = host
        .call(&["bocker-cg", "create", "--new"])
        .env("BOCKER_ROOT", &other)
        .run();
    let before = host.fingerprint();
    delete(&host, &theirs.ok().json(), "--force")
        .exits(125)
        .says("belongs to BOCKER_ROOT=");
    host.assert_same(&before);
}

#[test]
fn paths_in_a_document_are_never_followed() {
    let host = Host::new();
    let victim = host.scratch().join("victim");
    fs::create_dir(&victim).expect("mkdir");
    host.sh("mkdir /sys/fs/cgroup/pids/ps_victim").ok();
    let mut document = create(&host, "");
    let honest = document.clone();
    document["bocker"]["cg"]["paths"]["memory"] = json!(victim);
    document["bocker"]["cg"]["paths"]["pids"] = json!("/sys/fs/cgroup/pids/ps_victim");
    document["bocker"]["cg"]["path"] = json!("/../ps_victim");
    delete(&host, &document, "--force").ok();
    assert!(victim.exists() && Path::new("/sys/fs/cgroup/pids/ps_victim").exists());
    assert!(!group(&honest, "memory").exists());
    for hostile in ["../ps_vi", "ps_/../", "/", ""] {
        document["bocker"]["id"] = json!(hostile);
        delete(&host, &document, "--force").exits(125);
    }
}

#[test]
fn what_is_alive_is_refused_and_force_kills_it_even_when_it_forks() {
    let host = Host::new();
    let before = host.fingerprint();
    let document = create(&host, "--pids-limit 200");
    let running = occupy(&host, &document);
    delete(&host, &document, "")
        .exits(125)
        .says("1 process is in its cgroup");
    assert!(group(&document, "memory").exists());
    drop(running);
    let procs = group(&document, "freezer").join("cgroup.procs");
    let bomb = format!(
        "echo $$ > {}; while :; do (sleep 5 &) ; done 2>/dev/null",
        procs.display()
    );
    let bomb = host.spawn(&["sh", "-c", &bomb]);
    host.wait_for("it forks", || {
        (read(&procs).lines().count() > 50).then_some(())
    });
    delete(&host, &document, "--force").ok();
    drop(bomb);
    host.assert_same(&before);
}

#[test]
fn groups_made_inside_the_containers_own_go_with_them() {
    let host = Host::new();
    let before = host.fingerprint();
    let document = create(&host, "");
    fs::create_dir_all(group(&document, "memory").join("a/b/c")).expect("mkdir");
    delete(&host, &document, "").ok();
    host.assert_same(&before);
}

#[test]
fn a_container_that_was_claimed_and_never_started_is_deleted_by_its_id() {
    let host = Host::new();
    let before = host.fingerprint();
    let document = create(&host, "");
    host.run(&["bocker-cg", "delete", id(&document)]).ok();
    host.assert_same(&before);
    host.run(&["bocker-cg", "delete", id(&document)])
        .exits(125)
        .says("No container named");
    host.run(&["bocker-cg", "delete", ""]).exits(125);
}

#[test]
fn a_group_that_is_there_already_is_not_taken_over() {
    let host = Host::new();
    let document = create(&host, LIMITS);
    let groups = host.fingerprint().section("cgroups").to_vec();
    host.call(&["bocker-cg", "create"])
        .stdin(document.to_string())
        .run()
        .exits(125)
        .says("exists already");
    assert_eq!(host.fingerprint().section("cgroups"), groups);
    assert_eq!(read(&group(&document, "pids").join("pids.max")), "50");
}

#[test]
fn a_later_start_makes_the_same_groups_from_the_request_in_the_document() {
    let host = Host::new();
    let first = create(&host, &format!("{LIMITS} --devices all"));
    let again = first.to_string();
    host.sh(&format!("rmdir /sys/fs/cgroup/*/{}", id(&first)))
        .ok();
    let second = host
        .call(&[
            "bocker-cg",
            "create",
            "--pids-limit",
            "60",
            "--default-memory",
            "1g",
        ])
        .stdin(again)
        .run()
        .ok()
        .json();
    assert_eq!(read(&group(&second, "cpu").join("cpu.shares")), "512");
    assert_eq!(
        read(&group(&second, "memory").join("memory.limit_in_bytes")),
        "67108864"
    );
    assert_eq!(read(&group(&second, "pids").join("pids.max")), "60");
    assert_eq!(
        read(&group(&second, "devices").join("devices.list")),
        "a *:* rwm"
    );
}

#[test]
fn absurd_values_are_refused_and_make_nothing() {
    let host = Host::new();
    let before = host.fingerprint();
    for options in [
        "--memory 0",
        "--memory 1",
        "--memory 4k",
        "--memory -1",
        "--memory 1+1",
        "--memory 'a[$(touch x)]'",
        "--memory 99999999999g",
        "--memory ''",
        "--memory",
        "--cpus 0",
        "--cpus -1",
        "--cpus 1e9",
        "--cpus NaN",
        "--cpus 9999",
        "--cpu-shares 1",
        "--cpu-shares 0",
        "--cpu-shares 300000",
        "--cpu-shares -5",
        "--cpu-shares 'a[$(touch x)]'",
        "--pids-limit 0",
        "--pids-limit -2",
        "--pids-limit 1+1",
        "--pids-limit +1",
        "--devices some",
        "--mem 64m",
        "word",
    ] {
        let refused = host
            .sh(&format!("bocker-cg create --new {options}"))
            .exits(125);
        assert_eq!(refused.stderr.lines().count(), 1, "one line: {refused}");
        assert_eq!(refused.json()["bocker"]["error"]["stage"], "cg");
        host.assert_same(&before);
    }
}

#[test]
fn a_process_is_held_to_its_limits_and_an_oom_kill_names_the_one_that_nobody_chose() {
    let host = Host::new();
    let document = create(&host, "--default-memory 20MB --pids-limit 5");
    let procs = |c| {
        group(&document, c)
            .join("cgroup.procs")
            .display()
            .to_string()
    };
    // Doubling a string: more than 20 MB soon, and without a limit no more than 128 MB.
    let eater = "x=aaaaaaaaaaaaaaaa; i=0; while [ $i -lt 23 ]; do x=$x$x; i=$((i+1)); done";
    host.sh(&format!("echo $$ > {}; {eater}", procs("memory")))
        .exits(137);
    host.sh(&format!(
        "echo $$ > {}; for i in 1 2 3 4 5 6; do sleep 1 & done; wait",
        procs("pids")
    ))
    .says("fork");
    delete(&host, &document, "")
        .ok()
        .says("ran out of memory, limit 20 MB (default): the kernel killed 1 process");
}

#[test]
fn only_harmless_devices_can_be_opened() {
    let host = Host::new();
    let document = create(&host, "");
    let procs = group(&document, "devices")
        .join("cgroup.procs")
        .display()
        .to_string();
    let disk = host.scratch().join("disk");
    let look = host.sh(&format!(
        "echo $$ > {procs}
        for d in null zero full random urandom; do (: < /dev/$d) 2>/dev/null && echo $d; done
        mknod {disk} b 7 0 && echo made; head -c 1 {disk}; (: < /dev/kmsg) 2>/dev/null || echo no kmsg",
        disk = disk.display()
    ));
    assert_eq!(
        look.stdout, "null\nzero\nfull\nrandom\nurandom\nmade\nno kmsg\n",
        "{look}"
    );
    assert!(look.stderr.contains("Operation not permitted"), "{look}");
}

#[test]
fn the_device_list_is_what_runc_makes_of_dockers_configuration() {
    if !need("runc jq") {
        return;
    }
    let host = Host::new();
    let ours = create(&host, "");
    let rootfs = host.busybox_rootfs("rootfs");
    // daemon/pkg/oci/defaults.go: deny all, then null, zero, random, urandom, console and tty.
    let docker = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
        {"allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
        {"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"},
        {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    ]);
    let bundle = host.scratch();
    let list = |name: &str, devices: &Value| {
        let script = format!(
            "cd {bundle} && rm -f config.json && runc spec && jq --argjson d '{devices}' \
             '.linux.resources.devices = $d | .linux.cgroupsPath = \"/{name}\" | .process.terminal = false \
             | .process.args = [\"sleep\", \"1000\"] | .root.path = \"{rootfs}\"' config.json > c && mv c config.json \
             && runc --root state run -d {name} </dev/null >/dev/null 2>&1 \
             && sort /sys/fs/cgroup/devices/{name}/devices.list; runc --root state delete --force {name}",
            bundle = bundle.display(),
            rootfs = rootfs.display(),
        );
        host.sh(&script).ok().stdout
    };
    let theirs = list("docker", &docker);
    assert!(
        theirs.contains("c 1:3 rwm") && theirs.contains("c 136:* rwm"),
        "{theirs}"
    );
    let mut mine: Vec<String> = read(&group(&ours, "devices").join("devices.list"))
        .lines()
        .map(str::to_owned)
        .collect();
    mine.sort();
    // Debian 12's runc still allows the tun device, which runc itself has since dropped.
    let theirs: Vec<&str> = theirs.lines().filter(|l| *l != "c 10:200 rwm").collect();
    assert_eq!(mine, theirs);
    // And from our own document runc makes the same list.
    let by_runc = list("ours", &ours["linux"]["resources"]["devices"]);
    assert_eq!(
        by_runc
            .lines()
            .filter(|l| *l != "c 10:200 rwm")
            .collect::<Vec<_>>(),
        theirs
    );
}

#[test]
fn a_controller_that_is_not_mounted_is_an_error_only_when_it_was_asked_for() {
    let host = Host::new();
    host.sh("umount /sys/fs/cgroup/memory /sys/fs/cgroup/devices")
        .ok();
    let before = host.fingerprint();
    host.sh("bocker-cg create --new --memory 64m")
        .exits(125)
        .says("--memory needs the memory controller, which is not mounted");
    host.assert_same(&before);
    let without = host
        .sh("bocker-cg create --new --default-memory 64m --pids-limit 5")
        .ok();
    let document = without.says("the default limit is not set").json();
    let paths = document["bocker"]["cg"]["paths"]
        .as_object()
        .expect("paths");
    assert!(!paths.contains_key("memory") && !paths.contains_key("devices"));
    assert!(document["linux"]["resources"].get("memory").is_none());
    assert!(document["linux"]["resources"].get("devices").is_none());
    delete(&host, &document, "").ok();
    host.assert_same(&before);
}

#[test]
fn version_2_is_used_where_it_is_mounted_by_convention() {
    let host = Host::new();
    host.sh("umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        .ok();
    let info = host.run(&["bocker-cg", "info"]).ok().json();
    assert_eq!(info["version"], 2);
    let document = create(&host, "");
    let group = group(&document, "devices");
    assert_eq!(
        group,
        Path::new("/sys/fs/cgroup/bocker").join(id(&document))
    );
    let running = host.spawn(&[
        "sh",
        "-c",
        &format!(
            "echo $$ > {}/cgroup.procs; exec sleep 1000",
            group.display()
        ),
    ]);
    host.wait_for("the process is in its group", || {
        (!read(&group.join("cgroup.procs")).is_empty()).then_some(())
    });
    delete(&host, &document, "")
        .exits(125)
        .says("1 process is in its cgroup");
    delete(&host, &document, "--force").ok();
    drop(running);
    assert!(!group.exists());
    // A controller that a v1 hierarchy has is not to be had on v2: here, all that limit anything.
    host.sh("bocker-cg create --new --memory 64m")
        .exits(125)
        .says("needs the memory controller, which /sys/fs/cgroup/cgroup.controllers does not have");
    // What all share there is this machine's, and not only this test's.
    host.run(&["bocker-cg", "reset"]);
}

#[test]
fn controllers_that_are_mounted_together_share_one_group() {
    let host = Host::new();
    let before = host.fingerprint();
    // The kernel binds a controller to one hierarchy for as long as anybody has it mounted, so those that are mounted
    // together cannot be chosen here. What can be is what mountinfo says: that cpu and cpuacct are on one mount.
    let script = r#"set -e
        cd $TMPDIR
        grep -v ' rw,cpuacct$' /proc/self/mountinfo | sed 's/ rw,cpu$/ rw,cpu,cpuacct/' > mountinfo
        boot=$(cat /proc/sys/kernel/random/boot_id)
        mount -t tmpfs proc /proc
        mkdir -p /proc/self /proc/sys/kernel/random
        mv mountinfo /proc/self; echo $boot > /proc/sys/kernel/random/boot_id
        bocker-cg create --new --cpus 2 -v > document
        cat document; ls -d /sys/fs/cgroup/cpu*/ps_* >&2
        bocker-cg delete < document > /dev/null
        rm document; umount /proc"#;
    let output = host.sh(script).ok();
    let document = output.json();
    assert_eq!(group(&document, "cpu"), group(&document, "cpuacct"));
    let made = group(&document, "cpu").display().to_string();
    let lines = |line: &str| output.stderr.lines().filter(|l| *l == line).count();
    assert_eq!(lines(&format!("+ mkdir {made}")), 1, "{output}");
    assert_eq!(lines(&made), 1, "{output}");
    host.assert_same(&before);
}

#[test]
fn a_signal_while_it_waits_for_its_document_takes_everything_back() {
    let host = Host::new();
    let before = host.fingerprint();
    let output = host.sh(
        "(sleep 0.2; echo '{}') | { bocker-cg create <&3 & p=$!; sleep 0.1; kill -TERM $p; wait $p; } 3<&0",
    );
    assert_eq!(output.code, 143, "{output}");
    assert_eq!(output.json()["bocker"]["error"]["code"], 143);
    host.assert_same(&before);
}

#[test]
fn a_reader_that_has_gone_makes_create_take_everything_back() {
    let host = Host::new();
    let before = host.fingerprint();
    host.sh("{ sleep 0.1; bocker-cg create --new; echo $? >&2; } | true")
        .says("125");
    host.assert_same(&before);
}

#[test]
fn twenty_at_once_have_twenty_ids() {
    let host = Host::new();
    let before = host.fingerprint();
    let running: Vec<_> = (0..20)
        .map(|_| host.spawn(&["bocker-cg", "create", "--new", "--memory", "64m"]))
        .collect();
    let documents: Vec<Value> = running.into_iter().map(|r| r.wait().ok().json()).collect();
    let ids: std::collections::BTreeSet<&str> = documents.iter().map(id).collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(host.run(&["bocker-cg", "list"]).ok().json_lines().len(), 20);
    for document in &documents {
        delete(&host, document, "").ok();
    }
    host.assert_same(&before);
}
