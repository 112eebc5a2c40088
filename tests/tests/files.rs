//! What comes out of containers and goes into them: commit, diff, export and import, cp, history.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bocker_tests::{Session, assert_same_tree, need, tree};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

#[test]
fn a_commit_takes_an_author_a_message_and_changes() {
    let s = Session::with_base();
    s.ran("web", &[], "echo x > /new");
    s.bocker(&[
        "commit",
        "-a",
        "me",
        "-m",
        "all new",
        "-c",
        "ENV A=1 B='x y'",
        "--change",
        r#"CMD ["/bin/cat", "/new"]"#,
        "-c",
        "WORKDIR /tmp",
        "-c",
        "EXPOSE 80",
        "web",
        "new:1",
    ])
    .ok();
    let config = s.host.config("new:1");
    assert_eq!(config["author"], "me");
    assert_eq!(
        config["config"],
        json!({"Env": ["A=1", "B=x y"], "Cmd": ["/bin/cat", "/new"], "WorkingDir": "/tmp", "ExposedPorts": {"80/tcp": {}}})
    );
    assert_eq!(s.bocker(&["run", "--rm", "new:1"]).text(), "x\n");
    let history = s.bocker(&["history", "--json", "new:1"]).ok().json_lines();
    let said = |index: usize, key: &str| history[index][key].clone();
    assert_eq!(history.len(), 2);
    assert_eq!(
        (said(0, "author"), said(0, "comment")),
        (json!("me"), json!("all new"))
    );
    assert_eq!(said(0, "created_by"), "/bin/sh -c echo x > /new");
    assert_eq!(said(1, "created_by"), "bocker init");

    // Nothing is made of one that is no good.
    let before = s.bocker(&["images"]).text();
    s.bocker(&["commit", "-c", "RUN make", "web", "other:1"])
        .exits(125)
        .says("RUN make");
    assert_eq!(s.bocker(&["images"]).text(), before);

    // Docker's columns, the newest first.
    let shown = s.bocker(&["history", "new:1"]).text();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(
        lines[0].starts_with("IMAGE") && lines[0].ends_with("COMMENT"),
        "{shown}"
    );
    assert!(
        lines[1].starts_with("img_") && lines[1].ends_with("all new"),
        "{shown}"
    );
    assert!(lines[2].starts_with("<missing>"), "{shown}");
    let by = s.bocker(&[
        "history",
        "--no-trunc",
        "--format",
        "{{.CreatedBy}}",
        "new:1",
    ]);
    assert_eq!(by.text(), "/bin/sh -c echo x > /new\nbocker init\n");
    s.bocker(&["history", "nope"])
        .says("No image named 'nope' exists");
}

#[test]
fn a_commit_without_a_name_makes_an_image_that_has_its_id_alone() {
    let s = Session::with_base();
    s.ran("web", &[], "echo x > /new");
    let said = s.bocker(&["commit", "web"]).text();
    let id = said.trim().strip_prefix("Created: ").expect("an id");
    assert_eq!(
        s.bocker(&["run", "--rm", id, "/bin/cat", "/new"]).text(),
        "x\n"
    );
}

#[test]
fn a_difference_is_told_as_docker_tells_it() {
    let s = Session::with_base();
    s.ran(
        "web",
        &[],
        "mkdir /new; echo x > /new/file; rm /etc/group; chmod 700 /root; rm -r /tmp; echo x > /tmp",
    );
    let shown = s.bocker(&["diff", "web"]).text();
    let of = |path: &str| -> Vec<&str> {
        let lines = shown.lines().filter(|line| line[2..].starts_with(path));
        lines.collect()
    };
    assert_eq!(of("/new"), ["A /new", "A /new/file"]);
    assert_eq!(of("/root"), ["C /root"]);
    assert_eq!(of("/tmp"), ["C /tmp"]);
    assert!(
        of("/etc").contains(&"C /etc") && of("/etc").contains(&"D /etc/group"),
        "{shown}"
    );
    assert_eq!(of("/bin"), Vec::<&str>::new(), "what was only read");
    let lines = s.bocker(&["diff", "--json", "web"]).ok().json_lines();
    assert!(lines.contains(&json!({"kind": "D", "path": "/etc/group"})));
    assert_eq!(lines.len(), shown.lines().count());
    s.bocker(&["diff", "nope"])
        .says("No container named 'nope' exists");
}

