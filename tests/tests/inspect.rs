//! `inspect` as scripts written for docker use it: its members, its templates, its exit codes.

use std::fs;

use bocker_tests::Session;
use serde_json::{Value, json};

/// What a template makes of something.
fn shown(s: &Session, name: &str, template: &str) -> String {
    let output = s.bocker(&["inspect", "--format", template, name]);
    output.text().trim_end().to_owned()
}

#[test]
fn the_templates_that_people_use_work() {
    let s = Session::with_base();
    let options = [
        "-l",
        "a=b",
        "-e",
        "A=1",
        "-w",
        "/tmp",
        "-u",
        "7:8",
        "-m",
        "64m",
        "--cpus",
        "1.5",
        "-p",
        "127.0.0.1:8080:80",
        "-v",
        "data:/data",
        "--stop-signal",
        "USR1",
        "--restart",
        "on-failure:3",
    ];
    s.runs("web", &options, "echo ready; exec sleep 1000");
    let id = s.bocker(&["ps", "-q"]).text();
    let id = id.trim();
    let address = s.bocker(&["exec", "web", "hostname", "-i"]).text();
    let mac = s
        .bocker(&["exec", "web", "cat", "/sys/class/net/eth0/address"])
        .text();
    let log = s.host.root().join("containers").join(id).join("log");
    let data = s.host.root().join("volumes/data/data");
    for (template, expected) in [
        ("{{.Id}} {{.Name}}", &*format!("{id} /web")),
        (
            "{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.ExitCode}}",
            "running true false 0",
        ),
        ("{{.State.FinishedAt}}", "0001-01-01T00:00:00Z"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        (
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}",
            &format!("{} {}", address.trim(), mac.trim()),
        ),
        ("{{.NetworkSettings.IPAddress}}", address.trim()),
        (
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "8080",
        ),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}}{{$p}} -> {{(index $conf 0).HostIp}}{{end}}",
            "80/tcp -> 127.0.0.1",
        ),
        (
            "{{json .HostConfig.PortBindings}}",
            r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}"#,
        ),
        ("{{.LogPath}}", &log.display().to_string()),
        (
            "{{.Config.Image}} {{.Config.WorkingDir}} {{.Config.User}} {{.Config.StopSignal}}",
            "base:1 /tmp 7:8 USR1",
        ),
        (
            "{{range .Config.Env}}{{println .}}{{end}}",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOSTNAME=web\nA=1",
        ),
        (
            "{{index .Config.Labels \"a\"}} {{len .Config.Labels}}",
            "b 1",
        ),
        (
            "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.NetworkMode}}",
            "67108864 1500000000 bridge",
        ),
        (
            "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.RestartCount}}",
            "on-failure 3 0",
        ),
        ("{{json .HostConfig.Binds}}", r#"["data:/data"]"#),
        (
            "{{range .Mounts}}{{.Name}} {{.Source}}{{end}}",
            &format!("data {}", data.display()),
        ),
        (
            "{{.Path}} {{index .Args 0}} {{json .Config.Cmd}}",
            r#"/bin/sh -c ["/bin/sh","-c","echo ready; exec sleep 1000"]"#,
        ),
    ] {
        let expected = expected.replace("HOSTNAME=web", &format!("HOSTNAME={id}"));
        let shown = shown(&s, "web", template);
        let without_home: Vec<&str> = shown
            .lines()
            .filter(|line| !line.starts_with("HOME="))
            .collect();
        assert_eq!(without_home.join("\n"), expected, "{template}");
    }
    let pid = shown(&s, "web", "{{.State.Pid}}");
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("process 1");
    assert_eq!(command, "sleep\x001000\0");
    s.bocker(&["rm", "-f", "-v", "web"]).ok();
    s.bocker(&["volume", "rm", "data"]);
}

