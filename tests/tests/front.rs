//! The front end: what it prints is what it does, its words and exit codes, and that it does nothing by itself.

use std::fs;

use bocker_tests::{Image, Output, Registry, Session, need};
use nix::sys::signal::Signal;
use serde_json::json;

/// What `-x` printed, and what else was on stderr. What only looks is printed as a comment.
fn traced(output: &Output) -> (String, String) {
    let is_trace = |line: &&str| line.contains(" | ") || line.starts_with("# ");
    let (trace, rest): (Vec<&str>, Vec<&str>) = output.stderr.lines().partition(is_trace);
    (trace.join("\n"), rest.join("\n"))
}

#[test]
fn what_x_prints_does_the_same_when_pasted() {
    let s = Session::new();
    let script = "cat; echo \"<$1>\"; echo error >&2; exit 7";
    let words = ["it's \"$HOME\" `id` * \\ \t", "sh"];
    for options in [
        &["-i", "--rm"][..],
        &["-i"],
        &["-i", "--rm", "-e", "A=b c", "--network", "none"],
    ] {
        let run = [
            &["bocker", "-x", "run"],
            options,
            &["--rootfs", &s.rootfs, "sh", "-c", script, "sh"],
            &words,
        ]
        .concat();
        let first = s.host.call(&run).stdin("from stdin\n").run().exits(7);
        let (line, stderr) = traced(&first);
        assert_eq!(stderr, "error", "{first}");
        assert!(
            line.starts_with("{ printf") && line.ends_with("3<&0 4>&1"),
            "{line}"
        );
        let second = s
            .host
            .call(&["sh", "-c", &line])
            .stdin("from stdin\n")
            .run();
        assert_eq!(
            (
                second.code,
                second.stdout.as_str(),
                second.stderr.trim_end()
            ),
            (first.code, first.stdout.as_str(), stderr.as_str()),
            "{line}"
        );
        assert_eq!(first.stdout, format!("from stdin\n<{}>\n", words[0]));
    }
}

#[test]
fn without_i_the_command_has_no_stdin() {
    let s = Session::new();
    let run = ["bocker", "-x", "run", "--rm", "--rootfs", &s.rootfs, "cat"];
    let output = s
        .host
        .call(&run)
        .stdin("not for the container\n")
        .run()
        .ok();
    assert_eq!(output.stdout, "");
    let (line, _) = traced(&output);
    assert!(line.ends_with("} 4>&1"), "{line}");
}

#[test]
fn a_detached_run_pasted_leaves_a_second_container() {
    let s = Session::new();
    let first = s
        .bocker(&["-x", "run", "-d", "--rootfs", &s.rootfs, "sleep", "1000"])
        .ok();
    let (line, _) = traced(&first);
    let second = s.host.run(&["sh", "-c", &line]).ok();
    let running = s.bocker(&["ps", "--format", "{{.ID}} {{.State}}"]).text();
    for output in [&first, &second] {
        assert!(
            running.contains(&format!("{} running\n", output.stdout.trim())),
            "{running}"
        );
    }
}

#[test]
fn the_other_verbs_can_be_pasted_too() {
    let s = Session::new();
    let init = s.bocker(&["--dry-run", "init", &s.rootfs, "base:1"]).text();
    assert!(s.host.sh(&init).text().starts_with("Created: img_"));
    s.run(&["--name", "box"], &["sh", "-c", "echo x > /x"]).ok();
    let commit = s.bocker(&["--dry-run", "commit", "box", "base:1"]).text();
    let said = s.host.sh(&commit).text();
    assert!(
        said.starts_with("Removed: img_") && said.contains("\nCreated: img_"),
        "{said}"
    );
    let rm = s.bocker(&["--dry-run", "rm", "box"]).text();
    assert_eq!(s.host.sh(&rm).text(), "Removed: box\n");
    let rmi = s.bocker(&["--dry-run", "rmi", "base:1"]).text();
    assert_eq!(s.host.sh(&rmi).text(), "Removed: base:1\n");
    assert_eq!(s.bocker(&["images"]).text(), "IMAGE_ID\t\tSOURCE\n");
}

#[test]
fn a_failing_pipeline_pasted_fails_the_same() {
    let s = Session::new();
    for (command, code) in [("nonesuch", 127), ("/etc", 126)] {
        let first = s
            .bocker(&["-x", "run", "--rm", "--rootfs", &s.rootfs, command])
            .exits(code);
        let (line, stderr) = traced(&first);
        let second = s.host.run(&["sh", "-c", &line]).exits(code);
        assert_eq!(second.stderr.trim_end(), stderr);
    }
    let missing = s
        .bocker(&["--dry-run", "init", "/no/such/directory"])
        .text();
    s.host.sh(&missing).exits(125).says("No directory named");
}