#[test]
fn what_the_runtime_makes_to_mount_on_is_no_change_of_the_containers() {
    let s = Session::new();
    // The image has nothing of what is mounted on, and directories above some of it.
    let bare = s.host.scratch().join("bare");
    s.host
        .sh(&format!(
            "mkdir -p {0}/etc {0}/srv; chmod 711 {0}/etc; cp -a {1}/bin {0}; touch -d 2001-01-01 {0}/etc {0}/srv",
            bare.display(),
            s.rootfs
        ))
        .ok();
    s.bocker(&["init", &bare.display().to_string(), "bare:1"])
        .ok();
    let run_on = |root: &[&str], name: &str, script: &str| {
        let mounts = [
            "-v",
            "cache:/srv/deep/data",
            "-v",
            "/etc/hosts:/srv/file",
            "--tmpfs",
            "/run",
        ];
        let command = ["/bin/sh", "-c", script];
        s.bocker(&[&["run", "--name", name][..], &mounts, root, &command].concat())
            .ok();
    };
    let run = |name: &str, script: &str| run_on(&["bare:1"], name, script);
    let changes = |name: &str| s.bocker(&["diff", name]).text();
    let committed = |name: &str| -> Vec<String> {
        let image = format!("{name}:2");
        s.bocker(&["commit", name, &image]).ok();
        let created = s.host.run(&["bocker-snap", "create", &image]).ok();
        let root = created.json()["root"]["path"]
            .as_str()
            .expect("a root")
            .to_owned();
        let names = s
            .host
            .sh(&format!(
                "cd {root} && find . -path ./bin -prune -o -print | sort"
            ))
            .text();
        s.host
            .call(&["bocker-snap", "delete"])
            .stdin(created.stdout)
            .run()
            .ok();
        names.lines().map(str::to_owned).collect()
    };
    run(
        "idle",
        "cat /etc/hosts /srv/file; echo x > /srv/deep/data/x; ls /proc/self /sys /dev > /run/x",
    );
    assert_eq!(changes("idle"), "");
    assert_eq!(committed("idle"), [".", "./etc", "./srv"]);
    // Of a view of a directory all becomes one layer.
    let view = ["--rootfs", &*bare.display().to_string()];
    run_on(&view, "view", "true");
    assert_eq!(changes("view"), "");
    assert_eq!(committed("view"), [".", "./etc", "./srv"]);
    run(
        "busy",
        "echo x > /etc/x; chmod 700 /srv; mkdir -p /var/empty; echo y >> /srv/deep/y",
    );
    assert_eq!(
        changes("busy"),
        "C /etc\nA /etc/x\nC /srv\nA /srv/deep\nA /srv/deep/y\nA /var\nA /var/empty\n"
    );
    assert_eq!(
        committed("busy"),
        [
            ".",
            "./etc",
            "./etc/x",
            "./srv",
            "./srv/deep",
            "./srv/deep/y",
            "./var",
            "./var/empty"
        ]
    );
    run("right", "chmod 700 /etc");
    assert_eq!(changes("right"), "C /etc\n");
}

