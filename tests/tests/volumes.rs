//! Volumes and mounts, as people use them and as hostile images do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use bocker_tests::{
    Fingerprint, Host, Image, Layer, Output, Platform, Session, assert_same_tree, need, tree,
};
use serde_json::{Value, json};

const IMAGE: &str = "docker.io/library/fixture:1";

/// Puts an image with these layers and this configuration into the store.
fn store(host: &Host, layers: Vec<Layer>, config: Value) {
    host.store(&Image::single(&Platform::new(layers, config)), IMAGE);
}

/// `bocker run` of that image.
fn run(host: &Host, options: &[&str], command: &[&str]) -> Output {
    host.run(&[&["bocker", "run"], options, &[IMAGE], command].concat())
}

fn volumes(host: &Host) -> Vec<String> {
    let text = host.run(&["bocker", "volume", "ls", "-q"]).text();
    text.lines().map(str::to_owned).collect()
}

fn data(host: &Host, volume: &str) -> PathBuf {
    host.root().join("volumes").join(volume).join("data")
}

/// A folder of the host with a file in it.
fn folder(host: &Host, name: &str, file: &str, content: &str) -> String {
    let folder = host.scratch().join(name);
    fs::create_dir_all(&folder).expect("mkdir");
    fs::write(folder.join(file), content).expect("a file");
    folder.display().to_string()
}

#[test]
fn a_volume_outlives_its_containers_and_stays_as_long_as_one_uses_it() {
    let s = Session::new();
    let create = ["volume", "create", "db", "--label", "tier=back"];
    for _ in 0..2 {
        assert_eq!(s.bocker(&create).text(), "db\n", "there already is as good");
    }
    s.run(
        &["--rm", "-v", "db:/var/db"],
        &["sh", "-c", "echo kept > /var/db/file"],
    )
    .ok();
    s.run(&["--name", "web", "-v", "db:/x"], &["true"]).ok();
    let id = s.bocker(&["ps", "-q"]).text();
    for force in [&[][..], &["-f"]] {
        let words = [&["volume", "rm"], force, &["db"]].concat();
        s.bocker(&words).exits(125).says(id.trim());
    }
    let inspected = s.bocker(&["volume", "inspect", "db"]).ok().json();
    let (labels, users) = (&inspected[0]["Labels"], &inspected[0]["UsedBy"]);
    assert_eq!(
        (&labels["tier"], &users[0]),
        (&json!("back"), &json!(id.trim()))
    );
    let mountpoint = inspected[0]["Mountpoint"].as_str().expect("a path");
    let file = Path::new(mountpoint).join("file");
    assert_eq!(fs::read_to_string(file).expect("a file"), "kept\n");
    let filtered = |filter: &str| s.bocker(&["volume", "ls", "-q", "--filter", filter]).text();
    assert_eq!(filtered("label=tier=back"), "db\n");
    assert_eq!(filtered("dangling=true"), "");
    s.bocker(&["rm", "web"]).ok();
    assert_eq!(filtered("dangling=true"), "db\n");
    s.bocker(&["volume", "prune", "-f"]).ok();
    assert_eq!(filtered("name=d"), "db\n", "somebody named it");
    assert_eq!(s.bocker(&["volume", "rm", "db"]).text(), "db\n");
    s.bocker(&["volume", "rm", "db"]).exits(125);
    s.bocker(&["volume", "rm", "-f", "db"]).ok();
    s.bocker(&["volume", "inspect", "db"])
        .exits(1)
        .says("No volume named 'db' exists");
}