#[test]
fn what_has_ended_says_how_and_holds_no_address() {
    let s = Session::with_base();
    s.bocker(&[
        "run", "--name", "done", "-p", "8080:80", "base:1", "sh", "-c", "exit 3",
    ])
    .exits(3);
    s.bocker(&["create", "--name", "made", "base:1", "true"])
        .ok();
    let found = s.bocker(&["inspect", "done", "made"]).ok().json();
    let (done, made) = (&found[0], &found[1]);
    assert_eq!(done["State"]["Status"], "exited");
    assert_eq!(
        (
            &done["State"]["Running"],
            &done["State"]["ExitCode"],
            &done["State"]["Pid"]
        ),
        (&json!(false), &json!(3), &json!(0))
    );
    let time = |moment: &str| done["State"][moment].as_str().expect("a time").to_owned();
    assert!(time("StartedAt") < time("FinishedAt"));
    assert_eq!(done["NetworkSettings"]["Ports"], json!({}));
    assert_eq!(
        done["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
        ""
    );
    assert_eq!(
        done["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"],
        "8080"
    );
    assert_eq!(
        (&made["State"]["Status"], &made["State"]["StartedAt"]),
        (&json!("created"), &json!("0001-01-01T00:00:00Z"))
    );
}

#[test]
fn an_entrypoint_is_told_from_its_arguments() {
    let s = Session::with_base();
    s.bocker(&["run", "--name", "a1", "base:1", "true"]).ok();
    s.bocker(&[
        "commit",
        "-c",
        "ENTRYPOINT [\"echo\", \"-n\"]",
        "-c",
        "EXPOSE 80",
        "a1",
        "entry:1",
    ])
    .ok();
    s.bocker(&["create", "--name", "box", "entry:1", "x"]).ok();
    assert_eq!(
        shown(
            &s,
            "box",
            "{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{.Path}} {{.Args}}"
        ),
        r#"["echo","-n"] ["x"] echo [-n x]"#
    );
    assert_eq!(
        shown(&s, "box", "{{json .Config.ExposedPorts}}"),
        r#"{"80/tcp":{}}"#
    );
    let image = s
        .bocker(&["image", "inspect", "-f", "{{.Id}}", "entry:1"])
        .text();
    assert_eq!(shown(&s, "box", "{{.Image}}"), image.trim());
}

#[test]
fn a_type_narrows_what_a_name_means() {
    let s = Session::with_base();
    // One name for all four.
    s.bocker(&["tag", "base:1", "same"]).ok();
    s.bocker(&["volume", "create", "same"]).ok();
    s.bocker(&["network", "create", "same"]).ok();
    let members = |options: &[&str]| {
        let found = s
            .bocker(&[&["inspect"], options, &["same"]].concat())
            .ok()
            .json();
        assert_eq!(found.as_array().map(Vec::len), Some(1));
        let has = |member: &str| {
            found[0]
                .get(member)
                .is_some_and(|value| !Value::is_null(value))
        };
        ["Config", "RootFS", "Mountpoint", "IPAM"].map(has)
    };
    assert_eq!(
        members(&[]),
        [true, true, false, false],
        "an image before volumes"
    );
    s.bocker(&["create", "--name", "same", "base:1", "true"])
        .ok();
    assert_eq!(
        members(&[]),
        [true, false, false, false],
        "a container before all"
    );
    assert_eq!(members(&["--type", "image"]), [true, true, false, false]);
    assert_eq!(members(&["--type", "volume"]), [false, false, true, false]);
    assert_eq!(members(&["--type", "network"]), [false, false, false, true]);
    s.bocker(&["inspect", "--type", "volume", "base:1"])
        .exits(1)
        .says("base:1");
    s.bocker(&["inspect", "--type", "container", "base:1"])
        .exits(1)
        .says("No container named");
    s.bocker(&["inspect", "--type", "pod", "same"])
        .exits(125)
        .says("'pod'");
    s.bocker(&["rm", "same"]).ok();
    s.bocker(&["rmi", "same"]).ok();
    assert_eq!(
        members(&[]),
        [false, false, true, false],
        "a volume before a network"
    );
    s.bocker(&["volume", "rm", "same"]).ok();
    assert_eq!(members(&[]), [false, false, false, true]);
    s.bocker(&["network", "rm", "same"]).ok();
}

#[test]
fn sizes_are_said_when_they_are_asked_for() {
    let s = Session::with_base();
    s.ran("box", &[], "head -c 2000000 /dev/urandom > /file");
    let found = s.bocker(&["inspect", "-s", "box"]).ok().json();
    let size = |member: &str| found[0][member].as_u64().expect("a size");
    assert!(
        (2_000_000..2_200_000).contains(&size("SizeRw")) && size("SizeRootFs") > size("SizeRw")
    );
    assert_eq!(shown(&s, "box", "{{.SizeRw}}"), "<no value>");
}

#[test]
fn a_template_that_cannot_be_filled_in_is_one_line_and_no_success() {
    let s = Session::with_base();
    s.bocker(&["create", "--name", "box", "base:1", "true"])
        .ok();
    for (template, says) in [
        (
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "index",
        ),
        ("{{.State.Status", "{{ without }}"),
        ("{{slice .Name 1}}", "'slice'"),
    ] {
        let output = s
            .bocker(&["inspect", "-f", template, "box"])
            .exits(125)
            .says(says);
        assert_eq!(
            (output.stdout.as_str(), output.stderr.lines().count()),
            ("", 1),
            "{output}"
        );
    }
}