#[test]
fn what_is_exported_and_imported_is_the_same_tree() {
    if !need("getfattr setfattr") {
        return;
    }
    let s = Session::with_base();
    s.ran(
        "web",
        &["-v", "cache:/root"],
        "mkdir /data; echo x > /data/a; ln /data/a /data/b; ln -s /etc/passwd /data/l; mkfifo /data/p
         chmod 4755 /data/a; chown 5:6 /data/l -h; touch -d '2001-02-03 04:05:06' /data/a; rm /etc/group; echo y > /root/in-volume",
    );
    let root = |name: &str| -> PathBuf {
        let id = s
            .bocker(&["inspect", "--format", "{{.bocker.id}}", name])
            .text();
        s.host
            .root()
            .join("containers")
            .join(id.trim())
            .join("rootfs")
    };
    let file = s.host.scratch().join("out.tar").display().to_string();
    s.bocker(&["export", "web", "-o", &file]).ok();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let through = s.host.scratch().join("through.tar").display().to_string();
    s.host
        .sh(&format!(
            "bocker export web > {through}; cmp {file} {through}"
        ))
        .ok();
    let programs = ["cat", "gzip", "zstd", "xz", "bzip2"];
    for (index, compress) in programs.iter().enumerate() {
        if !need(compress) {
            continue;
        }
        let name = format!("flat:{index}");
        let line = format!(
            "{compress} < {file} | bocker import -m hello -c 'CMD [\"/bin/true\"]' - {name}"
        );
        let id = s.host.sh(&line).text();
        assert!(id.trim().starts_with("img_"), "{id}");
    }
    let config = s.host.config("flat:0");
    assert_eq!(config["config"], json!({"Cmd": ["/bin/true"]}));
    assert_eq!(config["history"][0]["comment"], "hello");
    let rebuilt = s
        .host
        .sh("bocker-snap create flat:0 --name flat")
        .ok()
        .json();
    let theirs = PathBuf::from(rebuilt["root"]["path"].as_str().expect("a root"));
    // What is mounted is not in it: the volume's place is empty.
    assert_eq!(fs::read_dir(theirs.join("root")).unwrap().count(), 0);
    let made = s.host.sh("bocker-snap mount web").ok();
    assert_same_tree(&tree(&theirs), &tree(&root("web")));
    s.host
        .call(&["bocker-snap", "unmount"])
        .stdin(made.stdout)
        .run()
        .ok();
    s.host.run(&["bocker-snap", "delete", "flat"]).ok();
}

#[test]
fn a_name_that_would_hide_another_is_a_file_s_everywhere_but_in_a_layer() {
    let s = Session::with_base();
    s.ran(
        "web",
        &[],
        "mkdir /d; echo x > /d/.wh.a; echo y > /d/.wh..wh..opq",
    );
    let out = s.host.scratch().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("a"), "stays").unwrap();
    let folder = out.display().to_string();
    s.bocker(&["cp", "web:/d/.", &folder]).ok();
    assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "stays");
    assert_eq!(fs::read_to_string(out.join(".wh.a")).unwrap(), "x\n");
    let listed = s.host.sh("bocker export web | tar -t").text();
    assert!(listed.contains("d/.wh..wh..opq"), "{listed}");
    s.host
        .sh("bocker export web | bocker import - flat:1")
        .exits(125)
        .says("hide others");
    s.bocker(&["commit", "web", "new:1"])
        .exits(125)
        .says("rename the file");
}

/// Docker's page, line by line: what is copied, where to, where it is then, or what is wrong.
const RULES: [(&str, &str, Result<&str, &str>); 15] = [
    ("file", "new", Ok("new=file")),
    ("file", "none/", Err("no such directory")),
    ("file", "file2", Ok("file2=file")),
    ("file", "dir", Ok("dir/file=file")),
    ("file", "dir/", Ok("dir/file=file")),
    ("file", "file2/", Err("Not a directory")),
    ("file", "none/new", Err("No such file")),
    ("file/", "new", Err("Not a directory")),
    ("nothing", "new", Err("does not exist")),
    ("tree", "new", Ok("new/leaf=leaf")),
    ("tree", "file2", Err("onto a file")),
    ("tree", "dir", Ok("dir/tree/leaf=leaf")),
    ("tree/.", "dir", Ok("dir/leaf=leaf")),
    ("tree/.", "new", Ok("new/leaf=leaf")),
    ("tree/", "dir/", Ok("dir/tree/leaf=leaf")),
];

