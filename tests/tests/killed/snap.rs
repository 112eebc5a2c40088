//! bocker-snap, on containers.

use std::fs;
use std::path::{Path, PathBuf};

use bocker_tests::{Call, Fingerprint, Host, Output};

use crate::{at_every_change, collect};

const SNAP: &[&str] = &["bocker-snap"];

/// A machine on which there was a container, so that the folders that stay are there.
pub(crate) struct Machine {
    pub(crate) host: Host,
    rootfs: String,
    before: Fingerprint,
}

/// A container that was made and not started.
pub(crate) struct Container {
    document: String,
    pub(crate) id: String,
    pub(crate) root: PathBuf,
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let host = Host::new();
        let folder = host.scratch().join("rootfs");
        fs::create_dir_all(folder.join("data/more")).expect("mkdir");
        fs::write(folder.join("data/more/shipped"), "shipped").expect("a file");
        let machine = Machine {
            rootfs: folder.display().to_string(),
            before: host.fingerprint(),
            host,
        };
        let container = machine.container();
        machine.delete(&container.document).run().ok();
        machine.without_volume();
        Machine {
            before: machine.host.fingerprint(),
            ..machine
        }
    }

    fn create(&self) -> Call {
        self.host.call(&[
            "bocker-snap",
            "create",
            "--name",
            "web",
            "--volume",
            "cache:/data",
            "--rootfs",
            &self.rootfs,
        ])
    }

    fn container(&self) -> Container {
        let output = self.create().run().ok();
        let text = |pointer: &str| -> String {
            let value = output.json();
            value
                .pointer(pointer)
                .and_then(|v| v.as_str())
                .expect(pointer)
                .to_owned()
        };
        let container = Container {
            id: text("/bocker/id"),
            root: text("/root/path").into(),
            document: output.stdout,
        };
        fs::create_dir(container.root.join("made")).expect("mkdir in the container");
        fs::write(container.root.join("made/file"), "written").expect("write in the container");
        container
    }

    /// A container that has run: bocker-spawn has written its document.
    pub(crate) fn kept(&self) -> Container {
        let container = self.container();
        let folder = container.root.parent().expect("a folder");
        fs::write(folder.join("config.json"), &container.document).expect("config.json");
        fs::write(folder.join("status"), "{}").expect("status");
        container
    }

    fn delete(&self, document: &str) -> Call {
        self.host.call(&["bocker-snap", "delete"]).stdin(document)
    }

    fn run(&self, words: &[&str]) -> Output {
        self.host.run(&[SNAP, words].concat())
    }

    /// Removes a container, and nothing of it or of whatever else has happened is left.
    #[track_caller]
    pub(crate) fn end(&self, container: &Container) {
        container.has_what_it_wrote();
        self.run(&["delete", &container.id]).ok();
        self.without_volume();
        self.host.assert_same(&self.before);
    }

    /// A volume outlives its containers; this one must be whole wherever it is, and goes.
    fn without_volume(&self) {
        let volume = self.host.root().join("volumes/cache");
        if volume.exists() {
            let shipped = fs::read_to_string(volume.join("data/more/shipped"));
            assert_eq!(shipped.expect("the volume is filled"), "shipped");
            fs::remove_dir_all(volume).expect("remove the volume");
        }
    }
}

impl Container {
    #[track_caller]
    fn has_what_it_wrote(&self) {
        let file = fs::read_to_string(self.root.join("made/file"));
        assert_eq!(file.expect("a file of the container"), "written");
    }
}

#[test]
fn a_create_is_collected_and_its_name_is_free_again() {
    let machine = Machine::new();
    at_every_change(
        12,
        || (machine.create(), ()),
        |()| {
            machine.run(&["gc", "--grace", "0"]).ok();
            machine.without_volume();
            machine.host.assert_same(&machine.before);
            let again = machine.container();
            machine.delete(&again.document).run().ok();
            machine.without_volume();
        },
    );
}

#[test]
fn a_create_that_fails_and_is_killed_while_it_takes_back_what_it_did_is_collected() {
    let machine = Machine::new();
    at_every_change(
        16,
        || (machine.create().env("BOCKER_FAIL_AT", "snap.mount"), ()),
        |()| collect(&machine.host, SNAP, &machine.before),
    );
}

