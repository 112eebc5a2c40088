//! Programs started by a test: their output as text, and an end for those that hang.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::terminal::Terminal;

/// How long a program may take unless the test says otherwise. Only a hang takes as long.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often a running program is looked at.
const TICK: Duration = Duration::from_millis(2);

/// A program that is about to be started, with an environment of its own.
#[derive(Debug, Clone)]
pub struct Call {
    argv: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

impl Call {
    pub(crate) fn new<A: AsRef<OsStr>>(argv: &[A], env: BTreeMap<OsString, OsString>) -> Call {
        assert!(!argv.is_empty(), "a call names a program");
        Call {
            argv: argv.iter().map(|a| a.as_ref().to_owned()).collect(),
            env,
            stdin: None,
            timeout: TIMEOUT,
        }
    }

    /// Sets a variable of the program's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Call {
        self.env
            .insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Gives the program these bytes as stdin; without it stdin is `/dev/null`.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Call {
        self.stdin = Some(bytes.into());
        self
    }

    /// Lets the program run for this long before it counts as hanging.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Call {
        self.timeout = timeout;
        self
    }

    /// Starts the program and waits until it has ended and nobody holds its output any more.
    ///
    /// # Panics
    /// When it cannot be started or hangs.
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts the program, in a process group of its own, and returns at once.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(self) -> Running {
        self.spawn_with(|_| ())
    }

    /// Starts the program at a terminal of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn at_terminal(self, rows: u16, columns: u16) -> Terminal {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env_clear().envs(&self.env);
        Terminal::start(command, rows, columns)
    }

    /// The same, once `prepare` has had a look.
    pub(crate) fn spawn_with(self, prepare: impl FnOnce(&mut Command)) -> Running {
        let started = Instant::now();
        let mut command = Command::new(&self.argv[0]);
        command
            .args(&self.argv[1..])
            .env_clear()
            .envs(&self.env)
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        prepare(&mut command);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {:?}: {e}", self.argv));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A program may well end before it has read everything.
            thread::spawn(move || _ = pipe.write_all(&bytes));
        }
        let stdout = reader(child.stdout.take());
        let stderr = reader(child.stderr.take());
        Running {
            argv: self.argv,
            deadline: started + self.timeout,
            started,
            child,
            stdout,
            stderr,
            ended: false,
        }
    }
}

/// Reads a stream to its end beside the test.
fn reader(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    if let Some(mut stream) = stream {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            _ = stream.read_to_end(&mut bytes);
            _ = send.send(bytes);
        });
    }
    receive
}

/// A program that was started and not waited for yet.
#[derive(Debug)]
pub struct Running {
    argv: Vec<OsString>,
    started: Instant,
    deadline: Instant,
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    ended: bool,
}

impl Running {
    /// The pid, which is the process group's too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the program and to what it started in its group, as a terminal does at Ctrl-C.
    pub fn signal_group(&self, signal: Signal) {
        _ = killpg(self.group(), signal);
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) {
        _ = nix::sys::signal::kill(self.group(), signal);
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for the end of the program and of its output.
    ///
    /// # Panics
    /// When it takes longer than it may: a hang is a failure, and everything in the group is killed first.
    pub fn wait(mut self) -> Output {
        let (status, peak) = loop {
            match self.reap() {
                Some(ended) => break ended,
                None if Instant::now() > self.deadline => self.hang("has not ended"),
                None => thread::sleep(TICK),
            }
        };
        Output {
            peak,
            ..self.finish(status)
        }
    }

    /// How the program has ended, and the most memory that it had, in bytes.
    fn reap(&mut self) -> Option<(ExitStatus, u64)> {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: both are written by the kernel, and all zeros are a valid rusage.
        let (pid, usage) = unsafe {
            let pid = libc::wait4(
                self.group().as_raw(),
                &raw mut status,
                libc::WNOHANG,
                usage.as_mut_ptr(),
            );
            (pid, usage.assume_init())
        };
        match pid {
            0 => None,
            // `has_ended` has fetched the status, or somebody else.
            -1 => Some((self.child.try_wait().expect("wait for a child")?, 0)),
            _ => {
                let peak = u64::try_from(usage.ru_maxrss).unwrap_or_default() << 10;
                Some((ExitStatus::from_raw(status), peak))
            }
        }
    }

    /// Waits for the end of the output of a program that has ended, and whose status somebody else has fetched.
    pub(crate) fn finish(mut self, status: ExitStatus) -> Output {
        self.ended = true;
        let stdout = self.drain(true);
        let stderr = self.drain(false);
        Output {
            argv: self
                .argv
                .iter()
                .map(|a| a.to_string_lossy().into_owned())
                .collect(),
            code: code(status),
            stdout,
            stderr,
            peak: 0,
            took: self.started.elapsed(),
        }
    }

    fn drain(&mut self, stdout: bool) -> String {
        let stream = if stdout { &self.stdout } else { &self.stderr };
        let left = self
            .deadline
            .saturating_duration_since(Instant::now())
            .max(TICK);
        match stream.recv_timeout(left) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(RecvTimeoutError::Timeout) => {
                self.hang("has ended, but something still holds its output")
            }
            Err(RecvTimeoutError::Disconnected) => String::new(),
        }
    }