#[test]
fn what_a_prune_lists_is_what_it_removes_and_only_when_told() {
    let s = Session::new();
    let named = s.bocker(&["volume", "create", "named"]).text();
    let anonymous = s.bocker(&["volume", "create"]).text();
    s.run(&["--name", "web", "-v", "used:/x"], &["true"]).ok();
    let listed = format!("volume: {anonymous}");
    assert_eq!(s.bocker(&["volume", "prune", "--dry-run"]).text(), listed);
    s.bocker(&["volume", "prune"]).exits(125).says("--force");
    assert_eq!(volumes(&s.host).len(), 3);
    assert_eq!(s.bocker(&["volume", "prune", "-f"]).text(), listed);
    assert_eq!(volumes(&s.host), ["named", "used"]);
    let all = s.bocker(&["volume", "prune", "-a", "-f"]).text();
    assert_eq!(all, format!("volume: {named}"));
    assert_eq!(volumes(&s.host), ["used"]);
}

#[test]
fn the_lines_that_x_prints_for_volumes_paste() {
    let s = Session::new();
    for words in [
        &["volume", "create", "db", "--label", "a=b c"][..],
        &["volume", "rm", "db"],
    ] {
        let shown = s.bocker(&[&["-x", "--dry-run"], words].concat()).text();
        s.host.sh(shown.trim()).ok();
    }
    assert_eq!(volumes(&s.host), Vec::<String>::new());
}

#[test]
fn the_images_volumes_are_made_for_each_container_and_go_with_rm_or_rm_v() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let layer = Layer::new()
        .busybox()
        .node("data/", 0o1751, bocker_tests::Node::Dir)
        .owner(7, 8)
        .file("data/shipped", "shipped");
    store(
        &host,
        vec![layer],
        json!({"Volumes": {"/data": {}, "/new/one": {}}}),
    );
    let look = [
        "sh",
        "-c",
        "cat /data/shipped; stat -c %a:%u:%g /data; ls /new/one; echo x > /new/one/x",
    ];
    let seen = "shipped1751:7:8\n";
    assert_eq!(run(&host, &["--rm"], &look).text(), seen);
    assert_eq!(volumes(&host), Vec::<String>::new(), "gone with --rm");
    run(&host, &["--rm"], &["nosuchcommand"]).exits(127);
    assert_eq!(volumes(&host), Vec::<String>::new());

    run(&host, &["--name", "one"], &look).ok();
    run(&host, &["--name", "two", "-v", "named:/data"], &look).ok();
    assert_eq!(volumes(&host).len(), 4, "a fresh one each");
    host.run(&["bocker", "rm", "-v", "two"]).ok();
    assert_eq!(volumes(&host).len(), 3);
    assert!(data(&host, "named").join("shipped").exists());
    host.run(&["bocker", "rm", "one"]).ok();
    assert_eq!(volumes(&host).len(), 3, "kept, as nobody asked");
    host.run(&["bocker", "volume", "prune", "-f"]).ok();
    assert_eq!(volumes(&host), ["named"]);
    host.run(&["bocker", "system", "reset", "-f"]).ok();
}

#[test]
fn an_empty_volume_is_filled_where_it_is_mounted_already_and_only_once() {
    let s = Session::new();
    fs::create_dir_all(Path::new(&s.rootfs).join("ships/deep")).expect("mkdir");
    fs::write(Path::new(&s.rootfs).join("ships/deep/file"), "shipped").expect("a file");
    s.run(
        &["-d", "--name", "first", "-v", "vol:/nothing/there"],
        &["sleep", "1000"],
    )
    .ok();
    s.run(&["--rm", "-v", "vol:/ships:nocopy"], &["true"]).ok();
    let seen = ["exec", "first", "ls", "/nothing/there"];
    assert_eq!(s.bocker(&seen).text(), "");
    s.run(&["--rm", "-v", "vol:/ships"], &["rm", "-r", "/ships/deep"])
        .ok();
    assert_eq!(s.bocker(&seen).text(), "", "what was deleted stays deleted");
    s.run(&["--rm", "-v", "vol:/ships"], &["touch", "/ships/mine"])
        .ok();
    assert_eq!(s.bocker(&seen).text(), "deep\nmine\n", "it was empty again");
    s.run(&["--rm", "-v", "vol:/ships"], &["rm", "-r", "/ships/deep"])
        .ok();
    s.run(&["--rm", "-v", "vol:/ships"], &["true"]).ok();
    assert_eq!(s.bocker(&seen).text(), "mine\n");
    s.bocker(&["rm", "-f", "first"]).ok();
}

