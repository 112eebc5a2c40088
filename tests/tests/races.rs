//! Two at once: verbs that race on one container, one name, one image; and collections beside many starts. However they
//! interleave, each succeeds or says why not, nothing that is wanted is lost, and nothing is left.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use bocker_tests::{Call, Fingerprint, Host, Image, Output, Registry, Running, need};
use serde_json::Value;

/// How often each race is run. The second begins a little later each time, so that all of the first is met.
const ROUNDS: u32 = 24;
/// How much later, at most: about as long as a tool runs.
const LATEST: Duration = Duration::from_millis(12);
const STARTS: usize = 50;

/// A machine on which a container was run, and an image made.
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
        let run = ["run", "--rm", "--name", "web", "--rootfs"];
        machine
            .bocker(&[&run[..], &[&machine.rootfs, "true"]].concat())
            .ok();
        machine.image("first:1").run().ok();
        machine.document("first:1");
        machine.settle();
        Machine {
            before: machine.host.fingerprint(),
            ..machine
        }
    }

    fn bocker(&self, words: &[&str]) -> Output {
        self.host.run(&[&["bocker"], words].concat())
    }

    fn snap(&self, words: &[&str]) -> Call {
        self.host.call(&[&["bocker-snap"], words].concat())
    }

    fn pull(&self, words: &[&str]) -> Call {
        self.host.call(&[&["bocker-pull"], words].concat())
    }

    /// Makes a small image.
    fn image(&self, name: &str) -> Call {
        let folder = self.host.scratch().join("image");
        fs::create_dir_all(&folder).expect("mkdir");
        fs::write(folder.join("file"), name).expect("a file");
        self.snap(&["init", &folder.display().to_string(), "--name", name])
    }

    /// The document of a new container.
    fn document(&self, image: &str) -> String {
        self.snap(&["create", image]).run().text()
    }

    /// Starts both, the second a little later.
    fn race(&self, round: u32, first: Call, second: Call) -> [Output; 2] {
        let first = first.spawn();
        sleep(LATEST * (round % 8) / 8);
        [second.run(), first.wait()]
    }

    /// Whatever was left half made goes.
    fn settle(&self) {
        self.bocker(&["rm", "-f", "web"]);
        for tool in ["bocker-spawn", "bocker-cg", "bocker-net", "bocker-snap"] {
            self.host.run(&[tool, "gc", "--grace", "0"]).ok();
        }
    }

    #[track_caller]
    fn is_as_before(&self) {
        self.settle();
        self.host.assert_same(&self.before);
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// It did what it should, or says in one line why not.
#[track_caller]
fn is_clear(output: &Output) {
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert!(
        output.code == 0 || [1, 2, 125].contains(&output.code) && !lines.is_empty(),
        "{output}"
    );
    assert!(!output.stderr.contains("panicked"), "{output}");
}

#[test]
fn of_two_that_want_one_name_exactly_one_gets_it() {
    let machine = Machine::new();
    for round in 0..ROUNDS {
        let create = || machine.snap(&["create", "first:1", "--name", "web"]);
        let [one, other] = machine.race(round / 4, create(), create());
        let won = [&one, &other]
            .iter()
            .filter(|output| output.code == 0)
            .count();
        assert_eq!(won, 1, "{one}\n{other}");
        let (winner, loser) = if one.code == 0 {
            (one, other)
        } else {
            (other, one)
        };
        loser.exits(125).says("the name 'web' is taken by");
        let delete = machine.snap(&["delete"]).stdin(winner.stdout);
        delete.run().ok();
    }
    machine.host.assert_same(&machine.before);
}

#[test]
fn of_two_that_delete_one_container_both_succeed() {
    let machine = Machine::new();
    for round in 0..ROUNDS {
        let document = machine.document("first:1");
        let delete = || machine.snap(&["delete"]).stdin(document.clone());
        for output in machine.race(round, delete(), delete()) {
            output.ok();
        }
    }
    machine.host.assert_same(&machine.before);
}

#[test]
fn of_two_that_remove_one_running_container_both_remove_it_or_find_it_gone() {
    let machine = Machine::new();
    for round in 0..ROUNDS / 2 {
        let run = [
            "run",
            "-d",
            "--name",
            "web",
            "--rootfs",
            &machine.rootfs,
            "sleep",
            "1000",
        ];
        machine.bocker(&run).ok();
        let remove = || machine.host.call(&["bocker", "rm", "-f", "web"]);
        let outputs = machine.race(round, remove(), remove());
        outputs.iter().for_each(is_clear);
        assert!(outputs.iter().any(|output| output.code == 0), "{outputs:?}");
    }
    machine.is_as_before();
}

#[test]
fn a_start_beside_a_removal_runs_or_fails_cleanly() {
    let machine = Machine::new();
    for round in 0..ROUNDS / 2 {
        let words = [
            "bocker",
            "run",
            "--name",
            "web",
            "--rootfs",
            &machine.rootfs,
            "true",
        ];
        let run = machine.host.call(&words);
        let remove = machine.host.call(&["bocker", "rm", "-f", "web"]);
        let [removed, ran] = machine.race(round * 3, run, remove);
        is_clear(&removed);
        // Removed by force, it was killed.
        if ran.code != 137 {
            is_clear(&ran);
        }
        machine.bocker(&["rm", "-f", "web"]);
    }
    machine.is_as_before();
}

#[test]
fn an_unmount_or_a_collection_beside_a_delete_is_in_nobodys_way() {
    let machine = Machine::new();
    for round in 0..ROUNDS {
        let document = machine.document("first:1");
        let delete = machine.snap(&["delete"]).stdin(document.clone());
        let other = match round % 2 {
            0 => machine.snap(&["unmount"]).stdin(document),
            _ => machine.snap(&["gc", "--grace", "0"]),
        };
        for output in machine.race(round / 2, other, delete) {
            output.ok();
        }
    }
    machine.host.assert_same(&machine.before);
}

#[test]
fn two_imports_of_one_image_give_its_layers_once() {
    let machine = Machine::new();
    machine.image("second:1").run().ok();
    machine.snap(&["import", "second:1"]).run().ok();
    let imported = machine.host.fingerprint();
    for round in 0..ROUNDS {
        machine.host.remove_layers();
        machine.snap(&["import", "first:1"]).run().ok();
        let import = || machine.snap(&["import", "second:1"]);
        for output in machine.race(round / 3, import(), import()) {
            output.ok();
        }
        machine.host.assert_same(&imported);
    }
    machine.pull(&["rmi", "second:1"]).run().ok();
    machine.is_as_before();
}

#[test]
fn an_image_that_is_removed_while_a_container_is_made_of_it_is_whole_in_the_container() {
    let machine = Machine::new();
    for round in 0..ROUNDS {
        machine.image("second:1").run().ok();
        let create = machine.snap(&["create", "second:1"]);
        let [removed, created] = machine.race(round, create, machine.pull(&["rmi", "second:1"]));
        removed.ok();
        is_clear(&created);
        if created.code == 0 {
            let root = text(&created.json(), "/root/path").to_owned();
            let content = fs::read_to_string(format!("{root}/file"));
            assert_eq!(content.expect("a file of the image"), "second:1");
        }
        machine.snap(&["delete"]).stdin(created.stdout).run().ok();
        machine.snap(&["gc", "--grace", "0"]).run().ok();
    }
    machine.is_as_before();
}

#[test]
fn names_of_an_image_that_come_and_go_at_once_are_there_or_not() {
    let machine = Machine::new();
    for round in 0..ROUNDS {
        machine.image("second:1").run().ok();
        let remove = || machine.pull(&["rmi", "second:1"]);
        let other = match round % 2 {
            0 => remove(),
            _ => machine.pull(&["tag", "second:1", "third:1"]),
        };
        let outputs = machine.race(round / 2, other, remove());
        outputs.iter().for_each(is_clear);
        assert!(outputs.iter().any(|output| output.code == 0), "{outputs:?}");
        machine.pull(&["rmi", "third:1"]).run();
        let names = machine.pull(&["list"]).run().ok().json_lines();
        let names: Vec<&str> = names.iter().map(|image| text(image, "/source")).collect();
        assert_eq!(names, ["first:1"]);
    }
    machine.is_as_before();
}

#[test]
fn a_commit_beside_a_removal_makes_a_whole_image_or_none() {
    let machine = Machine::new();
    for round in 0..ROUNDS / 2 {
        let run = [
            "run",
            "--name",
            "web",
            "--network",
            "none",
            "--rootfs",
            &machine.rootfs,
            "sh",
            "-c",
            "echo kept > /kept",
        ];
        machine.bocker(&run).ok();
        let commit = machine.host.call(&["bocker", "commit", "web", "second:1"]);
        let remove = machine.host.call(&["bocker", "rm", "web"]);
        let [removed, committed] = machine.race(round * 2, commit, remove);
        removed.ok();
        is_clear(&committed);
        if committed.code == 0 {
            let document = machine.document("second:1");
            let value: Value = serde_json::from_str(&document).expect("a document");
            let kept = fs::read_to_string(format!("{}/kept", text(&value, "/root/path")));
            assert_eq!(kept.expect("what was committed"), "kept\n");
            machine.snap(&["delete"]).stdin(document).run().ok();
            machine.pull(&["rmi", "second:1"]).run().ok();
        }
    }
    machine.is_as_before();
}

/// Prunes after each collection.
const PRUNES: &str = "bocker system prune --force >/dev/null || exit;";

/// Collects again and again until it is told to stop.
fn collecting(host: &Host, options: &str, and_then: &str) -> Running {
    let tools = "bocker-spawn bocker-cg bocker-net bocker-snap";
    host.spawn(&[
        "sh",
        "-c",
        &format!(
            "while [ ! -e \"$0\" ]; do for tool in {tools}; do $tool gc {options} >/dev/null || exit; done; {and_then} done; rm \"$0\"",
        ),
        &host.scratch().join("stop").display().to_string(),
    ])
}

/// Starts fifty containers, two at a time, each of which ends with a status of its own. What became of each, in order.
fn starts(machine: &Machine) -> Vec<(i32, Output)> {
    let mut outputs = Vec::new();
    let numbers: Vec<usize> = (0..STARTS).collect();
    for pair in numbers.chunks(2) {
        let running: Vec<(i32, Running)> = pair
            .iter()
            .map(|number| {
                let code = (number % 7) as i32;
                let exit = format!("exit {code}");
                let options: &[&str] = match number % 2 {
                    0 => &["--rm"],
                    _ => &["--network", "none"],
                };
                let words = ["--rootfs", &machine.rootfs, "sh", "-c", &exit];
                let words = [&["bocker", "run"], options, &words].concat();
                (code, machine.host.spawn(&words))
            })
            .collect();
        outputs.extend(running.into_iter().map(|(code, one)| (code, one.wait())));
    }
    outputs
}

#[test]
fn collections_beside_fifty_starts_take_nothing_that_lives() {
    let machine = Machine::new();
    let sleeping = machine.bocker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--rootfs",
        &machine.rootfs,
        "sleep",
        "1000",
    ]);
    sleeping.ok();
    let alive = machine.host.fingerprint();
    let collecting = collecting(&machine.host, "", PRUNES);
    for (code, output) in starts(&machine) {
        let output = output.exits(code);
        assert_eq!(output.stderr, "", "{output}");
    }
    fs::write(machine.host.scratch().join("stop"), "").expect("stop");
    collecting.wait().ok();
    machine.bocker(&["exec", "web", "true"]).ok();
    machine.bocker(&["system", "prune", "--force"]).ok();
    machine.host.assert_same(&alive);
    machine.is_as_before();
}

