//! Whole pipelines of the front end: one of their stages is killed after each step that it has, and the front end itself
//! after everything it does.

use bocker_tests::{Call, Fingerprint, Host, step_names};

use crate::{TOOLS, at_every_change, collect};

/// A machine on which containers were run.
struct Machine {
    host: Host,
    rootfs: String,
    before: Fingerprint,
}

impl Machine {
    fn new() -> Machine {
        let host = Host::new();
        let rootfs = host.busybox_rootfs("rootfs").display().to_string();
        let machine = Machine {
            before: host.fingerprint(),
            host,
            rootfs,
        };
        machine.run(&["--rm"]).run().ok();
        Machine {
            before: machine.host.fingerprint(),
            ..machine
        }
    }

    fn run(&self, options: &[&str]) -> Call {
        let words = ["--rootfs", &self.rootfs, "-p", "8080:80", "--name", "web"];
        let command = match options.contains(&"-d") {
            true => ["sleep", "1000"].as_slice(),
            false => &["true"],
        };
        self.host
            .call(&[&["bocker", "run"], options, &words, command].concat())
    }

    fn remove(&self) -> Call {
        self.host.call(&["bocker", "rm", "-f", "web"])
    }

    /// The steps of all stages, by their own explanation.
    fn steps(&self, words: &[&str]) -> Vec<String> {
        let shown = self
            .host
            .run(&[&["bocker", "--explain"], words].concat())
            .ok();
        step_names(&shown.stderr)
    }

    /// What is left is removed by whoever removes a container by its name, and what has no name yet by the collection.
    #[track_caller]
    fn recover(&self) {
        let removed = self.remove().run();
        assert!(
            removed.code == 0 || removed.stderr.contains("No container named 'web' exists"),
            "{removed}"
        );
        collect(&self.host, &TOOLS, &self.before);
    }
}

#[test]
fn a_run_with_a_stage_killed_after_each_of_its_steps() {
    let machine = Machine::new();
    for options in [&["--rm"][..], &[], &["-d"]] {
        let words = [
            &["run"],
            options,
            &[
                "--rootfs",
                &machine.rootfs,
                "-p",
                "8080:80",
                "--name",
                "web",
                "true",
            ],
        ];
        let steps = machine.steps(&words.concat());
        assert!(steps.len() >= 25, "{options:?}: {steps:?}");
        machine.remove().run();
        for step in steps {
            let kill = format!("kill:{step}");
            let output = machine.run(options).env("BOCKER_FAIL_AT", &kill).run();
            eprintln!("run {options:?}, {kill}: exit {}", output.code);
            machine.recover();
        }
    }
}

#[test]
fn an_rm_with_a_stage_killed_after_each_of_its_steps() {
    let machine = Machine::new();
    machine.run(&["-d"]).run().ok();
    let steps = machine.steps(&["rm", "-f", "web"]);
    assert!(steps.len() >= 9, "{steps:?}");
    for step in steps {
        machine.run(&["-d"]).run().ok();
        let kill = format!("kill:{step}");
        let output = machine.remove().env("BOCKER_FAIL_AT", &kill).run();
        assert_ne!(output.code, 0, "nothing was killed at {step}: {output}");
        machine.recover();
    }
}

#[test]
fn a_start_with_a_stage_killed_after_each_of_its_steps_is_done_by_the_next() {
    let machine = Machine::new();
    machine.run(&["-d"]).run().ok();
    let bocker = |words: &[&str]| machine.host.call(&[&["bocker"], words].concat());
    let stop = || bocker(&["stop", "-t", "0", "web"]).run().ok();
    stop();
    let steps = machine.steps(&["start", "web"]);
    stop();
    assert!(steps.len() >= 20, "{steps:?}");
    for step in steps {
        // It has to come as far as this after the kill at the step before.
        let kill = format!("kill:{step}");
        let output = bocker(&["start", "web"]).env("BOCKER_FAIL_AT", &kill).run();
        assert_ne!(output.code, 0, "nothing was killed at {step}: {output}");
        eprintln!("{kill}: exit {}", output.code);
        stop();
    }
    bocker(&["start", "web"]).run().ok();
    bocker(&["exec", "web", "true"]).run().ok();
    machine.recover();
}

#[test]
fn a_run_whose_front_end_is_killed_leaves_nothing_that_is_not_collected() {
    let machine = Machine::new();
    for options in [&["--rm"][..], &["-d"]] {
        at_every_change(6, || (machine.run(options), ()), |()| machine.recover());
    }
}

#[test]
fn an_rm_whose_front_end_is_killed_is_finished_by_the_next() {
    let machine = Machine::new();
    at_every_change(
        3,
        || {
            machine.run(&["-d"]).run().ok();
            (machine.remove(), ())
        },
        |()| machine.recover(),
    );
}
