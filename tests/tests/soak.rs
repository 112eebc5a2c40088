//! Hundreds of containers under random verbs from many shells at once, while supervisors and tools are killed at random: what
//! `make soak` runs. Every verb ends, with success or a clear error; every exit status that was promised is delivered; and at the
//! end nothing is left on the machine.
//!
//! `SOAK_SECONDS` (600) is how long, `SOAK_SEED` which random numbers: the same seed gives each shell the same verbs, though not
//! at the same moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bocker_tests::{Host, Output};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};

const SHELLS: u64 = 8;
/// How many containers there are at once, at most, that any shell may take.
const POOL: usize = 200;
/// How often somebody is killed.
const KILL_EVERY: Duration = Duration::from_millis(400);
/// How long a verb may take: it may wait for others that hold the same container, one after the other.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the containers that anybody may take do, and what `run -d` of them answers.
const COMMANDS: [(&str, &[i32]); 8] = [
    ("sleep 1000", &[0]),
    ("trap 'exit 0' TERM; sleep 1000 & wait", &[0]),
    ("trap '' TERM; sleep 1000", &[0]),
    ("(sleep 1000 &); (sleep 1000 &); exec sleep 1000", &[0]),
    ("yes | head -c 300000; printf 'no newline'", &[0]),
    ("kill -9 $$", &[0]),
    ("sleep 0.2; exit 7", &[0]),
    ("exec /no/such/program", &[0]),
];

/// Verbs on one container of the pool; its name comes last.
const VERBS: [&str; 21] = [
    "stop -t 1",
    "stop -t 0",
    "kill",
    "kill -s TERM",
    "start",
    "start",
    "restart -t 0",
    "pause",
    "unpause",
    "unpause",
    "logs",
    "logs --tail 3 -t",
    "inspect",
    "top",
    "port",
    "rm",
    "rm -f",
    "rm -f",
    "attach --no-stdin --sig-proxy=false",
    "wait",
    "diff",
];

/// A machine that is being soaked.
struct Soak<'a> {
    host: &'a Host,
    until: Instant,
    /// The containers that any shell may take.
    pool: Mutex<Vec<String>>,
    /// The process groups of which somebody was killed, and the containers whose supervisor was.
    struck: Mutex<BTreeSet<i32>>,
    orphaned: Mutex<BTreeSet<String>>,
    count: AtomicU64,
    done: Mutex<BTreeMap<String, u64>>,
}

/// splitmix64 (Steele, Lea and Flood 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).expect("less than a usize")
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