#[test]
fn collections_beside_fifty_starts_of_one_that_has_run_before_leave_it_what_it_is_given_again() {
    let machine = Machine::new();
    let root = machine.rootfs.clone();
    machine
        .bocker(&[
            "run", "--name", "again", "-p", "8080:80", "--rootfs", &root, "sh", "-c", "exit 7",
        ])
        .exits(7);
    // Not pruned, which removes what has exited.
    let collecting = collecting(&machine.host, "", "");
    for _ in 0..STARTS {
        let output = machine.bocker(&["start", "-a", "again"]).exits(7);
        assert_eq!(output.stderr, "", "{output}");
    }
    fs::write(machine.host.scratch().join("stop"), "").expect("stop");
    collecting.wait().ok();
    machine.bocker(&["rm", "again"]).ok();
    machine.is_as_before();
}

#[test]
fn collections_without_grace_beside_fifty_starts_end_some_of_them_and_say_so() {
    let machine = Machine::new();
    let collecting = collecting(&machine.host, "--grace 0", "");
    for (code, output) in starts(&machine) {
        if output.code != code {
            output.exits(125).says("bocker-");
        }
    }
    fs::write(machine.host.scratch().join("stop"), "").expect("stop");
    collecting.wait().ok();
    machine.bocker(&["system", "prune", "--force"]).ok();
    machine.is_as_before();
}

