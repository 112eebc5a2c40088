//! Health checks: a command in the container at each interval, never two at once, as `exec` would run it. What the last ones
//! said is in the claim's folder as long as the container runs; the image's own check is never run.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bocker_pipe::claim::HEALTH;
use bocker_pipe::events::Event;
use bocker_pipe::{Call, Doing, Error, Id, Kind, Result, files, paths, time};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::plan::Cgroups;
use crate::start::Context;
use crate::watch::{Token, Watch};
use crate::{cgroups, say};

/// As docker: how often, how long a check may take, how many failures in a row are too many.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u64 = 3;
/// As docker: so many of the last are kept, and of each so much of what it wrote.
const KEPT: usize = 5;
const MAX_OUTPUT: usize = 4096;
/// This program, whatever is at its path by now.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// `--health-cmd` and its like, as the document keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Health {
    /// What is executed.
    command: Vec<String>,
    /// From the end of one to the next, as `30s` or `1m30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    /// How long one may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    /// So many failures in a row make it unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u64>,
    /// For so long after the start failures do not count, unless a check has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_period: Option<String>,
}

impl Health {
    /// Takes one of these options; answers `false` for any other.
    pub(crate) fn option(health: &mut Option<Health>, call: &mut Call, name: &str) -> Result<bool> {
        let Some(key) = name.strip_prefix("--health-") else {
            return Ok(false);
        };
        let health = health.get_or_insert_default();
        match key {
            "cmd" => health.command = words(call.text()?)?,
            "interval" => health.interval = Some(duration(call, false)?),
            "timeout" => health.timeout = Some(duration(call, false)?),
            "retries" => health.retries = Some(call.number()?),
            "start-period" => health.start_period = Some(duration(call, true)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Fails when there is nothing to execute.
    pub(crate) fn check(&self) -> Result<()> {
        if self.command.is_empty() {
            return Err(Error::new(Kind::Usage, "a health check has no command")
                .hint("give one by --health-cmd; the image's is not run"));
        }
        Ok(())
    }

    fn retries(&self) -> u64 {
        self.retries.filter(|times| *times > 0).unwrap_or(RETRIES)
    }
}

/// A list of words in JSON, or a line for the container's shell.
fn words(text: String) -> Result<Vec<String>> {
    if !text.starts_with('[') {
        return Ok(vec!["/bin/sh".into(), "-c".into(), text]);
    }
    serde_json::from_str(&text).map_err(|error| {
        Error::new(
            Kind::Usage,
            format!("--health-cmd '{text}' begins as a list of words and is none: {error}"),
        )
    })
}

fn duration(call: &mut Call, may_be_zero: bool) -> Result<String> {
    let text = call.text()?;
    match humantime::parse_duration(&text) {
        Ok(duration) if may_be_zero || !duration.is_zero() => Ok(text),
        Ok(_) => Err(Error::new(Kind::Usage, "a check needs more time than none")),
        Err(error) => Err(
            Error::new(Kind::Usage, format!("'{text}' is no duration: {error}"))
                .hint("give it as 30s or 1m30s"),
        ),
    }
}

/// What was checked when it was asked for; written by hand it may say anything.
fn parsed(text: Option<&String>, default: Duration) -> Duration {
    text.and_then(|text| humantime::parse_duration(text).ok())
        .unwrap_or(default)
}

/// What the checks have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Starting,
    Healthy,
    Unhealthy,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Healthy => "healthy",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    start: String,
    end: String,
    exit_code: i32,
    output: String,
}

/// The file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    status: Status,
    failing_streak: u64,
    log: Vec<Checked>,
}

impl Findings {
    fn note(&mut self, checked: Checked, retries: u64, is_starting: bool) {
        let failed = checked.exit_code != 0;
        self.log.push(checked);
        if self.log.len() > KEPT {
            self.log.remove(0);
        }
        if !failed {
            self.failing_streak = 0;
            self.status = Status::Healthy;
        } else if !(is_starting && self.status == Status::Starting) {
            self.failing_streak += 1;
            if self.failing_streak >= retries {
                self.status = Status::Unhealthy;
            }
        }
    }
}

fn path(id: &Id) -> PathBuf {
    paths::claim(id).join(HEALTH)
}

/// The checks of one run of a container.
pub(crate) struct Checks {
    id: Id,
    health: Health,
    cgroups: Cgroups,
    findings: Findings,
    starts_until: Instant,
    running: Option<Running>,
    /// What is told when the status changes, but for the action.
    event: Event,
}

/// A check that has not ended.
struct Running {
    child: Child,
    output: File,
    written: Vec<u8>,
    start: String,
    is_late: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // With the client `exec` ends the command. One that has been waited for is not signalled again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Checks {
    /// Begins, if the container asks for it.
    pub(crate) fn begin(context: &Context, watch: &mut Watch) -> Result<Option<Checks>> {
        let Some(health) = context.member.request.health.clone() else {
            return Ok(None);
        };
        let start_period = parsed(health.start_period.as_ref(), Duration::ZERO);
        let now = Instant::now();
        let checks = Checks {
            id: context.id()?.clone(),
            cgroups: context.plan()?.cgroups.clone(),
            findings: Findings {
                status: Status::Starting,
                failing_streak: 0,
                log: Vec::new(),
            },
            starts_until: now.checked_add(start_period).unwrap_or(now),
            running: None,
            event: Event::of(&context.document, ""),
            health,
        };
        checks.write();
        checks.schedule(watch);
        Ok(Some(checks))
    }

