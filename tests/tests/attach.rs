//! Who talks to the supervisor of a container: those who attach to it, and those who wait for its end.

use std::fs;

use bocker_tests::{Session, Terminal};

fn detached(s: &Session, options: &[&str], command: &[&str]) -> String {
    let output = s.run(&[&["-d"], options].concat(), command);
    output.text().trim().to_owned()
}

/// Waits until so many are connected to a supervisor.
fn wait_for_clients(s: &Session, id: &str, count: usize) {
    // It was bound under another name, and those that are accepted have it too.
    let name = format!("/run/bocker/{id}/socket.new");
    s.host.wait_for("the clients", || {
        let sockets = fs::read_to_string("/proc/thread-self/net/unix").expect("the sockets");
        let found = sockets.lines().filter(|line| line.ends_with(&name)).count();
        (found == 1 + count).then_some(())
    });
}

#[test]
fn wait_says_how_each_ends_in_the_order_of_the_words() {
    let s = Session::new();
    let ids = [3, 0, 137].map(|code| {
        let script = format!("mkfifo /go; read line < /go; exit {code}");
        detached(&s, &[], &["sh", "-c", &script])
    });
    let words = [
        &["bocker-spawn", "wait"],
        &ids.each_ref().map(String::as_str)[..],
    ]
    .concat();
    let waiting = s.host.spawn(&words);
    for id in &ids {
        wait_for_clients(&s, id, 1);
    }
    for id in ids.iter().rev() {
        let go = "until test -p /go; do sleep 0.01; done; echo > /go";
        s.bocker(&["exec", id, "sh", "-c", go]).ok();
    }
    assert_eq!(waiting.wait().text(), "3\n0\n137\n");
    // What has ended is known.
    let again = [&words[..], &[&ids[0]]].concat();
    assert_eq!(s.host.run(&again).text(), "3\n0\n137\n3\n");
}

/// `bocker` with these words at a terminal of 24 rows and 80 columns.
fn at_terminal(s: &Session, words: &[&str]) -> Terminal {
    let words = [&["bocker"], words].concat();
    s.host.call(&words).env("TERM", "xterm").at_terminal(24, 80)
}

/// A shell with a terminal of its own in a container, and somebody at it.
fn shell(s: &Session, options: &[&str]) -> Terminal {
    let words = [
        &["run", "-it"],
        options,
        &["--rootfs", &s.rootfs, "/bin/sh"],
    ]
    .concat();
    let terminal = at_terminal(s, &words);
    terminal.shows("/ # ");
    terminal
}

fn state(s: &Session, name: &str) -> String {
    let format = ["--format", "{{.Names}} {{.State}}"];
    let list = s.bocker(&[&["ps"], &format[..]].concat()).text();
    let line = list.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn a_shell_is_worked_at_left_and_come_back_to() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let terminal = shell(&s, &["--rm", "--name", "box"]);
    assert!(!terminal.is_cooked());
    terminal.types("a=kept; stty size\n");
    terminal.shows("24 80");
    terminal.resize(33, 99);
    terminal.types("stty size\n");
    terminal.shows("33 99");
    terminal.types("\u{10}\u{11}");
    let (code, screen) = terminal.wait();
    assert_eq!(code, 0, "{screen}");
    assert!(
        screen.contains("box") || screen.contains("detached"),
        "{screen}"
    );
    assert_eq!(state(&s, "box"), "running");

    let again = at_terminal(&s, &["attach", "box"]);
    again.types("stty size; echo $a\n");
    again.shows("24 80");
    again.shows("kept");
    // Begun and not ended, it is typed.
    again.types("echo \u{10}x; exit 7\n");
    let (code, screen) = again.wait();
    assert_eq!(code, 7, "{screen}");
    s.host.wait_for("it is removed", || {
        state(&s, "box").is_empty().then_some(())
    });
    s.bocker(&["system", "reset", "--force"]).ok();
    drop(before);
}

#[test]
fn a_run_at_a_terminal_gives_the_exit_status_and_leaves_nothing() {
    let s = Session::new();
    s.run(&["--rm"], &["true"]).ok();
    let before = s.host.fingerprint();
    let terminal = shell(&s, &["--rm"]);
    terminal.types("exit 9\n");
    let (code, screen) = terminal.wait();
    assert_eq!(code, 9, "{screen}");
    let diff = before.diff(&s.host.fingerprint());
    assert!(diff.is_empty(), "it has returned: {diff}");
    let refused = at_terminal(
        &s,
        &["run", "-it", "--rm", "--rootfs", &s.rootfs, "nonesuch"],
    );
    let (code, screen) = refused.wait();
    assert_eq!(code, 127, "{screen}");
    s.host.assert_same(&before);
}

#[test]
fn what_is_shown_of_a_run_at_a_terminal_can_be_pasted() {
    let s = Session::new();
    let line = s.bocker(&[
        "--dry-run",
        "run",
        "-t",
        "--rm",
        "--rootfs",
        &s.rootfs,
        "tty",
    ]);
    let line = line.text();
    assert!(
        line.contains(" --detach --attach ") && line.contains("cleanup --unless-running --status"),
        "{line}"
    );
    let terminal = s.host.call(&["sh", "-c", &line]).at_terminal(24, 80);
    let (code, screen) = terminal.wait();
    assert_eq!((code, screen.trim()), (0, "/dev/pts/0"));
}

#[test]
fn a_terminal_begun_with_nobody_at_it_can_be_attached_to_and_shared() {
    let s = Session::new();
    let id = detached(&s, &["-it", "--name", "box"], &["/bin/sh"]);
    let one = at_terminal(&s, &["attach", "--detach-keys", "q", "box"]);
    one.types("echo to=$((40+2))\n");
    one.shows("to=42");
    let two = at_terminal(&s, &["attach", "box"]);
    wait_for_clients(&s, &id, 2);
    one.types("echo both=$((1+1))\n");
    one.shows("both=2");
    two.shows("both=2");
    one.types("q");
    assert_eq!(one.wait().0, 0);
    two.types("exit 3\n");
    assert_eq!(two.wait().0, 3);
}