#[test]
fn a_delete_is_finished_by_the_next() {
    let machine = Machine::new();
    at_every_change(
        10,
        || {
            let container = machine.container();
            (machine.delete(&container.document), container)
        },
        |container| {
            machine.delete(&container.document).run().ok();
            machine.without_volume();
            machine.host.assert_same(&machine.before);
        },
    );
}

#[test]
fn a_delete_is_finished_by_a_collection() {
    let machine = Machine::new();
    at_every_change(
        10,
        || {
            let container = machine.container();
            (machine.delete(&container.document), ())
        },
        |()| {
            machine.without_volume();
            collect(&machine.host, SNAP, &machine.before);
        },
    );
}

#[test]
fn a_container_that_was_kept_is_there_with_all_its_files_or_is_no_container_any_more() {
    let machine = Machine::new();
    at_every_change(
        10,
        || {
            let container = machine.kept();
            let call = machine.host.call(&["bocker-snap", "delete", &container.id]);
            (call, container)
        },
        |container| {
            let listed = machine.host.run(&["bocker", "ps", "-q"]).text();
            if listed.contains(&container.id) {
                machine.run(&["mount", &container.id]).ok();
                container.has_what_it_wrote();
                machine.run(&["delete", "web"]).ok();
            }
            machine.without_volume();
            collect(&machine.host, SNAP, &machine.before);
        },
    );
}

#[test]
fn a_mount_and_an_unmount_are_done_again_and_keep_what_was_written() {
    let machine = Machine::new();
    let container = machine.kept();
    machine.run(&["unmount", "web"]).ok();
    machine.run(&["mount", "web"]).ok();
    let mounted = machine.host.fingerprint();
    machine.run(&["unmount", "web"]).ok();
    let unmounted = machine.host.fingerprint();
    let verbs = [
        ("mount", &mounted, "unmount", &unmounted),
        ("unmount", &unmounted, "mount", &mounted),
    ];
    for (verb, done, opposite, undone) in verbs {
        at_every_change(
            1,
            || (machine.host.call(&["bocker-snap", verb, "web"]), ()),
            |()| {
                machine.run(&[verb, "web"]).ok();
                machine.host.assert_same(done);
                machine.run(&[opposite, "web"]).ok();
                machine.host.assert_same(undone);
            },
        );
        machine.run(&["mount", "web"]).ok();
        container.has_what_it_wrote();
    }
    machine.run(&["delete", "web"]).ok();
    machine.without_volume();
    machine.host.assert_same(&machine.before);
}

#[test]
fn the_collection_itself_and_a_reset_are_finished_by_the_next() {
    let machine = Machine::new();
    let leave_something = || {
        machine.container();
        let layers = machine.host.root().join("layers");
        fs::create_dir_all(layers.join("new-0123")).expect("an unfinished layer");
        fs::create_dir_all(layers.join("4567/etc")).expect("a layer of no image");
        machine.without_volume();
    };
    for verb in [&["gc", "--grace", "0"][..], &["reset"]] {
        leave_something();
        machine.run(verb).ok();
        let after = machine.host.fingerprint();
        at_every_change(
            12,
            || {
                leave_something();
                (machine.host.call(&[SNAP, verb].concat()), ())
            },
            |()| {
                machine.run(verb).ok();
                machine.host.assert_same(&after);
            },
        );
    }
}

#[test]
fn a_name_is_given_once_whoever_was_killed_with_it() {
    let machine = Machine::new();
    at_every_change(
        12,
        || (machine.create(), ()),
        |()| {
            // Before anything is collected: the name is free, or it is taken, and never two have it.
            let names = machine.host.root().join("names/web");
            let holder = names.read_link().ok();
            let again = machine.create().run();
            let now = names.read_link().expect("the name is taken");
            let is_alive = |target: &Path| machine.host.root().join("names").join(target).is_dir();
            match holder.filter(|target| is_alive(target)) {
                Some(holder) => {
                    assert_eq!(now, holder);
                    again.exits(125).says("taken by");
                }
                None => machine
                    .delete(&again.ok().stdout)
                    .run()
                    .ok()
                    .exits(0)
                    .stdout
                    .clear(),
            }
            machine.run(&["gc", "--grace", "0"]).ok();
            machine.without_volume();
            machine.host.assert_same(&machine.before);
        },
    );
}
