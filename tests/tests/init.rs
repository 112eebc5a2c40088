//! `--init`: process 1 is a small init of ours, and the command its child.

use bocker_tests::Session;

/// Whether a container has a process that nobody has reaped.
fn has_zombie(s: &Session, name: &str) -> bool {
    let script = "cat /proc/[0-9]*/stat 2>/dev/null; true";
    let stats = s.bocker(&["exec", name, "sh", "-c", script]).text();
    stats.contains(") Z ")
}

#[test]
fn orphans_are_reaped_and_without_an_init_they_are_not() {
    let s = Session::new();
    // What takes the place of the shell waits for nobody; only then the orphan ends, whose parent has ended long since.
    // Of several that end at once one signal may tell.
    let script = "for i in 1 2 3 4 5 6 7 8; do \
                  (sh -c \"until grep -q sleep /proc/$$/comm; do :; done; echo > /orphan\" &); \
                  done; exec sleep 1000";
    for (name, options) in [("with", &["--init"][..]), ("without", &[])] {
        let options = [&["-d", "--name", name], options].concat();
        s.run(&options, &["sh", "-c", script]).ok();
        s.host
            .wait_for("the orphan has run", || s.reads(name, "/orphan"));
    }
    s.host
        .wait_for("it stays", || has_zombie(&s, "without").then_some(()));
    s.host
        .wait_for("it is reaped", || (!has_zombie(&s, "with")).then_some(()));
    s.bocker(&["rm", "-f", "with", "without"]).ok();
}

#[test]
fn it_ends_as_the_command_does_and_what_cannot_be_executed_is_told() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)] {
        s.run(&["--rm", "--init"], &["sh", "-c", script])
            .exits(code);
    }
    for options in [&["--rm", "--init"][..], &["-d", "--init"]] {
        s.run(options, &["nonesuch"])
            .exits(127)
            .says("'nonesuch' was not found");
        s.run(options, &["/etc"]).exits(126);
    }
    s.host.assert_same(&before);
}

#[test]
fn signals_reach_the_command_and_stop_needs_no_handler() {
    let s = Session::new();
    let ended = |name: &str, code: u8| {
        s.bocker(&["stop", "-t", "600", name]).ok();
        let list = s.bocker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]);
        let wanted = format!("{name} Exited ({code})");
        assert!(list.stdout.contains(&wanted), "{list}");
        s.bocker(&["rm", name]).ok();
    };
    s.run(&["-d", "--init", "--name", "plain"], &["sleep", "1000"])
        .ok();
    ended("plain", 143);
    let script = "trap 'exit 9' TERM; echo > /ready; while :; do sleep 0.02; done";
    let options = ["-d", "--init", "--name", "handles"];
    s.run(&options, &["sh", "-c", script]).ok();
    s.host
        .wait_for("it handles", || s.reads("handles", "/ready"));
    ended("handles", 9);
}

#[test]
fn nothing_of_the_host_shows_in_it_and_its_file_cannot_be_written_to() {
    let s = Session::new();
    let programs = s
        .host
        .run(&["sh", "-c", "dirname $(command -v bocker-spawn)"]);
    let programs = programs.text().trim().to_owned();
    let script = "id -u; cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline; readlink /proc/1/exe; \
                  cat /proc/1/environ /proc/1/maps /proc/1/mountinfo; ls -l /proc/1/fd";
    for user in ["0", "1000"] {
        let options = ["--rm", "--init", "--user", user, "-e", "MINE=1"];
        let shown = s.run(&options, &["sh", "-c", script]).text();
        let first = format!("{user}\nbocker-init\nbocker-init sh -c id -u; ");
        assert!(shown.starts_with(&first), "{shown}");
        assert!(shown.contains("\0MINE=1\0") || shown.contains("MINE=1"));
        for word in [&*programs, "BOCKER", "bocker-spawn"] {
            assert!(!shown.contains(word), "{word} in {shown}");
        }
    }
    let write = "echo x > /proc/1/exe";
    s.run(&["--rm", "--init"], &["sh", "-c", write])
        .exits(1)
        .says("Read-only file system");
    // A command that leads to the init is that file, sealed, and no way to the host's.
    let script = "exec /proc/1/exe run -- sh";
    s.run(&["--rm", "--init"], &["sh", "-c", script]).exits(125);
}

#[test]
fn at_a_terminal_the_command_has_job_control() {
    let s = Session::new();
    let words = ["bocker", "run", "-it", "--rm", "--init"];
    let words = [&words, &s.base()[..], &["sh"]].concat();
    let terminal = s.host.call(&words).env("TERM", "xterm").at_terminal(24, 80);
    terminal.shows("/ # ");
    terminal.types("PS1=ne''xt; sh -c 'echo be\"\"gun; exec cat'\n");
    terminal.shows("begun");
    terminal.types("\u{3}");
    // The shell is there, and asks for more.
    terminal.shows("next");
    terminal.types("exit 3\n");
    let (code, screen) = terminal.wait();
    assert_eq!(code, 3, "{screen}");
    assert!(!screen.contains("job control turned off"), "{screen}");
}

#[test]
fn a_start_again_has_it_again() {
    let s = Session::new();
    let options = ["-d", "--init", "--name", "box"];
    s.run(&options, &["sleep", "1000"]).ok();
    s.bocker(&["stop", "box"]).ok();
    s.bocker(&["start", "box"]).ok();
    let comm = s.reads("box", "/proc/1/comm");
    assert_eq!(comm.as_deref(), Some("bocker-init\n"));
    s.bocker(&["rm", "-f", "box"]).ok();
}
