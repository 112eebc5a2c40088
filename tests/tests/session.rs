//! The session of the original's README, and its eight acceptance tests, against a real registry.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_tests::{Host, Hub, Image, Output, Registry, need};

/// A machine with a registry that holds one image.
struct Session {
    host: Host,
}

impl Session {
    fn new() -> Session {
        Session { host: Host::new() }
    }

    fn bocker(&self, words: &[&str]) -> Output {
        self.host.run(&[&["bocker"], words].concat())
    }

    fn text(&self, words: &[&str]) -> String {
        self.bocker(words).text()
    }

    /// The id that a verb says after `Created: `.
    fn created(&self, words: &[&str]) -> String {
        let said = self.text(words);
        let id = said
            .strip_prefix("Created: ")
            .and_then(|id| id.strip_suffix('\n'));
        assert!(id.is_some_and(|id| id.starts_with("img_")), "{said}");
        id.unwrap_or_default().to_owned()
    }

    fn busybox(&self) -> String {
        let rootfs = self.host.busybox_rootfs("base-image").display().to_string();
        self.created(&["init", &rootfs])
    }

    /// The container whose command holds `text`, found in the list as the original's tests do.
    fn container(&self, text: &str) -> String {
        let list = self.text(&["ps"]);
        let line = list.lines().find(|line| line.contains(text));
        let id = line.and_then(|line| line.split("\t\t").next());
        id.unwrap_or_else(|| panic!("{text} is not in {list}"))
            .to_owned()
    }

    /// Runs a command in an image and gives what `logs` shows of it.
    fn logs_of(&self, image: &str, command: &[&str]) -> String {
        self.bocker(&[&["run", image], command].concat());
        let id = self.container(&command.join(" "));
        self.text(&["logs", &id])
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.bocker(&["system", "reset", "--force"]).ok();
        }
    }
}

fn lines_with(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}

#[test]
fn the_session_of_the_originals_readme() {
    let s = Session::new();
    let registry = Registry::start(&s.host);
    registry.push(&Image::full(), "centos:7");
    let name = format!("{}/centos", registry.address());

    let image = s.created(&["pull", &name, "7"]);
    assert_eq!(
        s.text(&["images"]),
        format!("IMAGE_ID\t\tSOURCE\n{image}\t\t{name}:7\n")
    );

    assert_eq!(
        s.text(&["run", &image, "cat", "hello"]),
        "hello from the image\n"
    );
    let id = s.container("cat hello");
    assert_eq!(
        s.text(&["ps"]),
        format!("CONTAINER_ID\t\tCOMMAND\n{id}\t\tcat hello\n")
    );
    assert_eq!(s.text(&["logs", &id]), "hello from the image\n");
    assert_eq!(s.text(&["rm", &id]), format!("Removed: {id}\n"));

    s.bocker(&["run", &image, "which", "wget2"]).exits(1);
    let missing = s.container("which wget2");
    s.text(&["rm", &missing]);
    s.text(&[
        "run",
        "-u",
        "root",
        &image,
        "cp /bin/busybox /usr/bin/wget2",
    ]);
    let changed = s.container("cp /bin/busybox /usr/bin/wget2");
    let said = s.text(&["commit", &changed, &image]);
    assert_eq!(said, format!("Removed: {image}\nCreated: {image}\n"));
    assert_eq!(
        s.text(&["run", &image, "which", "wget2"]),
        "/usr/bin/wget2\n"
    );
}

