//! One plugin, executed (SPEC.md, section 2): what it gets in its environment and on its stdin, and what comes back, bounded in
//! size and time. It does not outlive us.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bocker_pipe::step::{interruption, quote};
use bocker_pipe::{Doing, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access, getppid};
use serde_json::Value;

use super::MAX_SIZE;
use super::result::{Refused, shortened};

/// Names the folders of plugins, as it does for other runtimes.
const PATH_VARIABLE: &str = "CNI_PATH";
/// The usual folder, and Debian's.
const FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// How much of its stderr is looked at.
const MAX_STDERR: usize = 64 << 10;
/// Between two looks whether a plugin has ended whose output somebody else holds open, and whether we shall end.
const TICK: Duration = Duration::from_millis(20);

/// What plugins are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        })
    }
}

/// Where plugins are looked for.
pub(crate) fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os(PATH_VARIABLE).filter(|path| !path.is_empty());
    match named {
        // A relative one would mean another program wherever it is deleted.
        Some(path) => std::env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .collect(),
        None => FOLDERS.map(PathBuf::from).into(),
    }
}

/// The program of a plugin. Fails with [`Kind::NotFound`], or [`Kind::Invalid`] where it is no program.
pub(crate) fn find(kind: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let mut programs = folders.iter().map(|folder| folder.join(kind));
    let program = programs.find(|path| path.is_file());
    if let Some(path) = &program
        && access(path, AccessFlags::X_OK).is_err()
    {
        let message = format!("the CNI plugin {} is not executable", path.display());
        return Err(Error::new(Kind::Invalid, message).hint("'chmod +x' makes it so"));
    }
    program.ok_or_else(|| {
        let looked: Vec<String> = folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let message = format!("there is no CNI plugin '{kind}' in {}", looked.join(", "));
        Error::new(Kind::NotFound, message).hint(format!(
            "install it (Debian: containernetworking-plugins), or name its folder in {PATH_VARIABLE}"
        ))
    })
}

/// One call of a plugin.
pub(crate) struct Invocation<'a> {
    pub(crate) verb: Verb,
    pub(crate) program: &'a Path,
    pub(crate) container: &'a str,
    /// Absent when it is gone, or not to be touched.
    pub(crate) netns: Option<&'a Path>,
    pub(crate) ifname: &'a str,
    /// `CNI_ARGS`.
    pub(crate) arguments: &'a str,
    pub(crate) folders: &'a [PathBuf],
    pub(crate) input: &'a Value,
    pub(crate) patience: Duration,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What the plugin itself has to say.
    pub(crate) refused: Option<Refused>,
    /// Whether it was never executed.
    pub(crate) is_stillborn: bool,
    pub(crate) error: Error,
}

impl Failed {
    /// Whether nothing can have been done.
    pub(crate) fn did_nothing(&self) -> bool {
        self.is_stillborn || self.refused.as_ref().is_some_and(Refused::is_incompatible)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed {
            refused: None,
            is_stillborn: false,
            error,
        }
    }
}