#[test]
fn many_that_make_one_volume_at_once_find_it_whole() {
    let s = Session::new();
    for number in 0..40 {
        let folder = Path::new(&s.rootfs).join(format!("ships/{number}"));
        fs::create_dir_all(&folder).expect("mkdir");
        fs::write(folder.join("file"), "x").expect("a file");
    }
    let create = [
        "bocker-snap",
        "create",
        "--rootfs",
        &s.rootfs,
        "--volume",
        "vol:/ships",
    ];
    let running: Vec<_> = (0..8).map(|_| s.host.spawn(&create)).collect();
    for output in running.into_iter().map(bocker_tests::Running::wait) {
        let document = output.ok().json();
        // Whatever the others were at when this one had ended.
        assert_eq!(document["bocker"]["snap"]["volumes"][0]["source"], "vol");
    }
    assert_eq!(
        fs::read_dir(data(&s.host, "vol"))
            .expect("the volume")
            .count(),
        40
    );
    let hidden = fs::read_dir(s.host.root().join("volumes")).expect("volumes");
    assert_eq!(hidden.count(), 1);
    s.host.run(&["bocker-snap", "gc", "--grace", "0"]).ok();
    s.bocker(&["volume", "rm", "vol"]).ok();
}

#[test]
fn a_volume_is_removed_or_used_whoever_comes_first() {
    let s = Session::new();
    for _ in 0..4 {
        s.bocker(&["volume", "create", "vol"]).ok();
        let create = [
            "bocker-snap",
            "create",
            "--rootfs",
            &s.rootfs,
            "--volume",
            "vol:/x",
        ];
        let creating = s.host.spawn(&create);
        // Before it is there, while it is made, and when it is used.
        let remove = "for n in $(seq 15); do bocker-snap volume rm -f vol; done";
        let removing = s.host.spawn(&["sh", "-c", remove]);
        let (created, removed) = (creating.wait().ok(), removing.wait());
        for line in removed.stderr.lines() {
            assert!(line.contains("is used by"), "{removed}");
        }
        assert!(data(&s.host, "vol").is_dir(), "who was created has it");
        s.host
            .call(&["bocker-snap", "delete"])
            .stdin(created.stdout)
            .run()
            .ok();
    }
    s.bocker(&["volume", "rm", "vol"]).ok();
}

#[test]
fn a_data_volume_container_lends_its_volumes_and_binds_running_or_not() {
    let s = Session::new();
    let shared = folder(&s.host, "shared", "file", "of the host\n");
    let bind = format!("{shared}:/bind");
    let options = [
        "--name",
        "store",
        "-v",
        "/own",
        "-v",
        "named:/named",
        "-v",
        &bind,
        "--tmpfs",
        "/mem",
    ];
    s.run(
        &options,
        &["sh", "-c", "echo own > /own/file; echo named > /named/file"],
    )
    .ok();
    let cat = [
        "sh",
        "-c",
        "cat /own/file /named/file /bind/file; ls -d /mem 2>&1 | wc -l; echo more >> /own/file",
    ];
    let seen = s.run(&["--rm", "--volumes-from", "store"], &cat).text();
    assert_eq!(seen, "own\nnamed\nof the host\n1\n");
    let seen = s.run(&["--rm", "--volumes-from", "store:ro"], &cat);
    assert!(seen.stdout.starts_with("own\nmore\n"), "{seen}");
    seen.exits(1).says("Read-only file system");
    // What is asked for comes before what is lent.
    let cat = ["sh", "-c", "ls /named"];
    let options = ["--rm", "--volumes-from", "store", "-v", "other:/named"];
    assert_eq!(s.run(&options, &cat).text(), "");
    // The borrower has it still when the lender has gone with its volumes.
    s.run(
        &["--name", "borrower", "--volumes-from", "store"],
        &["cat", "/own/file"],
    )
    .ok();
    s.bocker(&["rm", "-v", "store"]).ok();
    let again = s.bocker(&["start", "-a", "borrower"]).text();
    assert_eq!(again, "own\nmore\n");
    s.bocker(&["rm", "-v", "borrower"]).ok();
    assert_eq!(volumes(&s.host), ["named", "other"]);
}