#[test]
fn the_limits_of_the_session_are_in_the_cgroup_files() {
    let s = Session::new();
    let image = s.busybox();
    // On v2, the weights that runc makes of the shares.
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (script, weights) = match v2 {
        true => (
            "cd /sys/fs/cgroup; cat cpu.weight memory.max",
            ["100", "59", "3", "3"],
        ),
        false => (
            "cd /sys/fs/cgroup; cat cpu/cpu.shares memory/memory.limit_in_bytes",
            ["1024", "512", "7", "9"],
        ),
    };
    let expected = |case: usize, memory: &str| format!("{}\n{memory}\n", weights[case]);
    let set = [("BOCKER_CPU_SHARE", "1024"), ("BOCKER_MEM_LIMIT", "1024")];
    let call = s.host.call(&["bocker", "run", &image, script]);
    let call = set
        .iter()
        .fold(call, |call, (name, value)| call.env(name, value));
    assert_eq!(call.run().text(), expected(0, "1024000000"));
    let shown = s.text(&["run", &image, script]);
    assert_eq!(shown, expected(1, "512000000"), "the defaults");
    let shown = s.text(&["--CPU_SHARE=7", "--MEM_LIMIT=30", "run", &image, script]);
    // The kernel rounds down to whole pages.
    assert_eq!(shown, expected(2, "29999104"));
    let flags = [
        "--MEM_LIMIT=30",
        "run",
        "--memory",
        "64m",
        "--cpu-shares",
        "9",
        &image,
        script,
    ];
    assert_eq!(
        s.text(&flags),
        expected(3, "67108864"),
        "a flag of run wins"
    );
    let cgroups = s.text(&["run", &image, "cat", "/proc/1/cgroup"]);
    if v2 {
        assert_eq!(cgroups, "0::/\n", "a namespace of its own");
        return;
    }
    for controller in ["cpu", "memory"] {
        let line = |line: &str| line.contains(controller) && line.contains(":/ps_");
        assert!(cgroups.lines().any(line), "{controller}: {cgroups}");
    }
}

#[test]
fn docker_hub_names_are_meant_where_no_registry_is_named() {
    if !need("openssl") {
        return;
    }
    let s = Session::new();
    let hub = Hub::start(&s.host);
    let pull = hub.trust(s.host.call(&["bocker", "pull", "busybox", "1"]));
    assert!(pull.run().text().starts_with("Created: img_"));
    assert!(s.text(&["images"]).ends_with("\t\tbusybox:1\n"));
    assert_eq!(s.text(&["run", "--rm", "busybox:1", "echo", "hi"]), "hi\n");
}

#[test]
fn an_image_that_is_not_there_is_pulled_once() {
    let s = Session::new();
    let registry = Registry::start(&s.host);
    let reference = registry.push(&Image::simple(), "simple:1");
    let first = s
        .bocker(&["-x", "run", "--rm", &reference, "echo", "hi"])
        .ok();
    assert_eq!(first.stdout, "hi\n", "the pull says nothing on stdout");
    assert!(
        first.stderr.contains(&format!(
            "bocker-pull pull {reference} | bocker-snap import"
        )),
        "{first}"
    );
    let second = s
        .bocker(&["-x", "run", "--rm", &reference, "echo", "hi"])
        .ok();
    assert!(!second.stderr.contains("bocker-pull"), "{second}");
    let missing = format!("{}/none:1", registry.address());
    let output = s.bocker(&["run", &missing, "true"]).exits(125);
    assert!(
        output
            .stderr
            .contains(&format!("No image named '{missing}' exists")),
        "{output}"
    );
}

#[test]
fn what_an_image_says_of_its_command_holds() {
    let s = Session::new();
    let registry = Registry::start(&s.host);
    let reference = registry.push(&Image::full(), "full:1");
    assert_eq!(
        s.text(&["run", "--rm", &reference]),
        "hello from the image\n"
    );
    let about = "pwd; id -un; echo $FIXTURE";
    assert_eq!(
        s.text(&["run", "--rm", &reference, about]),
        "/data\napp\nfrom the image\n"
    );
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        &reference,
        "sh",
        "-c",
        "trap 'exit 9' USR1; while :; do sleep 0.05; done",
    ];
    s.text(&run);
    s.host.wait_for("the trap is set", || {
        let status = s.text(&["exec", "box", "grep", "SigCgt", "/proc/1/status"]);
        let mask = u64::from_str_radix(status.split_whitespace().nth(1)?, 16).ok()?;
        (mask >> 9 & 1 == 1).then_some(())
    });
    s.text(&["stop", "box"]);
    let status = s.text(&["ps", "--format", "{{.Status}}"]);
    assert!(
        status.starts_with("Exited (9)"),
        "the image's stop signal: {status}"
    );
}