#[test]
fn files_are_copied_by_docker_s_rules_both_ways() {
    let s = Session::with_base();
    s.ran("web", &[], "true");
    let mount = s.host.sh("bocker-snap mount web").ok();
    let root = mount.json()["root"]["path"]
        .as_str()
        .expect("a root")
        .to_owned();
    let host = s.host.scratch().join("host").display().to_string();
    let make = "rm -rf from to; mkdir -p from/tree to/dir
        echo file > from/file; echo leaf > from/tree/leaf; echo old > to/file2";
    for (from, to, outcome) in RULES {
        for out in [true, false] {
            s.host
                .sh(&format!(
                    "mkdir -p {host}; for i in {host} {root}; do cd $i; {make}; done"
                ))
                .ok();
            let (there, here) = ("web:".to_owned(), host.clone());
            let (source, destination, written) = match out {
                true => (there, here, &host),
                false => (here, there, &root),
            };
            let copied = s.bocker(&[
                "cp",
                &format!("{source}/from/{from}"),
                &format!("{destination}/to/{to}"),
            ]);
            match outcome {
                Err(why) => drop(copied.exits(125).says(why)),
                Ok(place) => {
                    copied.ok();
                    let (path, content) = place.split_once('=').expect("a place");
                    let found = fs::read_to_string(format!("{written}/to/{path}")).ok();
                    assert_eq!(found, Some(format!("{content}\n")), "{from} {to} {out}");
                }
            }
        }
    }
    s.host
        .call(&["bocker-snap", "unmount"])
        .stdin(mount.stdout)
        .run()
        .ok();
}

#[test]
fn links_are_copied_as_they_are_unless_they_are_to_be_followed_and_archives_go_through_pipes() {
    let s = Session::with_base();
    s.ran(
        "web",
        &[],
        "mkdir /d; echo x > /d/f; ln -s /d/f /link; ln -s d /dirlink; ln -s /nowhere /dangling",
    );
    let out = s.host.scratch().join("out").display().to_string();
    fs::create_dir(&out).unwrap();
    let read = |name: &str| fs::read_to_string(Path::new(&out).join(name)).ok();
    s.bocker(&["cp", "web:/link", &out]).ok();
    assert_eq!(
        fs::read_link(format!("{out}/link")).unwrap(),
        Path::new("/d/f")
    );
    s.bocker(&["cp", "-L", "web:link", &format!("{out}/followed")])
        .ok();
    assert_eq!(read("followed").as_deref(), Some("x\n"));
    s.bocker(&["cp", "web:/dirlink/", &out]).ok();
    assert_eq!(read("dirlink/f").as_deref(), Some("x\n"));
    // A link at the destination is followed, in the container and to its end.
    let file = s.host.file("file", "new\n");
    s.bocker(&["cp", &file, "web:/link"]).ok();
    s.bocker(&["cp", &file, "web:/dangling"]).ok();
    s.bocker(&["cp", &file, "web:/dirlink"]).ok();
    let listed = s.host.sh("bocker cp web:/d - | tar -t | sort").text();
    assert_eq!(listed, "d/\nd/f\nd/file\n");
    assert_eq!(
        s.host.sh("bocker cp web:/nowhere - | tar -xO").text(),
        "new\n"
    );
    assert_eq!(s.host.sh("bocker cp web:/d/f - | tar -xO").text(), "new\n");
    assert_eq!(
        s.host.sh("bocker cp web:/d/. - | tar -t | sort").text(),
        "f\nfile\n"
    );
    s.host.sh(&format!("tar -C {out} -cz followed | bocker cp - web:/d && bocker cp web:/d/followed - | tar -xO")).ok();
    s.host
        .sh("tar -c /dev/null | bocker cp - web:/d/f")
        .exits(125)
        .says("directory");
    s.host.sh("echo nonsense | bocker cp - web:/d").exits(125);
    for words in [
        &["cp", "web:/a", "web:/b"][..],
        &["cp", "/a", "/b"],
        &["cp", "nope:/a", "/b"],
    ] {
        s.bocker(words).exits(125);
    }
    // A directory does not silently take a file's place, nor a file a directory's.
    let tree = s.host.scratch().join("clash");
    fs::create_dir_all(tree.join("f")).unwrap();
    s.bocker(&["cp", &format!("{}/.", tree.display()), "web:/d"])
        .exits(125)
        .says("not replaced");
}