#[test]
fn a_missing_directory_of_the_host_is_made_for_v_and_refused_for_mount() {
    let s = Session::new();
    let missing = s.host.scratch().join("missing/deep");
    let source = missing.display();
    let mount = format!("type=bind,source={source},target=/x");
    s.run(&["--rm", "--mount", &mount], &["true"])
        .exits(125)
        .says("does not exist");
    // One that fails later takes back what it made.
    s.host
        .call(&[
            "bocker-snap",
            "create",
            "--rootfs",
            &s.rootfs,
            "--volume",
            &format!("{source}:/x"),
            "--volume",
            "vol:/y",
        ])
        .env("BOCKER_FAIL_AT", "snap.volume")
        .run()
        .exits(125);
    assert!(!missing.parent().expect("a folder").exists());
    s.run(
        &["--rm", "-v", &format!("{source}:/x")],
        &["touch", "/x/made"],
    )
    .ok();
    assert!(missing.join("made").exists());
    assert_eq!(fs::metadata(&missing).expect("it").mode() & 0o777, 0o755);
    let file = folder(&s.host, "files", "one", "a file of the host\n");
    let mount = format!("type=bind,src={file}/one,dst=/etc/new/file,readonly");
    let script = "cat /etc/new/file; echo x > /etc/new/file";
    let seen = s.run(&["--rm", "--mount", &mount], &["sh", "-c", script]);
    assert_eq!(seen.exits(1).stdout, "a file of the host\n");
}

#[test]
fn a_filesystem_in_memory_has_dockers_defaults_and_the_mode_of_what_it_hides() {
    let s = Session::new();
    let script = "grep -E ' /(run|mem|big|mnt) ' /proc/mounts | cut -d' ' -f2-4 | sed 's/,inode64//;s/relatime,//'; stat -c %a /mnt /mem; df -k /big | tail -1 | awk '{print $2}'; touch /ro/x";
    fs::create_dir_all(Path::new(&s.rootfs).join("mnt")).expect("mkdir");
    fs::set_permissions(
        Path::new(&s.rootfs).join("mnt"),
        fs::Permissions::from_mode(0o750),
    )
    .expect("chmod");
    let options = [
        "--rm",
        "--tmpfs",
        "/mem",
        "--tmpfs",
        "/mnt:exec,size=64k",
        "--mount",
        "type=tmpfs,target=/big,tmpfs-size=8m,tmpfs-mode=700",
        "--tmpfs",
        "/ro:ro",
    ];
    let seen = s.run(&options, &["sh", "-c", script]);
    assert!(seen.stderr.contains("Read-only file system"), "{seen}");
    let lines: Vec<&str> = seen.stdout.lines().collect();
    for (path, options) in [
        ("/mem", "rw,nosuid,nodev,noexec"),
        ("/mnt", "rw,nosuid,nodev,size=64k,mode=750"),
        ("/big", "rw,nosuid,nodev,noexec,size=8192k,mode=700"),
    ] {
        let line = lines.iter().find(|line| line.starts_with(path));
        let line = line.unwrap_or_else(|| panic!("{path}: {seen}"));
        for option in options.split(',') {
            assert!(line.contains(option), "{option} in {line}");
        }
    }
    assert!(
        !lines
            .iter()
            .any(|line| line.starts_with("/mnt") && line.contains("noexec"))
    );
    assert_eq!(lines[lines.len() - 3..], ["750", "1777", "8192"]);
}

