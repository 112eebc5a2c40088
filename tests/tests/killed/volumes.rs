//! Volumes: killed anywhere, one is there and whole, or not there; and never does one go that somebody may want.

use std::fs;
use std::path::PathBuf;

use bocker_tests::{Call, Fingerprint, Host, Output};

use crate::{at_every_change, collect};

const SNAP: &[&str] = &["bocker-snap"];
const FILES: usize = 2;

struct Machine {
    host: Host,
    rootfs: String,
    before: Fingerprint,
}

impl Machine {
    /// A machine with a root that ships some files, after its folders were made.
    fn new() -> Machine {
        let host = Host::new();
        let folder = host.scratch().join("rootfs");
        fs::create_dir_all(folder.join("data")).expect("mkdir");
        for number in 0..FILES {
            fs::write(folder.join(format!("data/{number}")), "shipped").expect("a file");
        }
        let machine = Machine {
            rootfs: folder.display().to_string(),
            before: host.fingerprint(),
            host,
        };
        let container = machine.container(&["--volume", "cache:/data"]);
        machine.run(&["delete", &container]);
        machine.run(&["volume", "rm", "cache"]);
        Machine {
            before: machine.host.fingerprint(),
            ..machine
        }
    }

    fn create(&self, options: &[&str]) -> Call {
        let words = [
            &["bocker-snap", "create", "--rootfs", &self.rootfs],
            options,
        ];
        self.host.call(&words.concat())
    }

    fn container(&self, options: &[&str]) -> String {
        id(&self.create(options).run().ok())
    }

    fn run(&self, words: &[&str]) {
        self.host.run(&[SNAP, words].concat()).ok();
    }

    fn volumes(&self) -> Vec<String> {
        let listed = self.host.run(&["bocker-snap", "volume", "ls"]).ok();
        let lines = listed.json_lines().into_iter();
        let name = |line: serde_json::Value| line["name"].as_str().expect("a name").to_owned();
        lines.map(name).collect()
    }

    fn data(&self, volume: &str) -> PathBuf {
        self.host.root().join("volumes").join(volume).join("data")
    }

    /// How many of the shipped files a volume has.
    fn filled(&self, volume: &str) -> usize {
        let files = (0..FILES).map(|number| self.data(volume).join(number.to_string()));
        files
            .filter(|file| fs::read(file).is_ok_and(|bytes| bytes == b"shipped"))
            .count()
    }
}

fn id(created: &Output) -> String {
    let document = created.json();
    let id = document["bocker"]["id"].as_str();
    id.expect("an id").to_owned()
}

#[test]
fn an_empty_volume_is_whole_for_who_comes_next() {
    let machine = Machine::new();
    at_every_change(
        16,
        || {
            machine.run(&["volume", "create", "cache"]);
            (machine.create(&["--volume", "cache:/data"]), ())
        },
        |()| {
            // Another uses it before anything is collected: it finds all, or fills it.
            machine.container(&["--volume", "cache:/data"]);
            assert_eq!(machine.filled("cache"), FILES);
            assert_eq!(
                fs::read_dir(machine.data("cache"))
                    .expect("a volume")
                    .count(),
                FILES
            );
            machine.run(&["gc", "--grace", "0"]);
            machine.run(&["volume", "rm", "cache"]);
        },
    );
    collect(&machine.host, SNAP, &machine.before);
}

#[test]
fn a_volume_by_itself_is_made_and_removed_or_not() {
    let machine = Machine::new();
    at_every_change(
        3,
        || {
            (
                machine
                    .host
                    .call(&["bocker-snap", "volume", "create", "cache"]),
                (),
            )
        },
        |()| {
            machine.run(&["volume", "create", "cache"]);
            assert_eq!(machine.volumes(), ["cache"]);
            machine.run(&["volume", "rm", "cache"]);
            collect(&machine.host, SNAP, &machine.before);
        },
    );
    let remove = ["bocker-snap", "volume", "rm", "-f", "cache"];
    at_every_change(
        3,
        || {
            let container = machine.container(&["--volume", "cache:/data"]);
            machine.run(&["delete", &container]);
            (machine.host.call(&remove), ())
        },
        |()| {
            if machine.volumes() == ["cache"] {
                assert_eq!(machine.filled("cache"), FILES, "it is whole or gone");
            }
            machine.host.run(&remove).ok();
            collect(&machine.host, SNAP, &machine.before);
        },
    );
}

#[test]
fn a_volume_that_nobody_named_goes_with_a_create_that_was_killed() {
    let machine = Machine::new();
    at_every_change(
        12,
        || (machine.create(&["--volume", "/nothing/there"]), ()),
        |()| collect(&machine.host, SNAP, &machine.before),
    );
}

#[test]
fn a_volume_that_nobody_named_goes_with_rm_v_and_stays_with_rm() {
    let machine = Machine::new();
    for (options, stays) in [(&["--volumes"][..], false), (&[], true)] {
        at_every_change(
            8,
            || {
                let document = machine.create(&["--volume", "/data"]).run().ok();
                let id = id(&document);
                let folder = machine.host.root().join("containers").join(&id);
                fs::write(folder.join("config.json"), document.stdout).expect("config.json");
                let call = [&["bocker-snap", "delete", &id], options].concat();
                (machine.host.call(&call), id)
            },
            |id| {
                let folder = machine.host.root().join("containers").join(&id);
                if folder.join("config.json").exists() {
                    // It is a container still, and has its volume.
                    let volumes = machine.volumes();
                    assert_eq!((volumes.len(), machine.filled(&volumes[0])), (1, FILES));
                    machine.run(&[&["delete", &id], options].concat());
                }
                machine.run(&["gc", "--grace", "0"]);
                let left = machine.volumes();
                assert_eq!(left.len(), usize::from(stays), "{options:?}");
                for volume in left {
                    assert_eq!(machine.filled(&volume), FILES);
                    machine.run(&["volume", "rm", &volume]);
                }
                machine.host.assert_same(&machine.before);
            },
        );
    }
}