#[test]
fn collections_of_the_store_without_grace_beside_all_that_fills_and_empties_it_leave_every_image_whole()
 {
    if !need("docker-registry skopeo") {
        return;
    }
    let machine = Machine::new();
    let host = &machine.host;
    let registry = Registry::start(host);
    let pulled = registry.push(&Image::full(), "pulled:1");
    let rootfs = &machine.rootfs;
    let rounds = "for i in 1 2 3";
    let jobs = [
        format!(
            "{rounds}; do bocker-pull -q {pulled} | bocker-snap import >/dev/null; bocker rmi {pulled}; done; bocker pull {pulled}"
        ),
        format!(
            "{rounds}; do echo $i > {rootfs}/etc/number; bocker-snap init {rootfs} --name made:$i; done"
        ),
        format!(
            "cd $TMPDIR; {rounds}; do bocker-snap create first:1 > document; root=$(jq -r .root.path document); echo $i > $root/number; \
            bocker-snap commit $(jq -r .bocker.id document) committed:$i; bocker-snap delete < document > /dev/null; done"
        ),
        format!("{rounds}; do bocker tag first:1 named:$i; bocker rmi named:$i; done"),
    ];
    let stop = host.scratch().join("stop");
    let collect = "while [ ! -e \"$0\" ]; do bocker-snap gc --layers --grace 0; bocker-pull gc --grace 0; done";
    let collecting: Vec<Running> = (0..2)
        .map(|_| host.spawn(&["sh", "-e", "-c", collect, &stop.display().to_string()]))
        .collect();
    let jobs: Vec<Running> = jobs
        .iter()
        .map(|job| host.spawn(&["bash", "-e", "-o", "pipefail", "-c", job]))
        .collect();
    for job in jobs {
        job.wait().ok();
    }
    fs::write(&stop, "").expect("stop");
    for collection in collecting {
        collection.wait().ok();
    }

    let images = host.run(&["bocker-pull", "list"]).ok().json_lines();
    // first:1, the one that was pulled, and three of each that were made and committed.
    assert_eq!(images.len(), 8, "{images:?}");
    for image in &images {
        let reference = text(image, "/reference");
        // Everything is unpacked anew from the blobs, digests and all, and a root stands on it.
        let document = machine.document(reference);
        let value: Value = serde_json::from_str(&document).expect("a document");
        let number =
            |path: &str| fs::read_to_string(format!("{}/{path}", text(&value, "/root/path")));
        let tag = reference.rsplit(':').next().expect("a tag");
        match reference {
            made if made.contains("made") => {
                assert_eq!(number("etc/number").expect("made"), format!("{tag}\n"))
            }
            committed if committed.contains("committed") => {
                assert_eq!(number("number").expect("committed"), format!("{tag}\n"));
            }
            _ => {}
        }
        machine.snap(&["delete"]).stdin(document).run().ok();
    }
    host.remove_layers();
    for image in &images {
        machine
            .snap(&["import", text(image, "/reference")])
            .run()
            .ok();
    }
}