#[test]
fn mounts_lie_in_each_other_in_whichever_order_they_are_asked_for() {
    let s = Session::new();
    let inner = folder(&s.host, "inner", "inner", "");
    let outer = folder(&s.host, "outer", "outer", "");
    fs::create_dir(Path::new(&outer).join("in")).expect("mkdir");
    let (inner, outer) = (format!("{inner}:/a/in"), format!("{outer}:/a"));
    for options in [["-v", &inner, "-v", &outer], ["-v", &outer, "-v", &inner]] {
        let seen = s.run(&[&["--rm"][..], &options].concat(), &["ls", "/a", "/a/in"]);
        assert_eq!(seen.text(), "/a:\nin\nouter\n\n/a/in:\ninner\n");
    }
    s.run(&["-v", &inner, "--tmpfs", "/a/in/"], &["true"])
        .exits(125)
        .says("two mounts are asked for at /a/in");
}

#[test]
fn a_file_of_ones_own_stands_in_for_those_that_the_network_brings() {
    let s = Session::new();
    let files = folder(&s.host, "files", "hosts", "192.0.2.1 mine\n");
    let hosts = format!("{files}/hosts:/etc/hosts:ro");
    let look = ["sh", "-c", "cat /etc/hosts; cat /etc/hostname | wc -l"];
    let seen = s.run(&["--name", "web", "-v", &hosts], &look);
    assert_eq!(seen.text(), "192.0.2.1 mine\n1\n");
    let again = s.bocker(&["start", "-a", "web"]);
    assert_eq!(again.text(), "192.0.2.1 mine\n1\n");
    s.bocker(&["rm", "web"]).ok();
}

#[test]
fn a_start_makes_everything_of_it_again() {
    let s = Session::new();
    let shared = folder(&s.host, "shared", "file", "bind\n");
    let options = [
        "--name",
        "web",
        "-v",
        "vol:/vol",
        "-v",
        "/own",
        "-v",
        &format!("{shared}:/bind:ro"),
        "--tmpfs",
        "/mem:size=1m",
    ];
    let script = "cat /bind/file; echo run >> /vol/runs; echo run >> /own/runs; cat /vol/runs /own/runs | wc -l; df -k /mem | tail -1 | awk '{print $2}'; touch /mem/x; ls /mem";
    let first = s.run(&options, &["sh", "-c", script]).text();
    assert_eq!(first, "bind\n2\n1024\nx\n");
    let again = s.bocker(&["start", "-a", "web"]).text();
    assert_eq!(again, "bind\n4\n1024\nx\n");
    s.bocker(&["rm", "-v", "web"]).ok();
    assert_eq!(volumes(&s.host), ["vol"]);
}

#[test]
fn what_is_mounted_comes_through_as_it_was_asked_for() {
    let s = Session::new();
    let tied = s.host.scratch().join("tied");
    let path = tied.display();
    s.host
        .sh(&format!("mkdir {path} && mount -t tmpfs tied {path} && mount --make-shared {path} && mkdir {path}/later {path}/inner"))
        .ok();
    for (option, comes) in [("rprivate", false), ("rslave", true), ("rshared", true)] {
        s.run(
            &["-d", "--name", option, "-v", &format!("{path}:/x:{option}")],
            &["sleep", "1000"],
        )
        .ok();
        s.host
            .sh(&format!(
                "mount -t tmpfs later {path}/later && touch {path}/later/file"
            ))
            .ok();
        let seen = s.bocker(&["exec", option, "ls", "/x/later"]).text();
        assert_eq!(seen, if comes { "file\n" } else { "" }, "{option}");
        s.host.sh(&format!("umount {path}/later")).ok();
        let pid = s.bocker(&["inspect", "--format", "{{.bocker.spawn.pid}}", option]);
        let pid = pid.text();
        s.host
            .sh(&format!(
                "nsenter -m -t {} sh -c 'mount -t tmpfs own /x/inner && touch /x/inner/file'",
                pid.trim()
            ))
            .ok();
        let goes = tied.join("inner/file").exists();
        assert_eq!(goes, option == "rshared", "{option}");
        s.host
            .sh(&format!("nsenter -m -t {} umount /x/inner", pid.trim()))
            .ok();
        s.bocker(&["rm", "-f", option]).ok();
        assert!(
            tied.join("later").is_dir(),
            "the host's mount outlives the container"
        );
    }
    let untied = folder(&s.host, "untied", "x", "");
    s.host
        .sh(&format!(
            "mount --bind {untied} {untied} && mount --make-private {untied}"
        ))
        .ok();
    s.run(&["--rm", "-v", &format!("{untied}:/x:rshared")], &["true"])
        .exits(125)
        .says("shares nothing with others");
    s.host.sh(&format!("umount {untied}; umount {path}")).ok();
}