impl Soak<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn note(&self, what: &str) {
        let mut done = self.done.lock().expect("no shell fails with it");
        *done.entry(what.to_owned()).or_default() += 1;
    }

    /// Runs `bocker`, and checks that it ended as it may: well, with a clear error, or because one of its processes was
    /// killed. Gives how it ended, unless somebody was.
    fn bocker(&self, words: &[&str]) -> Option<Output> {
        let call = self.host.call(&[&["bocker"], words].concat());
        let running = call.timeout(PATIENCE).spawn();
        let group = running.pid().cast_signed();
        let output = running.wait();
        assert!(!output.stderr.contains("panicked"), "{output}");
        let was_struck = self.struck.lock().expect("a set").contains(&group);
        (!was_struck).then_some(output)
    }

    /// A verb whose success depends on what others do meanwhile.
    fn try_verb(&self, words: &[&str]) {
        self.note(words[0]);
        if let Some(output) = self.bocker(words) {
            let is_containers_own = ["attach", "exec"].contains(&words[0]);
            let is_clear = [1, 2, 125].contains(&output.code) && !output.stderr.is_empty();
            assert!(
                output.code == 0 || is_clear || is_containers_own,
                "{output}"
            );
        }
    }

    fn name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    fn is_orphaned(&self, id: &str) -> bool {
        self.orphaned.lock().expect("a set").contains(id)
    }

    /// One more container that any shell may take.
    fn add(&self, random: &mut Random) {
        let (command, codes) = random.of(&COMMANDS);
        let restart = random.of(&["no", "no", "on-failure:2", "unless-stopped"]);
        let network = random.of(&["none", "none", "bridge"]);
        let name = self.name("any");
        let mut words = vec!["run", "-d", "--name", &name, "--network", network];
        words.extend(["--restart", restart]);
        if random.below(4) == 0 {
            words.push("--init");
        }
        words.extend(["img", "sh", "-c", command]);
        self.note("run -d");
        if let Some(output) = self.bocker(&words) {
            let is_expected = codes.contains(&output.code);
            assert!(is_expected || self.was_struck_at_birth(&output), "{output}");
        }
        self.pool.lock().expect("a pool").push(name);
    }

    /// A container of one's own, whose end is waited for.
    fn promise(&self, random: &mut Random) {
        let name = self.name("own");
        let code = random.below(120);
        let command = format!("sleep 0.{}; exit {code}", random.below(10));
        let is_removed = random.below(2) == 0;
        let mut words = vec!["run", "-d", "--name", &name, "--network", "none"];
        words.extend(is_removed.then_some("--rm"));
        words.extend(["img", "sh", "-c", &command]);
        self.note("promise");
        let Some(run) = self.bocker(&words) else {
            _ = self.bocker(&["rm", "-f", &name]);
            return;
        };
        let id = run.stdout.trim().to_owned();
        if self.was_struck_at_birth(&run) {
            return;
        }
        assert_eq!(run.code, 0, "{run}");
        let Some(waited) = self.bocker(&["wait", &id]) else {
            _ = self.bocker(&["rm", "-f", &name]);
            return;
        };
        if !self.is_orphaned(&id) {
            // One that is removed at its end may be gone before the waiting has begun.
            let is_gone = is_removed && waited.code != 0;
            let told = waited.stdout.trim() == code.to_string();
            assert!(told || is_gone, "promised {code}: {waited}");
        }
        if !is_removed {
            let inspected = self.bocker(&["inspect", "--format", "{{.State.ExitCode}}", &id]);
            if let Some(inspected) = inspected
                && !self.is_orphaned(&id)
            {
                assert_eq!(inspected.stdout.trim(), code.to_string(), "{inspected}");
            }
        }
        _ = self.bocker(&["rm", "-f", &name]);
    }

    /// Whether `run -d` failed because the supervisor, which is in a process group of its own, was killed before it had said
    /// how it began. Which one it was nobody knows.
    fn was_struck_at_birth(&self, run: &Output) -> bool {
        let somebody = !self.struck.lock().expect("a set").is_empty();
        somebody && run.code == 125 && !run.stderr.is_empty() || was_struck_in_set_up(run)
    }

    /// A container in the foreground, whose status is that of the command.
    fn foreground(&self, random: &mut Random) {
        let code = random.below(120);
        let command = format!("echo out; sleep 0.{}; exit {code}", random.below(3));
        self.note("run --rm");
        let words = [
            "run",
            "--rm",
            "--network",
            "none",
            "img",
            "sh",
            "-c",
            &command,
        ];
        if let Some(output) = self.bocker(&words) {
            assert_eq!(usize::try_from(output.code), Ok(code), "{output}");
            assert_eq!(output.stdout, "out\n", "{output}");
        }
    }

    /// What one shell does until the time is over.
    fn shell(&self, mut random: Random) {
        while !self.is_over() {
            let size = self.pool.lock().expect("a pool").len();
            match random.below(10) {
                0..=2 if size < POOL => self.add(&mut random),
                0..=3 => self.promise(&mut random),
                4 => self.foreground(&mut random),
                5 => self.try_verb(&["ps", "-a"]),
                _ if size == 0 => {}
                choice => self.act(choice, &mut random),
            }
        }
    }

    /// A verb on a container that others may be acting on.
    fn act(&self, choice: usize, random: &mut Random) {
        let name = {
            let pool = self.pool.lock().expect("a pool");
            let Some(last) = pool.len().checked_sub(1) else {
                return;
            };
            pool[random.below(last + 1)].clone()
        };
        if choice == 6 {
            return self.try_verb(&["exec", &name, "sh", "-c", "echo inside; exit 3"]);
        }
        if choice == 7 && random.below(4) == 0 {
            let new = self.name("renamed");
            self.try_verb(&["rename", &name, &new]);
            return self.pool.lock().expect("a pool").push(new);
        }
        let verb = random.of(&VERBS);
        let mut words: Vec<&str> = verb.split(' ').collect();
        words.push(&name);
        // These would last as long as the container.
        if ["wait", "attach"].contains(&words[0]) {
            let running = self
                .host
                .call(&[&["timeout", "1", "bocker"], &words[..]].concat());
            self.note(words[0]);
            let output = running.timeout(PATIENCE).run();
            assert!(!output.stderr.contains("panicked"), "{output}");
            return;
        }
        self.try_verb(&words);
        if words[0] == "rm" {
            self.pool
                .lock()
                .expect("a pool")
                .retain(|other| *other != name);
        }
    }

    /// Kills somebody now and then: a supervisor, or any other process of ours.
    fn reaper(&self, mut random: Random) {
        while !self.is_over() {
            std::thread::sleep(KILL_EVERY);
            let ours = self.processes();
            if ours.is_empty() {
                continue;
            }
            let victim = random.of(&ours);
            self.strike(victim);
        }
    }

    fn strike(&self, victim: &Process) {
        let pid = Pid::from_raw(victim.pid);
        // First told, then done: a shell that sees its command end has to find it here. Process 1, which is in a group of its own,
        // is our program until it becomes the command, and may have become it by now: its parent's are told for it.
        for process in [Some(pid), victim.parent] {
            if let Some(Ok(group)) = process.map(|process| getpgid(Some(process))) {
                self.struck.lock().expect("a set").insert(group.as_raw());
            }
        }
        let of_parent = victim
            .parent
            .and_then(|parent| supervised(&proc(parent.as_raw())));
        for id in victim.supervises.iter().cloned().chain(of_parent) {
            self.orphaned.lock().expect("a set").insert(id);
        }
        if kill(pid, Signal::SIGKILL).is_ok() {
            self.note(&format!("killed: {}", victim.name));
        }
    }

    /// The processes of our programs on this piece of the machine.
    fn processes(&self) -> Vec<Process> {
        let root = format!("BOCKER_ROOT={}", self.host.root().display());
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        processes
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                Process::look(pid, &entry.path(), root.as_bytes())
            })
            .collect()
    }
}