#[test]
fn a_dry_run_changes_nothing() {
    let s = Session::new();
    s.bocker(&["init", &s.rootfs, "base:1"]).ok();
    s.run(&["--name", "done"], &["true"]).ok();
    s.sleeping("box");
    let before = s.host.fingerprint();
    let index = fs::read(s.host.root().join("images/index.json")).expect("the index");
    for words in [
        &["run", "base:1", "true"][..],
        &[
            "run",
            "-d",
            "--name",
            "other",
            "-p",
            "80:80",
            "-v",
            "data:/data",
            "--rootfs",
            "/",
            "true",
        ],
        &["run", "127.0.0.1:1/not/here", "true"],
        &["pull", "127.0.0.1:1/not/here"],
        &["init", &s.rootfs],
        &["tag", "base:1", "base:2"],
        &["rmi", "base:1"],
        &["commit", "done", "base:1"],
        &["exec", "box", "touch", "/x"],
        &["stop", "box"],
        &["kill", "box"],
        &["rm", "-f", "box", "done"],
        &["cleanup", "done"],
        &["system", "setup"],
        &["system", "reset"],
    ] {
        let output = s.bocker(&[&["--dry-run"], words].concat()).ok();
        assert!(
            output.stdout.contains("bocker-"),
            "it prints what it would do: {output}"
        );
    }
    s.bocker(&["system", "prune", "--dry-run"]).ok();
    s.host.assert_same(&before);
    assert_eq!(
        fs::read(s.host.root().join("images/index.json")).expect("the index"),
        index
    );
    assert_eq!(
        s.bocker(&["ps", "--format", "{{.State}}", "-a"]).text(),
        "running\nexited\n"
    );
}

#[test]
fn on_an_empty_machine_a_dry_run_makes_not_even_the_root() {
    let s = Session::new();
    fs::remove_dir(s.host.root()).expect("an empty root");
    s.bocker(&["--dry-run", "run", "-d", "127.0.0.1:1/not/here:1", "true"])
        .ok();
    s.bocker(&["ps"]).ok();
    s.bocker(&["images"]).ok();
    assert!(!s.host.root().exists());
    s.run(&["--rm"], &["true"]).ok();
}

#[test]
fn a_swapped_piece_is_shown_by_its_path_and_runs() {
    let s = Session::new();
    let script = s
        .host
        .script("my-cg", "#!/bin/sh\necho \"swapped $1\" >&2\nexec cat\n");
    let run = [
        "bocker", "-x", "run", "--rm", "--rootfs", &s.rootfs, "echo", "hi",
    ];
    let output = s.host.call(&run).env("BOCKER_CG", &script).run().ok();
    assert_eq!(output.stdout, "hi\n");
    assert!(
        output
            .stderr
            .contains(&format!("| {} create ", script.display())),
        "{output}"
    );
    assert!(
        output.stderr.contains("| bocker-net create "),
        "the others by their names: {output}"
    );
    assert!(
        output.stderr.contains("swapped create") && output.stderr.contains("swapped delete"),
        "{output}"
    );
}

#[test]
fn a_piece_that_the_kernel_cannot_execute_is_said_once_and_leaves_nothing() {
    let s = Session::new();
    let broken = s.host.script("my-piece", "#!/no/such/interpreter\n");
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    for piece in ["BOCKER_SNAP", "BOCKER_NET", "BOCKER_CG", "BOCKER_SPAWN"] {
        let run = [
            "bocker", "run", "--rm", "--rootfs", &s.rootfs, "echo", "ran",
        ];
        let output = s.host.call(&run).env(piece, &broken).run().exits(125);
        assert_eq!(output.stdout, "", "{piece}: {output}");
        let said =
            |line: &&str| line.starts_with("bocker: cannot start") && line.contains("my-piece");
        assert_eq!(
            output.stderr.lines().filter(said).count(),
            1,
            "{piece}: {output}"
        );
        // Who was not there to delete is one that has made nothing.
        s.host.assert_same(&before);
    }
}

#[test]
fn a_swapped_piece_serves_a_detached_container_to_its_end() {
    let s = Session::new();
    let notes = s.host.scratch().join("notes");
    let text = format!("#!/bin/sh\necho \"$1\" >> {}\nexec cat\n", notes.display());
    let script = s.host.script("my-cg", &text);
    let run = ["bocker", "run", "-d", "--rm", "--rootfs", &s.rootfs, "true"];
    s.host.call(&run).env("BOCKER_CG", &script).run().ok();
    s.host.wait_for("its piece takes it down", || {
        (fs::read_to_string(&notes).ok()? == "create\ndelete\n").then_some(())
    });
    let gone = || s.bocker(&["ps", "-q"]).text().is_empty().then_some(());
    s.host.wait_for("it is removed", gone);
}

