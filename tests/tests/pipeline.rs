//! The one-line pipeline typed in `sh`, teardown included; broken at every step there is, by Ctrl-C at every stage, and by a
//! mistyped option in every stage: the machine is as it was.

use bocker_tests::{Fingerprint, Host, Output, step_names};
use nix::sys::signal::Signal;

/// The stages of a whole `bocker run --rm`, in order: the tool, the verb, its options.
const STAGES: [(&str, &str); 7] = [
    ("bocker-snap", "create --rootfs $ROOT"),
    ("bocker-net", "create -p 8080:80"),
    ("bocker-cg", "create --memory 64m --pids-limit 50"),
    ("bocker-spawn", "run --stdout 4 -- $COMMAND"),
    ("bocker-cg", "delete"),
    ("bocker-net", "delete"),
    ("bocker-snap", "delete --status"),
];

struct Pipeline<'a> {
    host: &'a Host,
    root: String,
    before: Fingerprint,
}

impl<'a> Pipeline<'a> {
    /// A machine whose shared objects stand already, so that every pipeline has to leave exactly nothing.
    fn new(host: &'a Host) -> Pipeline<'a> {
        let root = host.busybox_rootfs("rootfs").display().to_string();
        host.run(&["bocker", "system", "setup"]).ok();
        let pipeline = Pipeline {
            host,
            root,
            before: host.fingerprint(),
        };
        // The first container makes folders of BOCKER_ROOT that stay.
        pipeline.run("true", |_, words| words).ok();
        Pipeline {
            before: host.fingerprint(),
            ..pipeline
        }
    }

    /// The pipeline as a script; `change` edits the words of a stage, given its position.
    fn script(&self, command: &str, change: impl Fn(usize, String) -> String) -> String {
        let stages: Vec<String> = STAGES
            .iter()
            .enumerate()
            .map(|(position, (tool, words))| {
                let words = words
                    .replace("$ROOT", &self.root)
                    .replace("$COMMAND", command);
                change(position, format!("{tool} {words}"))
            })
            .collect();
        format!("{{ {} >/dev/null; }} 3<&0 4>&1", stages.join(" | "))
    }

    fn run(&self, command: &str, change: impl Fn(usize, String) -> String) -> Output {
        self.host.sh(&self.script(command, change))
    }

    #[track_caller]
    fn has_left_nothing(&self) {
        self.host.assert_same(&self.before);
    }
}

#[test]
fn it_runs_the_command_gives_its_status_and_tears_everything_down() {
    let host = Host::new();
    let pipeline = Pipeline::new(&host);
    let output = pipeline
        .run("sh -c 'echo out; echo err >&2; exit 7'", |_, words| words)
        .exits(7);
    assert_eq!(output.stdout, "out\n");
    assert_eq!(output.stderr, "err\n");
    pipeline.has_left_nothing();
}

#[test]
fn a_command_that_does_not_exist_is_127_and_one_that_cannot_run_126() {
    let host = Host::new();
    let pipeline = Pipeline::new(&host);
    pipeline
        .run("/bin/no-such-thing", |_, words| words)
        .exits(127)
        .says("bocker-spawn: ");
    pipeline
        .run("/etc/passwd", |_, words| words)
        .exits(126)
        .says("bocker-spawn: ");
    pipeline
        .run("/etc", |_, words| words)
        .exits(126)
        .says("bocker-spawn: ");
    pipeline.has_left_nothing();
}

#[test]
fn a_tool_that_fails_at_any_of_its_steps_leaves_nothing() {
    let host = Host::new();
    let pipeline = Pipeline::new(&host);
    let shown = pipeline.run("true", |_, words| {
        words
            .replacen("ete", "ete --explain", 1)
            .replace("create", "create --explain")
            .replace("run ", "run --explain ")
    });
    let steps = step_names(&shown.ok().stderr);
    for stage in ["snap.", "net.", "cg.", "spawn."] {
        assert!(
            steps.iter().any(|step| step.starts_with(stage)),
            "{stage} shows no steps: {steps:?}"
        );
    }
    assert!(steps.len() >= 20, "{steps:?}");
    let exec = steps.iter().position(|step| step == "spawn.exec");
    for (at, step) in steps.iter().enumerate() {
        let output = host
            .call(&["sh", "-c", &pipeline.script("true", |_, words| words)])
            .env("BOCKER_FAIL_AT", step)
            .run();
        assert!(
            output.stderr.contains(step),
            "nothing failed at {step}: {output}"
        );
        eprintln!("failed at {step}: exit {}", output.code);
        // A deletion that has failed keeps the claim, by which the rest is found.
        if exec.is_some_and(|exec| at > exec) {
            for stage in ["cg", "net", "snap"] {
                let tool = format!("bocker-{stage}");
                host.run(&[&tool, "gc", "--grace", "0"]).ok();
            }
        }
        pipeline.has_left_nothing();
    }
}

#[test]
fn a_mistyped_option_in_any_stage_is_reported_and_leaves_nothing() {
    let host = Host::new();
    let pipeline = Pipeline::new(&host);
    for (broken, (tool, words)) in STAGES.into_iter().enumerate() {
        let verb = words.split(' ').next().unwrap_or_default();
        let output = pipeline.run("true", |position, line| {
            if position == broken {
                line.replacen(verb, &format!("{verb} --tpyo"), 1)
            } else {
                line
            }
        });
        assert!(
            output.stderr.contains(&format!("{tool}: ")) && output.stderr.contains("--tpyo"),
            "{output}"
        );
        if broken < 4 || broken == 6 {
            output.exits(125);
        }
        pipeline.has_left_nothing();
    }
}

#[test]
fn ctrl_c_at_any_stage_leaves_nothing() {
    let host = Host::new();
    let pipeline = Pipeline::new(&host);
    for struck in 0..STAGES.len() {
        // When the stage's turn has come, everything in the terminal's process group gets SIGINT, as Ctrl-C sends it; by then
        // all are there, as for one who has seen something to stop.
        let strike = "{ trap '' INT; d=$(cat); sleep 0.3; kill -INT 0; printf '%s\\n' \"$d\"; }";
        let output = pipeline.run("sleep 0.2", |position, words| {
            match (position == struck, position) {
                (true, 0) => format!("printf '{{}}\\n' | {strike} | {words} -"),
                (true, _) => format!("{strike} | {words}"),
                (false, _) => words,
            }
        });
        eprintln!("Ctrl-C at stage {struck}: exit {}", output.code);
        pipeline.has_left_nothing();
    }
}

#[test]
fn ctrl_c_while_the_container_runs_ends_it_and_leaves_nothing() {
    let host = Host::new();
    let pipeline = Pipeline::new(&host);
    let running = host.spawn(&[
        "sh",
        "-c",
        &format!(
            "trap : INT; {}",
            pipeline.script("sleep 1000", |_, words| words)
        ),
    ]);
    host.wait_for("the container runs", || {
        let lines = host.run(&["bocker-spawn", "list"]).ok().json_lines();
        lines
            .iter()
            .any(|line| line["state"] == "running")
            .then_some(())
    });
    running.signal_group(Signal::SIGINT);
    running.wait().exits(130);
    pipeline.has_left_nothing();
}

#[test]
fn a_reader_that_goes_away_makes_a_creating_stage_take_its_work_back() {
    let host = Host::new();
    let pipeline = Pipeline::new(&host);
    let root = &pipeline.root;
    let create = format!("bocker-snap create --rootfs {root}");
    // The reader is gone before the stage writes: it closes its end at once, and the stage begins later.
    let gone = "{ exec 0<&-; sleep 0.6; }";
    let late = |stage: &str| {
        format!(
            "d=$({create}); {{ sleep 0.3; echo \"$d\"; }} | {stage} 2>&3 | {gone}; echo \"$d\" | bocker-snap delete"
        )
    };
    for script in [
        format!("{{ sleep 0.3; {create}; }} 2>&3 | {gone}"),
        late("bocker-net create"),
        late("bocker-cg create --memory 64m"),
    ] {
        host.sh(&format!("exec 3>&2; {script}"))
            .says("Broken pipe (EPIPE)");
        pipeline.has_left_nothing();
    }
}

#[test]
fn a_stage_that_ends_without_a_document_is_said_by_the_next_one() {
    let host = Host::new();
    let _ = Pipeline::new(&host);
    for stage in [
        "bocker-net create",
        "bocker-cg create",
        "bocker-spawn run -- true",
        "bocker-net delete",
        "bocker-cg delete",
        "bocker-snap delete",
    ] {
        host.sh(&format!("true | {stage} >/dev/null"))
            .exits(125)
            .says("the stage before ended without a document");
    }
}