#[test]
fn a_part_of_a_volume_is_mounted_and_no_link_in_it_leads_out() {
    let s = Session::new();
    let outside = folder(&s.host, "outside", "secret", "secret");
    s.run(&["--rm", "-v", "vol:/x"], &["sh", "-c", &format!("mkdir -p /x/a/b; echo part > /x/a/b/file; ln -s {outside} /x/link; ln -s ../../../../.. /x/a/up")])
        .ok();
    let mount = |below: &str| format!("type=volume,source=vol,target=/y,volume-subpath={below}");
    assert_eq!(
        s.run(&["--rm", "--mount", &mount("a/b")], &["cat", "/y/file"])
            .text(),
        "part\n"
    );
    for below in ["link", "a/up", "a/up/etc", "missing"] {
        let run = s.run(&["--rm", "--mount", &mount(below)], &["ls", "-a", "/y"]);
        assert_eq!(run.exits(125).stdout, "", "{below}");
    }
    s.bocker(&["volume", "rm", "vol"]).ok();
}

/// A host with canaries where a hostile image's links point.
fn canaries(host: &Host) -> (String, Fingerprint) {
    let canary = folder(host, "canary", "file", "of the host");
    fs::create_dir_all(Path::new(&canary).join("data")).expect("mkdir");
    (canary, host.fingerprint())
}

fn assert_untouched(canary: &str) {
    let names = fs::read_dir(canary).expect("the canary");
    let mut names: Vec<_> = names.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["data", "file"]);
    let file = fs::read_to_string(Path::new(canary).join("file"));
    assert_eq!(file.expect("the canary"), "of the host");
    assert_eq!(
        fs::read_dir(Path::new(canary).join("data"))
            .expect("it")
            .count(),
        0
    );
}

#[test]
fn links_that_an_image_plants_at_mount_targets_lead_nowhere_outside() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let (canary, _) = canaries(&host);
    let layer = Layer::new()
        .busybox()
        .symlink("data", &canary)
        .symlink("up", "../../../../../../../../../..")
        .symlink("self", "/proc/self/root")
        .symlink("loop", "loop")
        .file("file", "a file where a directory should be")
        .dir("deep")
        .symlink("deep/etc", "/etc")
        .symlink("deep/far", &format!("../..{canary}/data"));
    store(
        &host,
        vec![layer],
        json!({"Volumes": {"/data": {}, "/deep/far/more": {}, "/up/anywhere": {}}}),
    );
    let source = folder(&host, "source", "mine", "");
    run(&host, &["--rm"], &["true"]).ok();
    host.run(&["bocker", "system", "setup"]).ok();
    let before = host.fingerprint();
    let options = |target: &str| {
        [
            format!("-v={source}:{target}"),
            format!("-v=vol:{target}"),
            format!("--tmpfs={target}"),
        ]
    };
    for (number, target) in [
        "/data",
        "/data/data",
        "/up/data",
        "/deep/etc/passwd.d",
        "/deep/far/x",
        "/self/data",
    ]
    .into_iter()
    .enumerate()
    {
        // Each way at two of them.
        let option = &options(target)[number % 3];
        let script = format!("touch {target}/touched; ls {target}");
        let seen = run(&host, &["--rm", option], &["sh", "-c", &script]);
        // Where a link leads into /proc, which is not there yet, nothing is made.
        assert!(
            seen.code == 125 || seen.stdout.ends_with("touched\n"),
            "{option}: {seen}"
        );
        assert_untouched(&canary);
        assert!(!Path::new("/data").exists() && !Path::new("/etc/passwd.d").exists());
    }
    for target in ["/file", "/loop/x", "/file/below"] {
        let seen = run(
            &host,
            &["--rm", "-v", &format!("{source}:{target}")],
            &["true"],
        );
        assert_eq!(seen.exits(125).stderr.lines().count(), 1, "{target}");
    }
    host.run(&["bocker", "volume", "prune", "-a", "-f"]).ok();
    host.assert_same(&before);
    host.run(&["bocker", "system", "reset", "-f"]).ok();
}