#[test]
fn a_swapped_piece_is_asked_for_its_part_of_the_pipeline_alone() {
    let s = Session::new();
    s.bocker(&["init", &s.rootfs, "base:1"]).ok();
    let notes = s.host.scratch().join("notes");
    let text = format!(
        "#!/bin/sh\necho \"${{0##*/}} $1\" >> {}\nexec bocker-${{0##*/}} \"$@\"\n",
        notes.display()
    );
    let pieces = ["snap", "net", "cg", "spawn", "pull"].map(|name| {
        (
            format!("BOCKER_{}", name.to_uppercase()),
            s.host.script(name, &text),
        )
    });
    let call = |words: &[&str]| {
        let call = s.host.call(&[&["bocker"], words].concat());
        pieces
            .iter()
            .fold(call, |call, (variable, script)| call.env(variable, script))
            .run()
            .ok()
    };
    for words in [
        &["ps"][..],
        &["images"],
        &["tag", "base:1", "base:2"],
        &["rmi", "base:2"],
        &["system", "info"],
        &["system", "setup"],
        &["system", "prune"],
    ] {
        call(words);
    }
    assert!(!notes.exists(), "{:?}", fs::read_to_string(&notes));
    assert_eq!(
        call(&["run", "--rm", "base:1", "echo a line"]).stdout,
        "a line\n"
    );
    let mut seen: Vec<String> = fs::read_to_string(&notes)
        .expect("notes")
        .lines()
        .map(str::to_owned)
        .collect();
    seen.sort();
    let expected = [
        "cg create",
        "cg delete",
        "net create",
        "net delete",
        "snap create",
        "snap delete",
        "spawn run",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_piece_that_is_missing_is_said_before_anything_is_made() {
    let s = Session::new();
    let before = s.host.fingerprint();
    for name in ["/no/such/program", "no-such-program", "/etc/passwd"] {
        let run = ["bocker", "run", "--rm", "--rootfs", &s.rootfs, "true"];
        let output = s.host.call(&run).env("BOCKER_SPAWN", name).run().exits(125);
        assert!(
            output.stderr.contains("BOCKER_SPAWN") && output.stderr.contains(name),
            "{output}"
        );
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
    }
    s.host.assert_same(&before);
}

#[test]
fn off_the_path_the_tools_are_found_beside_the_binary() {
    let s = Session::new();
    let bocker = s.host.bins().join("bocker").display().to_string();
    let run = [
        &bocker, "-x", "run", "--rm", "--rootfs", &s.rootfs, "echo", "hi",
    ];
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let first = s.host.call(&run).env("PATH", path).run().ok();
    let (line, _) = traced(&first);
    let snap = s.host.bins().join("bocker-snap").display().to_string();
    assert!(line.contains(&format!("| {snap} create")), "{line}");
    let second = s
        .host
        .call(&["sh", "-c", &line])
        .env("PATH", path)
        .run()
        .ok();
    assert_eq!(second.stdout, "hi\n");
}

#[test]
fn frob_runs_bocker_frob_from_path() {
    let s = Session::new();
    let _ = s
        .host
        .script("bocker-frob", "#!/bin/sh\nprintf '<%s>' \"$@\"\nexit 9\n");
    let path = format!("{}:/usr/bin:/bin", s.host.scratch().display());
    let bocker = s.host.bins().join("bocker").display().to_string();
    let words = [bocker.as_str(), "frob", "--rm", "a  b", "-x", "--help"];
    let output = s.host.call(&words).env("PATH", &path).run().exits(9);
    assert_eq!(output.stdout, "<--rm><a  b><-x><--help>");
    let lists = [bocker.as_str(), "cg", "--version"];
    let output = s.host.call(&lists).env("PATH", &path).run();
    assert!(
        output.text().starts_with("bocker-cg "),
        "the tools are found as such"
    );
}

#[test]
fn bug_4_and_5_a_mistyped_line_is_one_clear_line_and_125() {
    let s = Session::new();
    for (words, says) in [
        (&["frobnicate"][..], "there is no verb 'frobnicate'"),
        (&["iamges"], "did you mean 'images'?"),
        (&["--frob"], "'--frob'"),
        (&["--CPU_SHARE"], "CPU_SHARE"),
        (&["--CPU_SHARE=1=2", "run", "x"], "not a whole number"),
        (&["run"], "no image is named"),
        (&["run", "--name"], "--name"),
        (&["run", "--nmae", "web", "x"], "'--name'"),
        (
            &["run", "--name", "a/b", "--rootfs", "/", "true"],
            "'a/b' is no name",
        ),
        (&["exec"], "CONTAINER"),
        (&["exec", "web"], "no command is given"),
        (&["pull"], "<NAME>"),
        (&["pull", "a", "b", "c"], "'c'"),
        (&["commit"], "<CONTAINER>"),
        (&["rm"], "<NAMES>"),
        (&["stop", "-t", "soon", "x"], "'soon'"),
        (&["ps", "--format", "{{.x"], "{{ without }}"),
        (&["system", "frob"], "'frob'"),
        (&["help", "frob"], "'frob'"),
    ] {
        let output = s.bocker(words).exits(125).says(says);
        assert_eq!(
            (output.stdout.as_str(), output.stderr.lines().count()),
            ("", 1),
            "{output}"
        );
        assert!(output.stderr.starts_with("bocker: "), "{output}");
    }
    let none = s.bocker(&[]).exits(125);
    assert!(
        none.stdout.is_empty() && none.stderr.contains("bocker run"),
        "{none}"
    );
}

#[test]
fn help_shows_a_block_for_each_verb() {
    let s = Session::new();
    let help = s.bocker(&["help"]).text();
    assert!(help.contains("List images:\n\tbocker images\n\n"), "{help}");
    assert_eq!(s.bocker(&["--help"]).text(), help);
    for verb in [
        "pull", "init", "images", "ps", "run", "exec", "logs", "commit", "rm", "help", "stop",
        "kill", "inspect",
    ] {
        assert!(help.contains(&format!("\tbocker {verb}")), "{verb}: {help}");
        let page = s.bocker(&["help", verb]).text();
        assert!(page.contains(&format!("Usage: bocker {verb}")), "{page}");
    }
    assert!(s.bocker(&["run", "--help"]).text().contains("--entrypoint"));
    assert!(s.bocker(&["version"]).text().starts_with("bocker "));
}

#[test]
fn who_is_not_root_is_told_so_on_one_line() {
    let s = Session::new();
    // The folder of the binaries may be root's alone: the program is handed over open.
    let command = "exec 9< \"$(command -v bocker)\"; exec setpriv --reuid 65534 --clear-groups /proc/self/fd/9 ps";
    let output = s.host.sh(command).exits(125);
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
    assert!(output.stderr.contains("root"), "{output}");
}

#[test]
fn variables_come_from_options_files_and_the_caller() {
    let s = Session::new();
    let file = s.host.scratch().join("variables");
    fs::write(
        &file,
        "# a comment\n\nQUOTED=\"a b\"\nTWICE=file\nCALLERS\n",
    )
    .expect("a file");
    let run = [
        "bocker",
        "run",
        "--rm",
        "--env-file",
        &file.display().to_string(),
        "-e",
        "TWICE=option",
        "-e",
        "SECOND=a=b",
        "-e",
        "NOT_SET",
        "-e",
        "ALSO",
        "--rootfs",
        &s.rootfs,
        "env",
    ];
    let output = s
        .host
        .call(&run)
        .env("CALLERS", "from the caller")
        .env("ALSO", "")
        .env("SECRET", "x")
        .run();
    let env = output.text();
    for line in [
        "QUOTED=\"a b\"",
        "TWICE=option",
        "SECOND=a=b",
        "CALLERS=from the caller",
        "ALSO=",
    ] {
        assert!(env.lines().any(|other| other == line), "{line} in {env}");
    }
    assert!(
        !env.contains("NOT_SET") && !env.contains("SECRET") && !env.contains("TWICE=file"),
        "{env}"
    );
}

#[test]
fn a_variable_without_a_name_is_refused_and_nothing_is_left() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    s.run(&["-e", "=x"], &["true"])
        .exits(125)
        .says("bocker-spawn: '=x' is no variable: its name is missing");
    s.host.assert_same(&before);
}

#[test]
fn a_variable_that_the_caller_hands_on_is_in_no_line_that_others_can_read() {
    let s = Session::new();
    // Of no other test's.
    let secret = format!("secret-{}", std::process::id());
    let file = s.host.file("variables", &format!("B={secret}\n"));
    let given = format!("C={secret}");
    let variables = ["-e", "A", "--env-file", &file, "-e", &given];
    let run = [
        &["bocker", "-x", "run", "-d", "--name", "web"][..],
        &variables[..4],
        &["--rootfs", &s.rootfs, "sleep", "1000"],
    ];
    let output = s.host.call(&run.concat()).env("A", &secret).run().ok();
    assert!(!output.stderr.contains(&secret), "{output}");
    let exec = [
        &["bocker", "exec", "-d"][..],
        &variables,
        &["web", "sh", "-c", "echo $A $B $C > /seen; exec sleep 999"],
    ];
    s.host.call(&exec.concat()).env("A", &secret).run().ok();
    s.host.wait_for("the command", || {
        s.reads("web", "/seen")
            .filter(|seen| *seen == format!("{secret} {secret} {secret}\n"))
    });
    let shown = s.host.sh("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'");
    let lines = shown.stdout.lines().filter(|line| line.contains(&secret));
    assert_eq!(lines.collect::<Vec<_>>(), [""; 0]);
    let id = s.bocker(&["inspect", "--format", "{{.Id}}", "web"]).text();
    for verb in ["run", "exec"] {
        let words = format!("bocker-spawn\n{verb}\n{id}");
        assert!(shown.stdout.contains(&words), "{words}: {shown}");
    }
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn one_word_that_is_a_line_goes_through_the_shell_and_several_never_do() {
    let s = Session::new();
    assert_eq!(
        s.run(&["--rm"], &["echo a; echo  'b  c'"]).text(),
        "a\nb  c\n"
    );
    assert_eq!(
        s.run(&["--rm"], &["echo", "a; echo b"]).text(),
        "a; echo b\n"
    );
    s.run(&["--rm"], &["no-such-word"]).exits(127);
    let entry = s
        .run(&["--rm", "--entrypoint", "echo"], &["a; echo b"])
        .text();
    assert_eq!(entry, "a; echo b\n");
}

#[test]
fn inspect_as_command_prints_the_line_that_makes_it_again() {
    let s = Session::new();
    let command = [
        "sh",
        "-c",
        "echo \"$WHO's\"; cat /sys/fs/cgroup/cpu/cpu.shares",
    ];
    let run = [
        &["bocker", "-x", "run", "-e", "WHO=it", "--rootfs", &s.rootfs],
        &command[..],
    ]
    .concat();
    let first = s.host.call(&run).env("BOCKER_CPU_SHARE", "77").run().ok();
    assert_eq!(first.stdout, "it's\n77\n");
    let id = s.bocker(&["ps", "-q"]).text();
    let line = s.bocker(&["inspect", "--as-command", id.trim()]).text();
    assert!(
        line.starts_with("bocker --CPU_SHARE=77 run -e WHO=it "),
        "{line}"
    );
    assert_eq!(s.host.sh(&line).text(), first.stdout);
}

#[test]
fn inspect_prints_what_it_finds_and_exits_1_for_what_it_does_not() {
    let s = Session::new();
    let id = s.sleeping("box");
    let found = s
        .bocker(&["inspect", "box", "nothing"])
        .exits(1)
        .says("No container named 'nothing' exists");
    assert_eq!(found.json()[0]["bocker"]["id"], id.as_str());
    assert_eq!(found.json()[0]["bocker"]["state"], "running");
    assert_eq!(found.json().as_array().map(Vec::len), Some(1));
    assert_eq!(s.bocker(&["inspect", "nothing"]).exits(1).stdout, "[]\n");
    assert_eq!(
        s.bocker(&["inspect", "-f", "{{.bocker.name}}", &id]).text(),
        "box\n"
    );
}

#[test]
fn inspect_tells_what_is_mounted_as_docker_tells_it() {
    let s = Session::new();
    let shared = s.host.scratch().join("shared").display().to_string();
    let bind = format!("{shared}:/bind:ro");
    let options = [
        "--name", "box", "-v", "db:/data", "-v", &bind, "--tmpfs", "/mem",
    ];
    s.run(&options, &["true"]).ok();
    let found = s.bocker(&["inspect", "box"]).ok().json();
    let data = s.host.root().join("volumes/db/data");
    assert_eq!(
        found[0]["Mounts"],
        json!([
            {"Type": "volume", "Name": "db", "Source": data, "Destination": "/data", "Driver": "local", "Mode": "", "RW": true, "Propagation": ""},
            {"Type": "bind", "Source": shared, "Destination": "/bind", "Mode": "ro", "RW": false, "Propagation": "rprivate"},
            {"Type": "tmpfs", "Source": "", "Destination": "/mem", "Mode": "", "RW": true, "Propagation": ""},
        ])
    );
    s.bocker(&["rm", "box"]).ok();
}

#[test]
fn an_image_is_told_as_docker_tells_it() {
    if !need("docker-registry skopeo") {
        return;
    }
    let s = Session::new();
    let registry = Registry::start(&s.host);
    let name = registry.push(&Image::two_platforms(), "team/many:1");
    s.bocker(&["pull", &name]).ok();
    s.bocker(&["tag", &name, "mine:2"]).ok();
    let resolved = s.host.run(&["bocker-pull", "resolve", &name]).ok().json();
    // What skopeo reads in our store.
    let store = format!("oci:{}:{name}", s.host.root().join("images").display());
    let config = s
        .host
        .run(&["skopeo", "inspect", "--config", &store])
        .ok()
        .json();
    let found = s.bocker(&["image", "inspect", &name, "nothing:1"]);
    let found = found
        .exits(1)
        .says("No image named 'nothing:1' exists")
        .json();
    let image = &found[0];
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    assert_eq!(image["Id"], resolved["manifest"]);
    assert_eq!(image["RepoTags"], json!([name, "mine:2"]));
    let at = |name: &str| format!("{name}@{}", resolved["digest"].as_str().expect("a digest"));
    let repository = name.rsplit_once(':').expect("a tag").0;
    assert_eq!(image["RepoDigests"], json!([at(repository), at("mine")]));
    for (ours, theirs) in [
        ("Architecture", "architecture"),
        ("Os", "os"),
        ("Created", "created"),
        ("Config", "config"),
    ] {
        assert_eq!(image[ours], config[theirs], "{ours}");
    }
    assert_eq!(image["RootFS"]["Layers"], config["rootfs"]["diff_ids"]);
    let listed = s
        .bocker(&["images", "--format", "{{.ID}} {{.Bytes}}"])
        .text();
    let (id, size) = listed
        .lines()
        .next()
        .and_then(|line| line.split_once(' '))
        .expect("a line");
    assert_eq!(
        (image["bocker"]["id"].as_str(), image["Size"].to_string()),
        (Some(id), size.to_owned())
    );
    let id_by = |words: &[&str]| s.bocker(&[words, &["-f", "{{.Id}}", id]].concat()).text();
    assert_eq!(id_by(&["image", "inspect"]).trim(), image["Id"]);
    // Where no container has the name.
    assert_eq!(id_by(&["inspect"]).trim(), image["Id"]);
}

#[test]
fn ps_lists_every_container_in_every_format() {
    let s = Session::new();
    s.run(
        &["--name", "done", "--label", "a=b"],
        &["sh", "-c", "exit 3"],
    )
    .exits(3);
    let id = s
        .run(
            &["-d", "--name", "box", "-p", "127.0.0.1:8080:80"],
            &["sleep", "1000"],
        )
        .text();
    let id = id.trim();
    let ps = s.bocker(&["ps"]).text();
    let lines: Vec<&str> = ps.lines().collect();
    assert_eq!(lines[0], "CONTAINER_ID\t\tCOMMAND");
    assert_eq!(lines[1], format!("{id}\t\tsleep 1000"));
    assert!(lines[2].ends_with("\t\tsh -c exit 3"), "{ps}");
    assert_eq!(s.bocker(&["ps", "-a"]).text(), ps);
    let format = "{{.Names}}|{{.State}}|{{.Ports}}|{{json .Labels}}";
    let expected = "box|running|127.0.0.1:8080->80/tcp|{}\ndone|exited||{\"a\":\"b\"}\n";
    assert_eq!(s.bocker(&["ps", "--format", format]).text(), expected);
    let status = s.bocker(&["ps", "--format", "{{.Status}}"]).text();
    assert!(
        status.starts_with("Up ") && status.contains("\nExited (3) "),
        "{status}"
    );
    assert_eq!(s.bocker(&["ps", "-q"]).text().lines().next(), Some(id));
    assert_eq!(s.bocker(&["ps", "--json"]).json_lines()[0]["id"], id);
    let table = s
        .host
        .run(&["script", "-qec", "bocker ps", "/dev/null"])
        .text();
    assert!(
        table.starts_with("CONTAINER_ID  COMMAND"),
        "on a terminal it is wider: {table}"
    );
}

#[test]
fn a_list_whose_reader_has_gone_ends_without_a_word() {
    let s = Session::new();
    let output = s.host.sh("{ bocker ps; echo $? >&2; } | true");
    assert!(
        ["0\n", "141\n"].contains(&output.stderr.as_str()),
        "{output}"
    );
}

#[test]
fn rm_has_podmans_exit_codes() {
    let s = Session::new();
    s.run(&["--name", "done"], &["true"]).ok();
    s.sleeping("box");
    s.bocker(&["rm", "nothing"])
        .exits(1)
        .says("No container named 'nothing' exists");
    s.bocker(&["rm", "box"])
        .exits(2)
        .says("Container 'box' is running");
    let both = s.bocker(&["rm", "nothing", "done"]).exits(1);
    assert_eq!(both.stdout, "Removed: done\n");
    assert_eq!(s.bocker(&["rm", "-f", "box"]).text(), "Removed: box\n");
    assert_eq!(s.bocker(&["ps", "-q"]).text(), "");
}

#[test]
fn a_container_that_could_not_be_started_frees_its_name() {
    let s = Session::new();
    s.run(&["--name", "box"], &["nonesuch"]).exits(127);
    s.bocker(&["rm", "-f", "box"]);
    s.run(&["--name", "box"], &["true"]).ok();
}

#[test]
fn a_container_whose_document_is_damaged_can_still_be_removed() {
    let s = Session::new();
    s.bocker(&["system", "setup"]).ok();
    s.run(&["--rm", "--name", "other"], &["true"]).ok();
    let before = s.host.fingerprint();
    let id = s.sleeping("box");
    let config = s
        .host
        .root()
        .join("containers")
        .join(&id)
        .join("config.json");
    fs::write(config, "{broken").expect("damage");
    s.bocker(&["rm", "box"]).exits(125).says("not JSON");
    assert_eq!(s.bocker(&["rm", "-f", "box"]).text(), "Removed: box\n");
    s.host.assert_same(&before);
}

#[test]
fn stop_asks_and_then_kills() {
    let s = Session::new();
    for (name, trap) in [("polite", "trap 'exit 3' TERM"), ("deaf", "trap '' TERM")] {
        let script = format!("{trap}; while :; do sleep 0.05; done");
        s.run(&["-d", "--name", name], &["sh", "-c", &script]).ok();
        s.host.wait_for("the trap is set", || {
            let status = s
                .bocker(&["exec", name, "grep", "-E", "Sig(Ign|Cgt)", "/proc/1/status"])
                .text();
            let masks = status
                .split_whitespace()
                .filter_map(|mask| u64::from_str_radix(mask, 16).ok());
            masks
                .into_iter()
                .any(|mask| mask >> 14 & 1 == 1)
                .then_some(())
        });
    }
    assert_eq!(s.bocker(&["stop", "polite"]).text(), "polite\n");
    let started = std::time::Instant::now();
    assert_eq!(s.bocker(&["stop", "-t", "1", "deaf"]).text(), "deaf\n");
    assert!(started.elapsed().as_secs() >= 1, "it was given its second");
    let states = s
        .bocker(&["ps", "--format", "{{.Names}} {{.Status}}"])
        .text();
    assert!(
        states.contains("polite Exited (3)") && states.contains("deaf Exited (137)"),
        "{states}"
    );
    assert_eq!(
        s.bocker(&["stop", "deaf"]).text(),
        "deaf\n",
        "stopped already is no error"
    );
    s.bocker(&["stop", "nothing"]).exits(125);
    s.bocker(&["kill", "deaf"])
        .exits(125)
        .says("Container 'deaf' exists but is not running");
}

#[test]
fn stop_waits_no_longer_than_its_caller() {
    let s = Session::new();
    s.run(
        &["-d", "--name", "deaf"],
        &["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"],
    )
    .ok();
    s.host.wait_for("the trap is set", || {
        let status = s
            .bocker(&["exec", "deaf", "grep", "SigIgn", "/proc/1/status"])
            .text();
        let mask = u64::from_str_radix(status.split_whitespace().nth(1)?, 16).ok()?;
        (mask >> 14 & 1 == 1).then_some(())
    });
    let running = s.host.spawn(&["bocker", "stop", "-t", "1000", "deaf"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    running.signal_group(Signal::SIGINT);
    running.wait().exits(130);
    assert_eq!(
        s.bocker(&["ps", "--format", "{{.State}}"]).text(),
        "running\n"
    );
}

#[test]
fn a_detached_container_that_cannot_start_leaves_nothing() {
    let s = Session::new();
    s.bocker(&["system", "setup"]).ok();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let output = s.run(&["-d"], &["nonesuch"]).exits(127);
    assert_eq!(output.stdout, "");
    s.run(&["-d", "--memory", "1"], &["true"]).exits(125);
    s.host.assert_same(&before);
}

#[test]
fn a_terminal_reaches_the_container_and_its_size_and_status_come_back() {
    let s = Session::new();
    let line = format!(
        "stty rows 33 cols 99; bocker run --rm -it --rootfs {} sh -c 'tty; stty size; exit 4'",
        s.rootfs
    );
    let output = s.host.run(&["script", "-qec", &line, "/dev/null"]);
    assert!(
        output.stdout.contains("/dev/pts/0") && output.stdout.contains("33 99"),
        "{output}"
    );
    assert_eq!(output.code, 4, "{output}");
}

#[test]
fn a_terminal_without_one_for_its_input_is_refused_before_anything_is_made() {
    let s = Session::new();
    s.sleeping("box");
    let before = s.host.fingerprint();
    s.run(&["--rm", "-it"], &["sh"])
        .exits(125)
        .says("stdin must be a terminal");
    s.bocker(&["exec", "-it", "box", "sh"])
        .exits(125)
        .says("stdin must be a terminal");
    s.host.assert_same(&before);
}

#[test]
fn a_detached_container_can_have_a_terminal_that_nobody_is_at() {
    let s = Session::new();
    s.run(
        &["-itd", "--name", "box"],
        &["sh", "-c", "tty; exec sleep 1000"],
    )
    .ok();
    let logs = || (s.bocker(&["logs", "box"]).text().trim() == "/dev/pts/0").then_some(());
    s.host.wait_for("it says which", logs);
}

#[test]
fn ctrl_c_ends_the_container_and_tears_everything_down() {
    let s = Session::new();
    s.bocker(&["system", "setup"]).ok();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let running = s.host.spawn(&[
        "bocker", "run", "--rm", "--rootfs", &s.rootfs, "sleep", "1000",
    ]);
    s.host.wait_for("the container runs", || {
        (s.bocker(&["ps", "--format", "{{.State}}"]).text() == "running\n").then_some(())
    });
    running.signal_group(Signal::SIGINT);
    running.wait().exits(130);
    s.host.assert_same(&before);
}

#[test]
fn a_signal_at_any_moment_leaves_nothing() {
    let s = Session::new();
    s.bocker(&["system", "setup"]).ok();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    for delay in (0..40).step_by(2) {
        let running = s.host.spawn(&[
            "bocker", "run", "--rm", "--rootfs", &s.rootfs, "sleep", "1000",
        ]);
        std::thread::sleep(std::time::Duration::from_millis(delay));
        running.signal(Signal::SIGTERM);
        running.wait().exits(143);
    }
    s.host.assert_same(&before);
}

#[test]
fn a_prune_of_containers_takes_those_that_have_ended_or_never_began() {
    let s = Session::new();
    for name in ["lives", "ended", "kept"] {
        let command: &[&str] = match name {
            "lives" => &["sleep", "1000"],
            _ => &["true"],
        };
        s.run(
            &["-d", "--name", name, "-l", &format!("is={name}")],
            command,
        )
        .ok();
    }
    s.bocker(&["wait", "ended", "kept"]).ok();
    s.bocker(&["create", "--name", "new", "--rootfs", &s.rootfs, "true"])
        .ok();
    let names = || s.bocker(&["ps", "--format", "{{.Names}}"]).text();
    let prune = |words: &[&str]| s.bocker(&[&["container", "prune"], words].concat());
    let listed = prune(&["--dry-run"]).text();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    prune(&[]).exits(125).says("--force");
    assert_eq!(names().lines().count(), 4);
    prune(&["-f", "--filter", "name=^(ended|lives)$"]).ok();
    assert_eq!(names(), "new\nkept\nlives\n");
    let removed = prune(&["--force"]).text();
    assert_eq!(removed.matches("Removed: ps_").count(), 2, "{removed}");
    assert_eq!(names(), "lives\n");
    s.bocker(&["rm", "-f", "lives"]).ok();
}

#[test]
fn system_prune_lists_first_and_asks() {
    let s = Session::new();
    s.run(&["--name", "done"], &["true"]).ok();
    s.sleeping("box");
    let listed = s.bocker(&["system", "prune", "--dry-run"]).text();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(
        listed.starts_with("container: ps_") && listed.trim_end().ends_with("true"),
        "{listed}"
    );
    s.bocker(&["system", "prune"]).exits(125).says("--force");
    assert_eq!(s.bocker(&["ps", "-q"]).text().lines().count(), 2);
    s.bocker(&["system", "prune", "-f"]).ok();
    assert_eq!(s.bocker(&["ps", "--format", "{{.Names}}"]).text(), "box\n");
}

#[test]
fn system_reset_leaves_the_machine_as_it_was() {
    let s = Session::new();
    let before = s.host.fingerprint();
    s.bocker(&["init", &s.rootfs, "base:1"]).ok();
    s.run(
        &["--name", "done", "-v", "data:/data"],
        &["touch", "/data/x"],
    )
    .ok();
    s.run(&["-d", "-p", "8080:80"], &["sleep", "1000"]).ok();
    let setup = s.bocker(&["system", "info"]).ok();
    assert_eq!(setup.json()["net"]["bridge"]["made"], true);
    s.bocker(&["system", "reset"]).exits(125).says("--force");
    s.bocker(&["system", "reset", "--force"]).ok();
    s.host.assert_same(&before);
    let left = fs::read_dir(s.host.root()).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing is left in BOCKER_ROOT");
}

#[test]
fn cleanup_takes_down_by_name_what_is_left_mounted() {
    let s = Session::new();
    let script = s.host.script(
        "lazy-snap",
        "#!/bin/sh\n[ \"$1\" = unmount ] && exec cat\nexec \"$REAL\" \"$@\"\n",
    );
    let run = [
        "bocker", "run", "--name", "box", "--rootfs", &s.rootfs, "true",
    ];
    let real = s.host.bins().join("bocker-snap");
    s.host
        .call(&run)
        .env("BOCKER_SNAP", &script)
        .env("REAL", real)
        .run()
        .ok();
    let mounted = || s.host.sh("grep -c containers/ps_ /proc/self/mounts").stdout;
    assert_eq!(mounted(), "1\n");
    s.bocker(&["cleanup", "box"]).ok();
    assert_eq!(mounted(), "0\n");
    s.bocker(&["cleanup", "box"]).ok();
    assert_eq!(s.bocker(&["rm", "box"]).text(), "Removed: box\n");
}

#[test]
fn a_document_formatted_by_hand() {
    let s = Session::new();
    let script = "printf '%s\\n' '{\"a\":{\"b\":\"x\"}}' '{\"a\":{\"b\":2}}' | bocker format '{{if .a}}<{{.a.b}}>{{end}}'";
    assert_eq!(s.host.sh(script).text(), "<x>\n<2>\n");
    s.host.sh("bocker format '{{.a}}' </dev/null").exits(125);
    s.host
        .sh("echo '{\"bocker\":{\"error\":{\"code\":126}}}' | bocker format '{{.a}}'")
        .exits(126);
    s.host
        .sh("echo nonsense | bocker format '{{.a}}'")
        .exits(125)
        .says("not JSON");
}