    fn schedule(&self, watch: &mut Watch) {
        let interval = parsed(self.health.interval.as_ref(), INTERVAL);
        if let Some(then) = Instant::now().checked_add(interval) {
            watch.at(Token::Health, then);
        }
    }

    /// A deadline or a descriptor of ours.
    pub(crate) fn on(&mut self, token: Token, watch: &mut Watch) {
        match token {
            // One that stands still cannot answer.
            Token::Health if cgroups::are_frozen(&self.cgroups) => self.schedule(watch),
            Token::Health => match self.start(watch) {
                Ok(running) => self.running = Some(running),
                Err(error) => {
                    let now = time::now().to_string();
                    self.note(now, -1, error.to_string());
                    self.schedule(watch);
                }
            },
            Token::HealthOutput => {
                if let Some(running) = &mut self.running
                    && !running.read()
                {
                    watch.forget(Token::HealthOutput);
                }
            }
            Token::HealthTimeout => {
                if let Some(running) = &mut self.running {
                    running.is_late = true;
                    // It can only have ended.
                    let _ = running.child.kill();
                }
            }
            Token::HealthEnded => {
                for token in [
                    Token::HealthOutput,
                    Token::HealthTimeout,
                    Token::HealthEnded,
                ] {
                    watch.forget(token);
                }
                if let Some(running) = self.running.take() {
                    self.ended(running);
                }
                self.schedule(watch);
            }
            _ => {}
        }
    }

    fn start(&self, watch: &mut Watch) -> Result<Running> {
        let doing = || "start a health check".to_owned();
        let (output, writer) = std::io::pipe().doing(doing)?;
        let child = Command::new(OWN_PROGRAM)
            .arg0(env!("CARGO_PKG_NAME"))
            .arg("exec")
            .arg(self.id.as_str())
            .arg("--")
            .args(&self.health.command)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().doing(doing)?)
            .stderr(writer)
            .spawn()
            .doing(doing)?;
        let output = File::from(OwnedFd::from(output));
        let running = Running {
            child,
            output,
            written: Vec::new(),
            start: time::now().to_string(),
            is_late: false,
        };
        rustix::io::ioctl_fionbio(&running.output, true).doing(doing)?;
        let pid = running.child.id().cast_signed();
        let pid = Pid::from_raw(pid).ok_or(Errno::SRCH).doing(doing)?;
        let ended = pidfd_open(pid, PidfdFlags::empty()).doing(doing)?;
        let copy = running.output.as_fd().try_clone_to_owned().doing(doing)?;
        watch.readable(Token::HealthOutput, copy);
        watch.readable(Token::HealthEnded, ended);
        let timeout = parsed(self.health.timeout.as_ref(), TIMEOUT);
        if let Some(then) = Instant::now().checked_add(timeout) {
            watch.at(Token::HealthTimeout, then);
        }
        Ok(running)
    }