#[test]
fn what_is_copied_into_a_volume_is_the_images_whatever_its_links_say() {
    let s = Session::new();
    let (canary, _) = canaries(&s.host);
    let root = Path::new(&s.rootfs);
    symlink(&canary, root.join("data")).expect("a link");
    symlink("/etc", root.join("inside")).expect("a link");
    s.run(&["--rm", "-v", "one:/data", "-v", "two:/inside"], &["true"])
        .ok();
    assert_eq!(fs::read_dir(data(&s.host, "one")).expect("it").count(), 0);
    let copied = fs::read_to_string(data(&s.host, "two").join("passwd"));
    assert_eq!(
        copied.expect("the image's own"),
        fs::read_to_string(root.join("etc/passwd")).expect("it")
    );
    assert_untouched(&canary);
}

#[test]
fn what_is_copied_into_a_volume_is_the_same_tree_and_no_name_in_it_hides_another() {
    if !need("getfattr setfattr") {
        return;
    }
    let s = Session::new();
    let shipped = Path::new(&s.rootfs).join("data");
    s.host
        .sh(&format!(
            "mkdir -p {0}/d/e; cd {0}; echo x > d/f; ln d/f d/g; ln -s d l; mkfifo p; setfattr -n user.a -v b d/f
             chown -h 5:6 d l .; chmod 4750 d/f; chmod 1770 .; for i in . d; do echo y > $i/.wh.d; echo z > $i/.wh..wh..opq; done
             find . -exec touch -hd '2001-02-03 04:05:06.7' {{}} +",
            shipped.display()
        ))
        .ok();
    // Made full, and made empty and filled later.
    s.bocker(&["volume", "create", "late"]).ok();
    // No image can have such names.
    let run = |volumes: &[&str]| {
        let view = ["--rootfs", &s.rootfs, "true"];
        s.bocker(&[&["run", "--rm"], volumes, &view].concat()).ok();
    };
    run(&["-v", "new:/data", "-v", "late:/data2"]);
    run(&["-v", "late:/data"]);
    let about = |path: &Path| {
        let found = fs::metadata(path).expect("a directory");
        (
            found.mode(),
            found.uid(),
            found.gid(),
            found.mtime(),
            found.mtime_nsec(),
        )
    };
    for volume in ["new", "late"] {
        let volume = data(&s.host, volume);
        assert_same_tree(&tree(&volume), &tree(&shipped));
        assert_eq!(about(&volume), about(&shipped));
    }
}

#[test]
fn an_image_cannot_ask_for_volumes_that_nobody_could_want() {
    if !need("skopeo") {
        return;
    }
    let many: serde_json::Map<String, Value> =
        (0..1000).map(|n| (format!("/v{n}"), json!({}))).collect();
    for (asked, said) in [
        (json!({"relative": {}}), "is not an absolute path"),
        (json!({"/": {}}), "is not an absolute path"),
        (json!({"/a/../../b": {}}), "is not an absolute path"),
        (json!({"/proc/sys": {}}), "at or below /proc"),
        (json!(many), "more than"),
        (json!(["/data"]), "no object"),
    ] {
        thread::scope(|scope| {
            let tried = scope.spawn(|| {
                let host = Host::new();
                store(
                    &host,
                    vec![Layer::new().busybox()],
                    json!({"Volumes": asked}),
                );
                run(&host, &["--rm"], &["true"]).exits(125).says(said);
                assert!(!host.root().join("volumes").exists());
            });
            tried.join().expect("refused");
        });
    }
}