#[test]
fn copies_are_root_s_and_give_nobody_rights_unless_all_is_wanted() {
    if !need("getfattr setcap") {
        return;
    }
    let s = Session::with_base();
    s.ran(
        "web",
        &[],
        "mkdir /d; echo x > /d/suid; chown 5:6 /d/suid; chmod 6755 /d/suid; mkfifo /d/pipe",
    );
    // A container with that right could have made it itself.
    let mount = s.host.sh("bocker-snap mount web").ok();
    let root = PathBuf::from(mount.json()["root"]["path"].as_str().expect("a root"));
    s.host
        .sh(&format!(
            "mknod {0}/d/disk b 7 0; setcap cap_net_admin+ep {0}/bin/busybox",
            root.display()
        ))
        .ok();
    let plain = s.host.scratch().join("plain").display().to_string();
    s.bocker(&["cp", "web:/d", &plain]).ok().says("left out");
    let data = fs::metadata(format!("{plain}/suid")).unwrap();
    assert_eq!(
        (data.mode() & 0o7777, data.uid(), data.gid()),
        (0o755, 0, 0)
    );
    assert!(Path::new(&plain).join("pipe").exists() && !Path::new(&plain).join("disk").exists());
    let all = s.host.scratch().join("all").display().to_string();
    s.bocker(&["cp", "-a", "web:/d", &all]).ok();
    let data = fs::metadata(format!("{all}/suid")).unwrap();
    assert_eq!(
        (data.mode() & 0o7777, data.uid(), data.gid()),
        (0o6755, 5, 6)
    );
    assert!(Path::new(&all).join("disk").exists());
    for (option, count) in [("", "0"), ("-a", "1")] {
        let line = format!(
            "cd {}; bocker cp {option} web:/bin/busybox b; getfattr -n security.capability b 2>/dev/null | grep -c capability",
            s.host.scratch().display()
        );
        assert_eq!(s.host.sh(&line).stdout.trim(), count);
    }
    s.host
        .call(&["bocker-snap", "unmount"])
        .stdin(mount.stdout)
        .run()
        .ok();
}

#[test]
fn volumes_are_seen_whether_the_container_runs_or_not_and_what_is_read_only_stays_so() {
    let s = Session::with_base();
    let shared = s.host.scratch().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("given"), "given\n").unwrap();
    let bind = format!("{}:/ro:ro", shared.display());
    s.runs(
        "web",
        &["-v", "cache:/root", "-v", &bind],
        "echo x > /root/made; echo ready; sleep 1000",
    );
    let file = s.host.file("file", "new\n");
    let before = s.host.sh("cat /proc/self/mountinfo").text();
    for running in [true, false] {
        if !running {
            s.bocker(&["kill", "web"]).ok();
            s.host.wait_for("it has ended", || {
                s.bocker(&["ps", "--format", "{{.State}}"])
                    .text()
                    .contains("exited")
                    .then_some(())
            });
        }
        assert_eq!(
            s.host.sh("bocker cp web:/root/made - | tar -xO").text(),
            "x\n"
        );
        assert_eq!(
            s.host.sh("bocker cp web:/ro/. - | tar -xO").text(),
            "given\n"
        );
        s.bocker(&["cp", &file, "web:/root/"]).ok();
        let volume = s.host.root().join("volumes/cache/data/file");
        assert_eq!(fs::read_to_string(&volume).unwrap(), "new\n");
        fs::remove_file(volume).unwrap();
        s.bocker(&["cp", &file, "web:/ro/"])
            .exits(125)
            .says("Read-only");
        // All of it, with what is mounted in it.
        let listed = s.host.sh("bocker cp web:/. - | tar -t").text();
        assert!(
            listed.contains("root/made") && listed.contains("ro/given"),
            "{listed}"
        );
    }
    let after = s.host.sh("cat /proc/self/mountinfo").text();
    assert!(after.lines().count() <= before.lines().count(), "{after}");
    s.ran("fixed", &["--read-only"], "true");
    s.bocker(&["cp", &file, "fixed:/"])
        .exits(125)
        .says("Read-only");
    s.bocker(&[
        "cp",
        "fixed:/bin/busybox",
        &s.host.scratch().join("busybox").display().to_string(),
    ])
    .ok();
}