    fn ended(&mut self, mut running: Running) {
        while running.read() && running.has_more() {}
        let status = running.child.wait();
        let has_succeeded = !running.is_late && status.as_ref().is_ok_and(ExitStatus::success);
        // It was caught by a pause: held up for too long, or turned away by `exec`.
        if !has_succeeded && cgroups::are_frozen(&self.cgroups) {
            return;
        }
        let (code, output) = match status {
            _ if running.is_late => (-1, "it took longer than it may".to_owned()),
            Ok(status) => (
                status.code().unwrap_or(-1),
                String::from_utf8_lossy(&running.written).into_owned(),
            ),
            Err(error) => (-1, error.to_string()),
        };
        self.note(std::mem::take(&mut running.start), code, output);
    }

    fn note(&mut self, start: String, exit_code: i32, output: String) {
        let checked = Checked {
            start,
            end: time::now().to_string(),
            exit_code,
            output,
        };
        let before = self.findings.status;
        let is_starting = Instant::now() < self.starts_until;
        self.findings
            .note(checked, self.health.retries(), is_starting);
        self.write();
        let status = self.findings.status;
        if status != before {
            Event {
                time: time::now().to_string(),
                action: format!("health_status: {}", status.as_str()),
                ..self.event.clone()
            }
            .record();
        }
    }

    fn write(&self) {
        let bytes = serde_json::to_vec(&self.findings).unwrap_or_default();
        if let Err(error) = files::replace(&path(&self.id), &bytes) {
            say(error);
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        // One that does not run has no health.
        let _ = files::remove(&path(&self.id));
    }
}

impl Running {
    /// Takes what there is to read; the beginning is kept. Whether there may be more later.
    fn read(&mut self) -> bool {
        let mut buffer = [0; MAX_OUTPUT];
        match self.output.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                let room = MAX_OUTPUT - self.written.len();
                self.written.extend_from_slice(&buffer[..length.min(room)]);
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    fn has_more(&self) -> bool {
        rustix::io::ioctl_fionread(&self.output).is_ok_and(|bytes| bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(exit_code: i32) -> Checked {
        Checked {
            start: String::new(),
            end: String::new(),
            exit_code,
            output: String::new(),
        }
    }

    fn findings() -> Findings {
        Findings {
            status: Status::Starting,
            failing_streak: 0,
            log: Vec::new(),
        }
    }

    #[test]
    fn so_many_failures_in_a_row_are_unhealthy_and_one_success_is_healthy() {
        let mut findings = findings();
        let mut after = |code| {
            findings.note(checked(code), 2, false);
            (findings.status, findings.failing_streak)
        };
        assert_eq!(after(1), (Status::Starting, 1));
        assert_eq!(after(0), (Status::Healthy, 0));
        assert_eq!(after(1), (Status::Healthy, 1));
        assert_eq!(after(7), (Status::Unhealthy, 2));
        assert_eq!(after(0), (Status::Healthy, 0));
        assert_eq!(after(0), (Status::Healthy, 0));
        assert_eq!(findings.log.len(), KEPT);
    }

    #[test]
    fn failures_while_it_starts_count_only_after_a_success() {
        let mut findings = findings();
        let mut after = |code| {
            findings.note(checked(code), 2, true);
            (findings.status, findings.failing_streak)
        };
        assert_eq!(after(1), (Status::Starting, 0));
        assert_eq!(after(1), (Status::Starting, 0));
        assert_eq!(after(0), (Status::Healthy, 0));
        assert_eq!(after(1), (Status::Healthy, 1));
    }

    #[test]
    fn a_command_is_a_line_or_a_list() {
        assert_eq!(
            words("test -f /x".into()).unwrap(),
            ["/bin/sh", "-c", "test -f /x"]
        );
        assert_eq!(words(r#"["a b","c"]"#.into()).unwrap(), ["a b", "c"]);
        assert_eq!(words("[1".into()).unwrap_err().kind(), &Kind::Usage);
    }
}