/// Whether process 1 was killed as long as it was our program, and so in nobody's process group that is known here.
fn was_struck_in_set_up(run: &Output) -> bool {
    run.code == 137 && run.stderr.contains("while it was set up")
}

fn proc(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// The container of a process that is a supervisor: it has its log open.
fn supervised(folder: &Path) -> Option<String> {
    let open = fs::read_dir(folder.join("fd")).ok()?.flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|path| path.ends_with("log"))
        .find_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned()))
}

/// A process of one of our programs.
struct Process {
    pid: i32,
    parent: Option<Pid>,
    name: String,
    /// The container, where it is a supervisor.
    supervises: Option<String>,
}

impl Process {
    fn look(pid: i32, folder: &Path, root: &[u8]) -> Option<Process> {
        let environment = fs::read(folder.join("environ")).ok()?;
        environment.split(|byte| *byte == 0).find(|v| *v == root)?;
        let exe = fs::read_link(folder.join("exe")).ok()?;
        let name = exe.file_name()?.to_str()?.to_owned();
        if !name.starts_with("bocker") {
            return None;
        }
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?;
        Some(Process {
            pid,
            parent: parent.parse().ok().map(Pid::from_raw),
            name,
            supervises: supervised(folder),
        })
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[ignore = "takes ten minutes: make soak"]
fn after_random_verbs_and_kills_nothing_is_left_and_every_promise_was_kept() {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = number("SOAK_SEED").unwrap_or(time.expect("after 1970").as_secs());
    let seconds = number("SOAK_SECONDS").unwrap_or(600);
    eprintln!("SOAK_SEED={seed} SOAK_SECONDS={seconds}");
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    host.run(&["bocker", "init", &rootfs, "img"]).ok();
    host.run(&["bocker", "run", "--rm", "img", "true"]).ok();
    let before = host.fingerprint();
    let soak = Soak {
        host: &host,
        until: Instant::now() + Duration::from_secs(seconds),
        pool: Mutex::default(),
        struck: Mutex::default(),
        orphaned: Mutex::default(),
        count: AtomicU64::new(0),
        done: Mutex::default(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| soak.reaper(Random(seed ^ u64::MAX)));
        for shell in 0..SHELLS {
            let soak = &soak;
            scope.spawn(move || soak.shell(Random(seed.wrapping_add(shell << 32))));
        }
    });
    for (what, times) in soak.done.lock().expect("a map").iter() {
        eprintln!("{times:7} {what}");
    }
    // The first command of any kind ends what has lost its supervisor.
    host.run(&["bocker", "ps"]).ok();
    let left = host.run(&["bocker", "ps", "-q"]).text();
    for name in left.lines() {
        host.run(&["bocker", "rm", "-f", name]).ok();
    }
    for tool in ["bocker-spawn", "bocker-cg", "bocker-net", "bocker-snap"] {
        host.run(&[tool, "gc", "--grace", "0"]).ok();
    }
    let processes = || {
        soak.processes()
            .iter()
            .map(|p| p.name.clone())
            .collect::<Vec<_>>()
    };
    host.wait_for("every process of ours ends", || {
        processes().is_empty().then_some(())
    });
    host.assert_same(&before);
}