/// Lets two paths change places, as often as it can, for as long as `work` takes (renameat2(2), RENAME_EXCHANGE).
fn while_they_swap(pairs: &[(PathBuf, PathBuf)], work: impl FnOnce()) {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                for (one, other) in pairs {
                    let exchange = RenameFlags::RENAME_EXCHANGE;
                    renameat2(AT_FDCWD, one, AT_FDCWD, other, exchange).expect("exchange");
                }
            }
        });
        // It ends when the work fails, too.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&is_done);
        work();
    });
}

#[test]
fn a_container_that_swaps_links_all_the_time_gets_neither_our_files_nor_its_own_out() {
    let s = Session::with_base();
    // On the host, at a path that links of the container name.
    let trap = s.host.scratch().join("trap");
    fs::create_dir(&trap).unwrap();
    fs::write(trap.join("f"), "secret\n").unwrap();
    let up = format!("../../../../../../../..{}", trap.display());
    let trap = trap.display().to_string();
    s.runs(
        "web",
        &[],
        &format!(
            "mkdir -p /w/x /w/y /w/z; cd /w; echo inside | tee x/f y/f > z/f; ln -s {trap} link; ln -s {up} up; ln -s {trap}/f z/link
             echo ready; sleep 1000"
        ),
    );
    let id = s.bocker(&["ps", "-q"]).text();
    let root = s.host.root().join("containers").join(id.trim());
    let at = |path: &str| root.join("rootfs/w").join(path);
    let pairs = [("x", "link"), ("y", "up"), ("z/f", "z/link")].map(|(a, b)| (at(a), at(b)));
    let file = s.host.file("pwned", "pwned\n");
    let out = s.host.scratch().join("out");
    let content = |path: &Path| {
        let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        is_file.then(|| fs::read_to_string(path).unwrap_or_default())
    };
    let mut copied = 0_usize;
    while_they_swap(&pairs, || {
        for _ in 0..15 {
            for (option, path) in [
                ("-L", "web:/w/x/f"),
                ("-L", "web:/w/y"),
                ("-a", "web:/w/x/"),
                ("-a", "web:/w/z"),
            ] {
                s.bocker(&["cp", option, path, &out.display().to_string()]);
                for found in [out.clone(), out.join("f")] {
                    let text = content(&found);
                    assert_ne!(text.as_deref(), Some("secret\n"), "{path}");
                    copied += usize::from(text.as_deref() == Some("inside\n"));
                }
                _ = fs::remove_dir_all(&out);
                _ = fs::remove_file(&out);
            }
            s.bocker(&["cp", &file, "web:/w/x/pwned"]);
            s.bocker(&["cp", &file, "web:/w/y"]);
            let there = fs::read_dir(&trap).unwrap().flatten();
            let there: Vec<_> = there.map(|entry| entry.file_name()).collect();
            assert_eq!(there, ["f"]);
            assert_eq!(fs::read_to_string(format!("{trap}/f")).unwrap(), "secret\n");
        }
    });
    assert!(copied > 0, "none came out");
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn what_a_container_holds_never_leads_out_of_the_destination_nor_runs() {
    let s = Session::with_base();
    let trap = s.host.scratch().join("trap").display().to_string();
    fs::create_dir(&trap).unwrap();
    // CVE-2019-14271: libraries and a shell of the container's own, which nobody but the container is to load.
    s.ran(
        "web",
        &[],
        &format!(
            "mkdir -p /lib/x86_64-linux-gnu; printf '#!/bin/sh\necho run > {trap}/run\n' > /lib/x86_64-linux-gnu/libnss_files.so.2
             cp /lib/x86_64-linux-gnu/libnss_files.so.2 /bin/tar; chmod 755 /bin/tar; mkdir /d; ln -s {trap} /d/escape; echo x > /d/z"
        ),
    );
    let out = s.host.scratch().join("out").display().to_string();
    s.bocker(&["cp", "web:/d", &out]).ok();
    // A second copy finds the link there and would write through it.
    s.ran("two", &[], "mkdir -p /d/escape; echo x > /d/escape/pwned");
    s.bocker(&["cp", "two:/d/.", &out])
        .exits(125)
        .says("not replaced");
    // An archive that says so itself.
    let tar = format!(
        "cd {0}; mkdir -p a/escape; echo x > a/escape/pwned; tar -C a --transform 's,^\\./,,' -cf b.tar ./escape/pwned
         bocker cp - web:/d < b.tar",
        s.host.scratch().display()
    );
    s.host.sh(&tar);
    let evil = format!(
        "cd {}; tar -P --transform 's,^,../../../../../../..{trap}/,' -cf c.tar pwned; bocker cp - web:/d < c.tar",
        s.host.scratch().display()
    );
    _ = s.host.file("pwned", "x");
    s.host.sh(&evil).exits(125).says("..");
    assert_eq!(fs::read_dir(&trap).unwrap().count(), 0);
}

#[test]
fn equal_containers_give_one_image_whenever_they_are_committed() {
    let s = Session::with_base();
    let script = "mkdir /new; echo x > /new/f; rm /etc/group; rm -r /tmp; mkdir /tmp; touch /tmp/t";
    let date = "1000000000";
    let mut digests = Vec::new();
    for name in ["one", "two"] {
        s.ran(name, &[], script);
        // At another time: what they wrote differs in its times.
        let call = s.host.call(&[
            "bocker-snap",
            "commit",
            "-m",
            "same",
            name,
            &format!("{name}:1"),
        ]);
        digests.push(call.env("SOURCE_DATE_EPOCH", date).run().ok().json()["digest"].clone());
        s.host.sh("sleep 0.02").ok();
    }
    assert_eq!(digests[0], digests[1]);
    let config = s.host.config("one:1");
    assert_eq!(config["created"], "2001-09-09T01:46:40Z");
    // Without it, they differ, in what they are made of too.
    let plain =
        |name: &str| s.host.run(&["bocker-snap", "commit", name]).ok().json()["digest"].clone();
    assert_ne!(plain("one"), plain("two"));
    // The same tree from two places.
    let copy = s.host.scratch().join("copy").display().to_string();
    s.host
        .sh(&format!(
            "cp -a {} {copy}; touch {copy}/etc/passwd",
            s.rootfs
        ))
        .ok();
    let init = |folder: &str| {
        let call = s
            .host
            .call(&["bocker-snap", "init", folder, "--name", "tree:1"]);
        call.env("SOURCE_DATE_EPOCH", date).run().ok().json()["digest"].clone()
    };
    assert_eq!(init(&s.rootfs), init(&copy));
    for nonsense in ["", "now", "-1", "1.5"] {
        let call = s.host.call(&["bocker", "commit", "one", "bad:1"]);
        call.env("SOURCE_DATE_EPOCH", nonsense)
            .run()
            .exits(125)
            .says("SOURCE_DATE_EPOCH");
    }
    assert!(!s.bocker(&["images"]).text().contains("bad:1"));
}

#[test]
fn what_is_shown_by_x_can_be_pasted() {
    let s = Session::with_base();
    s.runs("web", &[], "echo x > /new; echo ready; sleep 1000");
    let out = s.host.scratch().join("out").display().to_string();
    let lines: [(&[&str], &str); 5] = [
        (&["commit", "-m", "it's", "web", "new:1"], "bocker images"),
        (&["diff", "--json", "web"], "true"),
        (&["export", "-o", &out, "web"], "tar tf $OUT new"),
        (&["cp", "web:/new", &out], "grep x $OUT"),
        (
            &["import", "-c", "CMD a b", &out, "flat:1"],
            "bocker images",
        ),
    ];
    for (words, look) in lines {
        let line = s.bocker(&[&["--dry-run"], words].concat()).text();
        if words[0] == "import" {
            s.bocker(&["export", "-o", &out, "web"]).ok();
        }
        s.host.sh(&line).ok();
        s.host.sh(&format!("OUT={out}; {look}")).ok();
    }
    let frozen = s.bocker(&["--dry-run", "commit", "web", "new:1"]).text();
    assert!(frozen.starts_with("bocker-cg freeze ps_"), "{frozen}");
    let never = s
        .bocker(&["--dry-run", "commit", "--pause=false", "web", "new:1"])
        .text();
    assert!(never.starts_with("bocker-snap commit ps_"), "{never}");
    let shown = fs::metadata(&out).unwrap().permissions().mode();
    assert_ne!(shown, 0);
    s.bocker(&["rm", "-f", "web"]).ok();
}
