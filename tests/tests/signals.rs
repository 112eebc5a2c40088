//! INT, TERM, HUP and KILL to whoever types a verb, after each thing that it does: the verb is done, or it says that it was
//! interrupted, and the container is what it was or what it should be. Nothing hangs, and nothing is left.

use bocker_tests::{Output, Session};
use nix::sys::signal::Signal;

const SIGNALS: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGKILL,
];

/// Of one that is whole, and of one that a command was killed in the middle of.
const STATES: [&str; 4] = ["", "created", "running", "exited"];

/// What a verb is typed to, and how often it does something at least; fewer would show little.
struct Verb {
    words: &'static [&'static str],
    before: &'static [&'static str],
    least: usize,
}

const VERBS: [Verb; 4] = [
    Verb {
        words: &["start", "web"],
        before: &["stop", "-t", "0", "web"],
        least: 4,
    },
    Verb {
        words: &["stop", "web"],
        before: &["start", "web"],
        least: 2,
    },
    Verb {
        words: &["restart", "-t", "0", "web"],
        before: &["start", "web"],
        least: 4,
    },
    Verb {
        words: &["exec", "web", "true"],
        before: &["start", "web"],
        least: 2,
    },
];

fn state(s: &Session) -> String {
    let shown = s.bocker(&["ps", "-a", "--format", "{{.State}}"]);
    shown.text().trim().to_owned()
}

/// What was killed says nothing; anybody else says what became of it.
#[track_caller]
fn is_clear(output: &Output, signal: Signal) {
    let is_killed = output.code == 128 + signal as i32;
    let is_said = output.stderr.lines().any(|line| line.starts_with("bocker"));
    assert!(output.code == 0 || is_killed || is_said, "{output}");
    assert!(!output.stderr.contains("panicked"), "{output}");
}

/// `prepare` is told what ended the one before.
fn signal_after_each_change(
    s: &Session,
    words: &[&str],
    least: usize,
    mut prepare: impl FnMut(Option<Signal>),
) {
    let mut before = None;
    for count in 1.. {
        prepare(before);
        // Each verb has each of them, at one change or another.
        let signal = SIGNALS[count % SIGNALS.len()];
        let call = s.host.call(&[&["bocker"], words].concat());
        let (struck, output) = call.signal_after_change(count, signal);
        is_clear(&output, signal);
        let state = state(s);
        eprintln!(
            "{words:?}, {signal} after change {count} ({struck:?}): {}, {state}",
            output.code
        );
        assert!(STATES.contains(&state.as_str()), "{state}");
        if struck.is_none() {
            output.ok();
            assert!(count > least, "only {count} changes");
            return;
        }
        before = Some(signal);
    }
}

#[test]
fn a_signal_at_any_moment_of_a_verb_leaves_the_container_whole() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    s.run(
        &["-d", "--name", "web", "-p", "8080:80"],
        &["sleep", "1000"],
    )
    .ok();
    for verb in VERBS {
        signal_after_each_change(&s, verb.words, verb.least, |_| {
            s.bocker(verb.before).ok();
        });
    }
    s.bocker(&["rm", "-f", "web"]).ok();
    s.host.assert_same(&before);
}

#[test]
fn a_signal_at_any_moment_of_its_beginning_or_removal_leaves_it_or_nothing() {
    let s = Session::new();
    s.run(&["--rm", "--name", "web"], &["true"]).ok();
    let before = s.host.fingerprint();
    let remove = |ended_by| {
        let removed = s.bocker(&["rm", "-f", "web"]);
        let is_gone = removed.stderr.contains("No container named 'web' exists");
        assert!(removed.code == 0 || is_gone, "{removed}");
        // Who is interrupted takes back what it has begun; who is killed cannot.
        if ended_by == Some(Signal::SIGKILL) {
            for tool in ["bocker-spawn", "bocker-cg", "bocker-net", "bocker-snap"] {
                s.host.run(&[tool, "gc", "--grace", "0"]).ok();
            }
        }
        s.host.assert_same(&before);
    };
    let run = [
        "run", "-d", "--name", "web", "-p", "8080:80", "--rootfs", &s.rootfs, "sleep", "1000",
    ];
    signal_after_each_change(&s, &run, 6, remove);
    signal_after_each_change(&s, &["rm", "-f", "web"], 3, |ended_by| {
        remove(ended_by);
        s.bocker(&run).ok();
    });
    remove(None);
}