impl Invocation<'_> {
    fn environment(&self) -> [(&'static str, OsString); 6] {
        let netns = self.netns.map_or_else(OsString::new, OsString::from);
        // Folders come from a list that colons divided, or from constants.
        let folders = std::env::join_paths(self.folders).unwrap_or_default();
        [
            ("CNI_COMMAND", self.verb.to_string().into()),
            ("CNI_CONTAINERID", self.container.into()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", self.ifname.into()),
            ("CNI_ARGS", self.arguments.into()),
            (PATH_VARIABLE, folders),
        ]
    }

    /// The same for a shell.
    pub(crate) fn command(&self) -> String {
        self.command_with(&quote(&self.input.to_string()))
    }

    /// The same, for one of several that follow each other: what it says is `$result`, and what the one before said goes in.
    pub(crate) fn adding_command(&self, has_previous: bool) -> String {
        let input = self.input.to_string();
        let words = match input.strip_suffix('}') {
            Some(open) if has_previous => {
                format!(
                    "{} \"$result\" '}}'",
                    quote(&format!("{open},\"prevResult\":"))
                )
            }
            _ => quote(&input),
        };
        format!("result=$({})", self.command_with(&words))
    }

    fn command_with(&self, input: &str) -> String {
        let variables = self
            .environment()
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", quote(&value.to_string_lossy())));
        format!(
            "printf '%s' {input} | {} {}",
            variables.collect::<Vec<_>>().join(" "),
            quote(&self.program.display().to_string())
        )
    }

    fn name(&self) -> String {
        let name = self.program.file_name().unwrap_or_default();
        format!("the CNI plugin '{}'", name.display())
    }

    /// An error of the plugin's making.
    pub(crate) fn error(&self, what: &str) -> Error {
        Error::new(Kind::Remote, format!("{} {what}", self.name()))
    }

    /// Executes it and gives its stdout. Of all calls only ADD ends before its time when a signal ends us.
    pub(crate) fn run(&self) -> Result<Vec<u8>, Failed> {
        let input = in_memory(self.input.to_string().as_bytes())?;
        let mut command = Command::new(self.program);
        command
            .envs(self.environment())
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C on the terminal is for us alone: a plugin is ended when its work can be taken back.
            .process_group(0);
        end_with_us(&mut command);
        let mut child = command.spawn().map_err(|error| Failed {
            is_stillborn: true,
            ..Failed::from(self.not_started(&error))
        })?;
        let said = self.listen(&mut child);
        let (status, stdout, stderr) = match said {
            Ok(said) => said,
            Err(error) => {
                end(&mut child);
                return Err(error.into());
            }
        };
        if status.success() {
            return Ok(stdout);
        }
        Err(self.failed(status, &stdout, &stderr))
    }

    fn not_started(&self, error: &std::io::Error) -> Error {
        let path = self.program.display();
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32));
        let error = Error::system(&format!("execute the CNI plugin {path}"), errno);
        match errno {
            Errno::EACCES | Errno::ENOEXEC => {
                error.hint(format!("'ls -l {path}' shows what it is"))
            }
            _ => error,
        }
    }

    /// Waits for its end, and collects what it says until then.
    fn listen(&self, child: &mut Child) -> Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
        let deadline = Instant::now() + self.patience;
        let what = || format!("read what {} says", self.name());
        let mut stdout = Stream::new(child.stdout.take().map(OwnedFd::from)).doing(what)?;
        let mut stderr = Stream::new(child.stderr.take().map(OwnedFd::from)).doing(what)?;
        loop {
            // In this order: what it said before its end is there to be read after it.
            let ended = child
                .try_wait()
                .doing(|| format!("wait for {}", self.name()))?;
            stdout.read(MAX_SIZE + 1).doing(what)?;
            stderr.read(MAX_STDERR).doing(what)?;
            if stdout.bytes.len() > MAX_SIZE {
                let much = format!("says more than {} MiB, and was killed", MAX_SIZE >> 20);
                return Err(self.error(&much));
            }
            if let Some(status) = ended {
                return Ok((status, stdout.bytes, stderr.bytes));
            }
            if self.verb == Verb::Add {
                interruption()?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let patience = self.patience.as_secs();
                let late = format!(
                    "did not answer {} within {patience} s, and was killed",
                    self.verb
                );
                return Err(self.error(&late).hint("--cni-timeout gives it longer"));
            }
            wait_for_either(&stdout, &stderr, left.min(TICK));
        }
    }

    fn failed(&self, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Failed {
        if let Some(refused) = Refused::parse(stdout) {
            let what = format!(
                "refuses {} (code {}): {}",
                self.verb, refused.code, refused.message
            );
            return Failed {
                refused: Some(refused),
                ..Failed::from(self.error(&what))
            };
        }
        let how = match status.signal() {
            Some(signal) => format!("was ended by signal {signal}"),
            None => format!("exited with {}", status.code().unwrap_or_default()),
        };
        let text = String::from_utf8_lossy(stderr);
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        let words = last.map_or(String::new(), |line| {
            format!(": {}", shortened(line.trim()))
        });
        self.error(&format!(
            "{how} at {}, without saying why as CNI does{words}",
            self.verb
        ))
        .into()
    }
}

/// A file that is nowhere: unlike a pipe, it takes all at once, whether the plugin reads it or not.
fn in_memory(bytes: &[u8]) -> Result<File> {
    let make = || {
        let mut file = File::from(memfd_create(c"cni", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(bytes)?;
        file.rewind()?;
        Ok::<_, std::io::Error>(file)
    };
    make().doing(|| "make what a CNI plugin reads".into())
}

/// Has the kernel kill the program when we end (prctl(2), PR_SET_PDEATHSIG): whoever collects what a killed create has left
/// is not to be disturbed by it. We have one thread, so its end is ours.
fn end_with_us(command: &mut Command) {
    let we = Pid::this();
    // SAFETY: between fork and exec it makes two system calls, and an error without allocating.
    unsafe {
        command.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // It may have come too late.
            match getppid() == we {
                true => Ok(()),
                false => Err(Errno::ESRCH.into()),
            }
        })
    };
}

/// Kills it and what it has started.
fn end(child: &mut Child) {
    // What has ended already is fetched all the same.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
}

/// What comes by a pipe.
struct Stream {
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn new(descriptor: Option<OwnedFd>) -> std::io::Result<Stream> {
        if let Some(descriptor) = &descriptor {
            fcntl(descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Stream {
            file: descriptor.map(File::from),
            bytes: Vec::new(),
        })
    }

    /// Takes what is there, and of what exceeds `most` nothing more.
    fn read(&mut self, most: usize) -> std::io::Result<()> {
        let mut buffer = [0; 8 << 10];
        while let Some(file) = self.file.as_mut() {
            match file.read(&mut buffer) {
                Ok(0) => self.file = None,
                Ok(count) => {
                    let left = most.saturating_sub(self.bytes.len());
                    self.bytes.extend(buffer.iter().take(count.min(left)));
                    // One that never stops is not to keep us here.
                    if left == 0 {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Sleeps until one of the two has something, at most so long.
fn wait_for_either(one: &Stream, other: &Stream, most: Duration) {
    let open = [one, other]
        .into_iter()
        .filter_map(|stream| stream.file.as_ref());
    let mut watched: Vec<PollFd<'_>> = open
        .map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN))
        .collect();
    // Both are closed a moment before it ends.
    let most = if watched.is_empty() {
        most.min(Duration::from_millis(1))
    } else {
        most
    };
    let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO);
    // Whatever it says, we look.
    let _ = poll(&mut watched, most);
}
