//! What an image, a container or a document says is hostile: it changes nothing but the container.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bocker_tests::{Host, Image, Registry};

#[test]
fn an_image_that_imitates_every_key_a_tool_honours_changes_nothing() {
    let host = Host::new();
    let registry = Registry::start(&host);
    host.run(&["bocker", "system", "setup"]).ok();
    // What the imitated keys name: if any tool acted on one, it would run and tell.
    let told = host.scratch().join("told");
    let witness = host.scratch().join("witness");
    fs::write(&witness, format!("#!/bin/sh\ntouch {}\n", told.display()))
        .unwrap_or_else(|e| panic!("{e}"));
    fs::set_permissions(&witness, fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|e| panic!("{e}"));
    let plain = registry.push(&Image::simple(), "plain:1");
    let hostile = registry.push(&Image::imitation(&witness), "hostile:1");
    let look = |reference: &str| {
        let script = "id -u; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status; ls /proc/1/ns; ls /dev; ls /sys/fs/cgroup; cat /proc/1/cgroup | sed 's/ps_.*//'; ip -o link | cut -d' ' -f2 | cut -d@ -f1; grep -c . /proc/mounts";
        host.run(&["bocker", "run", "--rm", reference, "/bin/sh", "-c", script])
            .text()
    };
    // The first run unpacks the layers, which stay.
    let expected = look(&plain);
    let _ = look(&hostile);
    let before = host.fingerprint();
    assert_eq!(look(&hostile), expected);
    assert!(!told.exists(), "a key of the image was acted on");
    host.assert_same(&before);
    let document = host.run(&["bocker-snap", "create", &hostile]).ok().json();
    assert!(
        document.get("annotations").is_none(),
        "labels never become annotations: {document}"
    );
    host.call(&["bocker-snap", "delete"])
        .stdin(document.to_string())
        .run()
        .ok();
    host.assert_same(&before);
}

#[test]
fn the_containers_own_files_never_lead_to_the_hosts() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs");
    let secret = host.scratch().join("secret");
    fs::write(&secret, "of the host\n").unwrap_or_else(|e| panic!("{e}"));
    let etc = rootfs.join("etc");
    for name in ["resolv.conf", "hosts", "hostname"] {
        let _ = fs::remove_file(etc.join(name));
        std::os::unix::fs::symlink(&secret, etc.join(name)).unwrap_or_else(|e| panic!("{e}"));
    }
    let rootfs = rootfs.display().to_string();
    host.run(&[
        "bocker",
        "run",
        "--rm",
        "--rootfs",
        &rootfs,
        "sh",
        "-c",
        "echo mine > /etc/hosts; true",
    ]);
    assert_eq!(
        fs::read_to_string(&secret).unwrap_or_default(),
        "of the host\n"
    );
}

#[test]
fn a_document_that_names_what_is_not_its_own_deletes_nothing_of_others() {
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    host.run(&[
        "bocker", "run", "-d", "--name", "victim", "--rootfs", &rootfs, "sleep", "1000",
    ])
    .ok();
    host.run(&["ip", "netns", "add", "users"]).ok();
    let precious = host.scratch().join("precious");
    fs::create_dir(&precious).unwrap_or_else(|e| panic!("{e}"));
    fs::write(precious.join("file"), "x").unwrap_or_else(|e| panic!("{e}"));
    let before = host.fingerprint();
    let path = precious.display();
    let document = format!(
        r#"{{"bocker":{{"version":1,"id":"ps_zzzzzz","snap":{{"driver":"overlay","image":null,"layers":["../../..","{path}"],"rootfs":"{path}"}},"net":{{"mode":"bridge","hostname":"x","netns":{{"path":"/run/netns/users","made":true}},"attachments":[]}},"cg":{{"version":1,"path":"/../..","paths":{{"memory":"{path}","cpu":"/sys/fs/cgroup/cpu/.."}}}}}},"root":{{"path":"{path}"}}}}"#
    );
    for stage in [
        "bocker-cg delete",
        "bocker-net delete",
        "bocker-snap unmount",
        "bocker-snap delete",
    ] {
        let output = host
            .call(&[
                "sh",
                "-c",
                &format!("{stage} --force >/dev/null 2>&1 || {stage}"),
            ])
            .stdin(document.clone())
            .run();
        eprintln!("{stage}: exit {}: {}", output.code, output.stderr);
    }
    assert!(
        precious.join("file").exists(),
        "a folder that is not of the container is left alone"
    );
    host.run(&["ip", "netns", "exec", "users", "true"]).ok();
    host.assert_same(&before);
    host.run(&["bocker", "rm", "-f", "victim"]).ok();
}

#[test]
fn junk_on_the_pipe_is_a_clear_error_and_never_a_panic() {
    let host = Host::new();
    let before = host.fingerprint();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(17 << 20));
    for junk in [
        "{",
        "[]",
        "null",
        "{\"bocker\":1}",
        "{\"bocker\":{\"version\":\"1\"}}",
        "{\"bocker\":{\"version\":1,\"id\":\"../../etc\"}}",
        "\u{0}",
        deep.as_str(),
        large.as_str(),
    ] {
        for stage in [
            "bocker-net create",
            "bocker-cg create",
            "bocker-spawn run -- true",
            "bocker-cg delete",
            "bocker-net delete",
            "bocker-snap delete",
            "bocker-snap unmount",
        ] {
            let output = host
                .call(&["sh", "-c", &format!("{stage} >/dev/null")])
                .stdin(junk)
                .run();
            // A deleting stage has done its work when the document names nothing of its own.
            let nothing_to_do = stage.contains("delete") || stage.contains("unmount");
            match output.code {
                0 if nothing_to_do => assert_eq!(output.stderr, "", "{output}"),
                code => assert_eq!((code, output.stderr.lines().count()), (125, 1), "{output}"),
            }
            assert!(!output.stderr.contains("panicked"), "{output}");
        }
    }
    host.assert_same(&before);
}