// The original's tests, by their numbers.

#[test]
fn t1_images_begins_with_its_columns() {
    let s = Session::new();
    assert_eq!(
        s.text(&["images"]).lines().next(),
        Some("IMAGE_ID\t\tSOURCE")
    );
}

#[test]
fn t2_ps_begins_with_its_columns() {
    let s = Session::new();
    assert_eq!(
        s.text(&["ps"]).lines().next(),
        Some("CONTAINER_ID\t\tCOMMAND")
    );
}

#[test]
fn t3_init_says_what_it_created() {
    let s = Session::new();
    let rootfs = s.host.busybox_rootfs("base-image").display().to_string();
    let said = s.bocker(&["init", &rootfs]).ok();
    assert!(
        said.stdout.starts_with("Created: img_") && said.stdout.lines().count() == 1,
        "{said}"
    );
    assert_eq!(said.stderr, "");
    assert!(
        s.text(&["images"]).ends_with(&format!("\t\t{rootfs}\n")),
        "its source is the directory"
    );
}

#[test]
fn t4_rm_removes_an_image_whose_container_exists_and_then_the_container() {
    let s = Session::new();
    let image = s.busybox();
    s.text(&["run", &image, "echo 12345"]);
    let id = s.container("echo 12345");
    assert_eq!(lines_with(&s.text(&["images"]), &image), 1);
    assert_eq!(lines_with(&s.text(&["ps"]), "echo 12345"), 1);
    assert_eq!(s.text(&["rm", &image]), format!("Removed: {image}\n"));
    assert_eq!(s.text(&["rm", &id]), format!("Removed: {id}\n"));
    assert_eq!(lines_with(&s.text(&["images"]), &image), 0);
    assert_eq!(lines_with(&s.text(&["ps"]), "echo 12345"), 0);
}

#[test]
fn t5_run_runs_commands_with_a_network() {
    let s = Session::new();
    let image = s.busybox();
    assert_eq!(s.logs_of(&image, &["echo foo"]), "foo\n");
    assert_eq!(s.logs_of(&image, &["uname"]), "Linux\n");
    assert!(s.logs_of(&image, &["ip addr"]).contains("inet 10."));
    assert!(
        s.logs_of(&image, &["cat /proc/self/stat"])
            .contains(" (cat) ")
    );
    // The interface has the original's name, too; busybox's ip does not show alternative names.
    s.text(&["run", "-d", "--name", "box", &image, "sleep", "1000"]);
    let id = s.container("sleep 1000");
    let link = s.host.run(&[
        "sh",
        "-c",
        &format!("nsenter --net=/run/bocker/{id}/netns ip link show veth1_{id}"),
    ]);
    assert!(link.text().contains("eth0"));
    let route = s.text(&["exec", "box", "ip", "route"]);
    let gateway = route.split_whitespace().nth(2).unwrap_or_default();
    assert!(
        s.logs_of(&image, &["ping", "-c", "1", gateway])
            .contains("0% packet loss")
    );
}

#[test]
fn t6_exec_joins_a_running_container() {
    let s = Session::new();
    let image = s.busybox();
    let running = s
        .host
        .spawn(&["bocker", "run", &image, "sleep 1000 && ps aux"]);
    let id = s.host.wait_for("it runs", || {
        let list = s.text(&["ps", "--format", "{{.ID}} {{.State}}"]);
        list.trim().strip_suffix(" running").map(str::to_owned)
    });
    s.host.wait_for("its shell has started sleep", || {
        s.text(&["exec", &id, "ps", "aux"])
            .contains("sleep 1000\n")
            .then_some(())
    });
    // The heading, process 1, sleep, and ps itself.
    assert_eq!(s.text(&["exec", &id, "ps", "aux"]).lines().count(), 4);
    s.text(&["kill", &id]);
    running.wait().exits(137);

    s.text(&["run", "--name", "done", &image, "ps", "aux"]);
    let dead = s.container("ps aux");
    let output = s.bocker(&["exec", &dead, "ps", "aux"]).exits(125);
    assert_eq!(output.stdout, "");
    assert!(
        output
            .stderr
            .contains(&format!("Container '{dead}' exists but is not running")),
        "{output}"
    );
    s.bocker(&["exec", "foo", "ps", "aux"])
        .exits(125)
        .says("No container named 'foo' exists");
}

