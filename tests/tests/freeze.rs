//! Containers that stand still: as long as a command works on their files, until they are let go on, and never because
//! somebody was killed. It is the same on both versions of cgroups, so that this runs on both.

use bocker_tests::Session;

#[test]
fn what_is_written_in_lockstep_is_never_caught_apart() {
    let s = Session::with_base();
    // Between the two, in the order of the archive, lies what takes a while to read.
    s.runs(
        "web",
        &[],
        "dd if=/dev/urandom of=/m bs=1M count=8 2>/dev/null; echo ready; while :; do echo x >> /a; echo x >> /z; done",
    );
    s.bocker(&["commit", "web", "new:1"]).ok();
    let lines = s.bocker(&["run", "--rm", "new:1", "wc -l /a /z"]).text();
    let counts: Vec<u64> = lines
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    let apart = counts[0].checked_sub(counts[1]);
    assert!(matches!(apart, Some(0 | 1)), "{lines}");
    // It goes on.
    let lines = || s.reads("web", "/a").expect("a file").len();
    let before = lines();
    s.host
        .wait_for("it goes on", || (lines() > before).then_some(()));
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn who_is_killed_while_a_container_stands_still_leaves_none_that_does() {
    let s = Session::with_base();
    s.runs("web", &[], "echo ready; while :; do echo x >> /a; done");
    let is_frozen = || s.host.run(&["bocker-cg", "list"]).ok().json()["frozen"] == true;
    let commit = |step: &str| {
        let call = s
            .host
            .call(&["bocker", "commit", "--pause", "web", "new:1"]);
        call.env("BOCKER_FAIL_AT", step).run()
    };
    let recoveries = [
        &["bocker", "ps"][..],
        &["bocker-cg", "gc"],
        &["bocker-cg", "thaw", "web"],
    ];
    for recover in recoveries {
        assert_ne!(commit("kill:cg.freeze").code, 0);
        assert!(is_frozen());
        s.host.run(recover).ok();
        assert!(!is_frozen(), "{recover:?}");
    }
    assert_ne!(commit("cg.freeze").code, 0);
    assert!(!is_frozen(), "a failure takes it back");
    commit("kill:cg.thaw");
    assert!(!is_frozen());
    // The command is killed, and who waits for it is there.
    assert_ne!(commit("kill:snap.layer").code, 0);
    assert!(!is_frozen());
    // One that was paused on purpose stays so.
    s.host.run(&["bocker-cg", "freeze", "web"]).ok();
    assert_eq!(commit("").code, 0);
    s.bocker(&["ps"]).ok();
    assert!(is_frozen());
    s.host.run(&["bocker-cg", "thaw", "web"]).ok();
    s.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_container_stands_still_as_long_as_a_command_runs_whose_end_is_told() {
    let s = Session::with_base();
    s.runs("web", &[], "echo ready; sleep 1000");
    let freeze = |words: &[&str]| {
        s.host
            .run(&[&["bocker-cg", "freeze", "web"], words].concat())
    };
    let inner = freeze(&["--", "sh", "-c", "bocker-cg list; exit 7"]).exits(7);
    assert_eq!(inner.json()["frozen"], true);
    freeze(&["sh", "-c", "kill -TERM $$"]).exits(143);
    freeze(&["nosuchprogram"]).exits(127);
    freeze(&["/"]).exits(126);
    let frozen = || s.host.run(&["bocker-cg", "list"]).ok().json()["frozen"] == true;
    assert!(!frozen());
    // A signal to it is one to the command.
    let waiting = s
        .host
        .spawn(&["bocker-cg", "freeze", "web", "sleep", "1000"]);
    s.host
        .wait_for("it stands still", || frozen().then_some(()));
    waiting.signal(nix::sys::signal::Signal::SIGTERM);
    waiting.wait().exits(143);
    assert!(!frozen());
    s.bocker(&["rm", "-f", "web"]).ok();
    s.ran("done", &[], "true");
    freeze(&[]).exits(125);
    s.host
        .run(&["bocker-cg", "freeze", "done"])
        .exits(125)
        .says("is not running");
    s.host.run(&["bocker-cg", "freeze", "done", "true"]).ok();
}
