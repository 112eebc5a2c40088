//! What comes out of containers and goes into them: `export` and `cp`.

use std::fs;

use bocker_tests::{assert_same_tree, need, tree};

use crate::at_every_change;
use crate::snap::Machine;

#[test]
fn an_archive_that_is_exported_is_whole_or_what_was_there_before() {
    let machine = Machine::new();
    let container = machine.kept();
    // More than is written at once.
    fs::write(container.root.join("made/large"), vec![b'x'; 1 << 20]).expect("a file");
    let folder = machine.host.scratch().join("archives");
    let archive = machine.host.file("archives/out.tar", "");
    let export = ["bocker-snap", "export", "web", "--output", &archive];
    machine.host.run(&export).ok();
    let whole = fs::read(&archive).expect("an archive");
    let kept = machine.host.fingerprint();
    for fail_at in ["", "snap.export"] {
        at_every_change(
            5,
            || {
                fs::write(&archive, "what was there").expect("a file");
                let call = machine.host.call(&export).env("BOCKER_FAIL_AT", fail_at);
                (call, ())
            },
            |()| {
                let found = fs::read(&archive).expect("an archive");
                assert!(found == whole || found == b"what was there");
                machine.host.assert_same(&kept);
            },
        );
        // The last has ended, and has taken up what the killed ones have left beside it.
        let names = fs::read_dir(&folder).expect("the folder").count();
        assert_eq!(
            (fs::read(&archive).expect("an archive") == whole, names),
            (true, 1)
        );
    }
    machine.end(&container);
}

#[test]
fn a_copy_is_finished_by_the_next_and_touches_nothing_else() {
    if !need("getfattr") {
        return;
    }
    let machine = Machine::new();
    let container = machine.kept();
    let scratch = machine.host.scratch();
    let source = scratch.join("from");
    machine
        .host
        .sh(&format!(
            "mkdir -p {0}/deep/er; cd {0}; echo one > a; ln a b; ln -s a c; mkfifo deep/er/p; chmod 4750 a; chown 5:6 deep",
            source.display()
        ))
        .ok();
    let whole = tree(&source);
    let (inside, outside) = (container.root.join("copied"), scratch.join("copied"));
    let from = source.join(".").display().to_string();
    let to = outside.display().to_string();
    for (place, words) in [
        (&inside, [&*from, "web:/copied"]),
        (&outside, ["web:/copied/.", &*to]),
    ] {
        let copy = [&["bocker-snap", "cp", "--archive"][..], &words].concat();
        machine.host.run(&copy).ok();
        let kept = machine.host.fingerprint();
        at_every_change(
            10,
            || {
                fs::remove_dir_all(place).expect("remove the copy");
                (machine.host.call(&copy), ())
            },
            |()| {
                machine.host.run(&copy).ok();
                assert_same_tree(&tree(place), &whole);
                assert_same_tree(&tree(&source), &whole);
                machine.host.assert_same(&kept);
            },
        );
    }
    machine.end(&container);
}