#[test]
fn t7_commit_keeps_what_was_installed() {
    let s = Session::new();
    let image = s.busybox();
    assert_eq!(s.logs_of(&image, &["which", "tool"]), "");
    let id = s.container("which tool");
    s.text(&["rm", &id]);
    let install = "cp /bin/busybox /bin/tool";
    s.text(&["run", &image, install]);
    let id = s.container(install);
    assert_eq!(
        s.text(&["commit", &id, &image]),
        format!("Removed: {image}\nCreated: {image}\n")
    );
    assert_eq!(s.logs_of(&image, &["which", "tool"]), "/bin/tool\n");
}

#[test]
fn t8_pull_takes_a_name_and_a_tag() {
    let s = Session::new();
    let registry = Registry::start(&s.host);
    for tag in ["7", "14.04"] {
        registry.push(&Image::full(), &format!("centos:{tag}"));
        let image = s.created(&["pull", &format!("{}/centos", registry.address()), tag]);
        assert_eq!(
            s.logs_of(&image, &["tail", "-n", "1", "/data/hello"]),
            "hello from the image\n"
        );
        let id = s.container("tail -n 1 /data/hello");
        s.text(&["rm", &id]);
    }
}

#[test]
fn what_is_left_in_the_background_outlives_the_groups_of_whoever_started_it() {
    let s = bocker_tests::Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let mounts = fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
    let words = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let groups = words.filter(|words| words[2].starts_with("cgroup"));
    let units: Vec<PathBuf> = groups
        .map(|words| Path::new(words[1]).join("unit"))
        .collect();
    let mut script = String::new();
    for unit in &units {
        fs::create_dir(unit).expect("mkdir");
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if unit.join(file).exists() {
                let value = fs::read(unit.join("..").join(file)).expect("what is above");
                fs::write(unit.join(file), value).expect("a processor");
            }
        }
        script += &format!("echo $$ > {}/cgroup.procs; ", unit.display());
    }
    script += &format!(
        "bocker run -d --name box --rootfs {} sleep 1000; exec bocker exec -d box sleep 1234",
        s.rootfs
    );
    s.host.run(&["sh", "-c", &script]).ok();
    // Who stops a unit kills what is in its groups: there is nobody.
    for unit in &units {
        s.host.wait_for("the group is empty", || {
            let left = fs::read_to_string(unit.join("cgroup.procs")).expect("the group");
            left.is_empty().then_some(())
        });
    }
    let info = s.bocker(&["system", "info"]).ok().json();
    let homes = info["cg"]["supervisors"].as_array().expect("supervisors");
    let homes: Vec<&Path> = homes
        .iter()
        .filter_map(|home| home.as_str().map(Path::new))
        .collect();
    assert_eq!(homes.len(), units.len());
    for home in &homes {
        let there = fs::read_to_string(home.join("cgroup.procs")).expect("the group");
        assert!(!there.is_empty(), "{}", home.display());
    }
    let state = s.bocker(&["ps", "--format", "{{.State}}"]).text();
    assert_eq!(state, "running\n");
    s.host.wait_for("the command that was left there", || {
        let top = s.bocker(&["top", "box", "-o", "args"]).text();
        top.lines().find(|line| *line == "sleep 1234").map(drop)
    });
    s.bocker(&["stop", "-t", "0", "box"]).ok();
    s.bocker(&["rm", "box"]).ok();
    units
        .iter()
        .for_each(|unit| fs::remove_dir(unit).expect("rmdir"));
    s.host.assert_same(&before);
    s.bocker(&["system", "reset", "--force"]).ok();
    assert!(homes.iter().all(|home| !home.exists()));
}