/// Gives the bundle of a document, for another runtime.
fn bundle(host: &Host, document: &str, name: &str, command: &[&str]) -> String {
    let folder = host.scratch().join(name);
    fs::create_dir(&folder).expect("mkdir");
    let words = [&["bocker-spawn", "spec", "--"], command].concat();
    let spec = host.call(&words).stdin(document).run().ok();
    fs::write(folder.join("config.json"), spec.stdout).expect("config.json");
    folder.display().to_string()
}

#[test]
fn runc_ties_the_same_mounts_to_the_hosts() {
    if !need("runc") {
        return;
    }
    let s = Session::new();
    let tied = s.host.scratch().join("tied").display().to_string();
    s.host
        .sh(&format!("mkdir {tied} && mount -t tmpfs tied {tied} && mount --make-shared {tied} && mkdir {tied}/later"))
        .ok();
    let state = s.host.scratch().join("state").display().to_string();
    for (option, comes) in [("rprivate", false), ("rslave", true), ("rshared", true)] {
        let create = format!(
            "bocker-snap create --rootfs {} --volume {tied}:/x:{option}",
            s.rootfs
        );
        let document = s.host.sh(&create).ok().stdout;
        let look = "until [ -e /x/go ]; do sleep 0.01; done; ls /x/later";
        let bundle = bundle(&s.host, &document, option, &["sh", "-c", look]);
        let runc = ["runc", "--root", &state, "run", "-b", &bundle, option];
        let running = s.host.spawn(&runc);
        s.host.wait_for("it runs", || {
            let state = s.host.run(&["runc", "--root", &state, "state", option]);
            state.stdout.contains("\"running\"").then_some(())
        });
        s.host
            .sh(&format!(
                "mount -t tmpfs later {tied}/later && touch {tied}/later/file {tied}/go"
            ))
            .ok();
        let seen = running.wait().ok().stdout;
        assert_eq!(seen, if comes { "file\n" } else { "" }, "{option}");
        s.host
            .sh(&format!("umount {tied}/later; rm {tied}/go"))
            .ok();
        s.host
            .call(&["bocker-snap", "delete"])
            .stdin(document)
            .run()
            .ok();
    }
    s.host.sh(&format!("umount {tied}")).ok();
}

#[test]
fn runc_makes_the_same_mounts_of_the_document() {
    if !need("runc") {
        return;
    }
    let s = Session::new();
    let shared = folder(&s.host, "shared", "file", "bind\n");
    let create = format!(
        "bocker-snap create --rootfs {} --volume vol:/vol --volume {shared}:/bind:ro --tmpfs /mem:size=1m,exec --volume /own",
        s.rootfs
    );
    let document = s.host.sh(&create).ok().stdout;
    let look = "cat /bind/file; touch /bind/x 2>/dev/null || echo ro; touch /vol/x /own/x && echo rw; df -k /mem | tail -1 | awk '{print $2}'; grep ' /mem ' /proc/mounts | grep -c noexec";
    let bundle = bundle(&s.host, &document, "bundle", &["sh", "-c", look]);
    let state = s.host.scratch().join("state").display().to_string();
    let runc = ["runc", "--root", &state, "run", "-b", &bundle, "theirs"];
    let theirs = s.host.run(&runc);
    let ours = s
        .host
        .call(&[
            "sh",
            "-c",
            "bocker-spawn run --stdout 4 -- sh -c \"$1\" 4>&1 >/dev/null",
            "sh",
            look,
        ])
        .stdin(document.clone())
        .run();
    assert_eq!(ours.stdout, "bind\nro\nrw\n1024\n0\n", "{ours}");
    assert_eq!(theirs.stdout, ours.stdout, "{theirs}");
    s.host
        .call(&["bocker-snap", "delete", "--volumes"])
        .stdin(document)
        .run()
        .ok();
}