    fn hang(&mut self, what: &str) -> ! {
        _ = killpg(self.group(), Signal::SIGKILL);
        _ = self.child.wait();
        let grace = Duration::from_millis(200);
        let text = |stream: &Receiver<Vec<u8>>| {
            let bytes = stream.recv_timeout(grace).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        panic!(
            "{:?} {what} after {:?}\n--- stdout\n{}--- stderr\n{}",
            self.argv,
            self.started.elapsed(),
            text(&self.stdout),
            text(&self.stderr)
        );
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            _ = killpg(self.group(), Signal::SIGKILL);
            _ = self.child.wait();
        }
    }
}

/// The exit status as a shell gives it: 128+n for a signal.
fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The words that were run.
    pub argv: Vec<String>,
    /// The exit status as a shell gives it: 128+n when signal n ended the program.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// From the start to the end of the output.
    pub took: Duration,
    /// The most memory that it had at a time, in bytes (getrusage(2), `ru_maxrss`); 0 when it was waited for before its end.
    /// What the test itself had when it started the program counts too.
    pub peak: u64,
}

impl Output {
    /// The output, of a program that succeeded.
    ///
    /// # Panics
    /// When it did not, with everything it said.
    #[must_use = "use `drop` or the text"]
    #[track_caller]
    pub fn text(self) -> String {
        self.ok().stdout
    }

    /// Checks that the program succeeded.
    ///
    /// # Panics
    /// When it did not, with everything it said.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.exits(0)
    }

    /// Checks the exit status.
    ///
    /// # Panics
    /// When it is another, with everything the program said.
    #[track_caller]
    pub fn exits(self, code: i32) -> Output {
        assert!(self.code == code, "expected exit status {code}: {self}");
        self
    }

    /// Checks that stderr holds `text`.
    ///
    /// # Panics
    /// When it does not, with everything the program said.
    #[track_caller]
    pub fn says(self, text: &str) -> Output {
        assert!(
            self.stderr.contains(text),
            "expected {text:?} on stderr: {self}"
        );
        self
    }

    /// The output as one JSON value. What bocker-pull says of its way before the document is passed over.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let mut document = self.stdout.as_str();
        while document.starts_with(r#"{"pull":"#) {
            document = document.split_once('\n').map_or("", |(_, rest)| rest);
        }
        serde_json::from_str(document).unwrap_or_else(|e| panic!("no JSON on stdout: {e}: {self}"))
    }

    /// The output as JSON Lines.
    ///
    /// # Panics
    /// When a line is no JSON.
    #[must_use]
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|l| {
                serde_json::from_str(l).unwrap_or_else(|e| panic!("{l:?} is no JSON: {e}: {self}"))
            })
            .collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} exited with {} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.argv, self.code, self.took, self.stdout, self.stderr
        )
    }
}
