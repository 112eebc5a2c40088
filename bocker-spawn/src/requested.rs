//! `bocker.spawn.request`: what was asked of the supervisor when the container was made, kept so that each start asks for the same.

use std::path::PathBuf;
use std::time::Duration;

use bocker_pipe::{Call, Doing, Error, Kind, Result, files};
use serde::{Deserialize, Serialize};

use crate::health::Health;
use crate::restart::Restart;
use crate::{log, say, signals};

/// As docker.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The value of an option: a number of seconds, or -1 for ever.
pub(crate) fn seconds(call: &mut Call) -> Result<i64> {
    let text = call.text()?;
    let is_number = text == "-1" || text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number.ok_or_else(|| {
        let what = format!("'{text}' is not a number of seconds");
        Error::new(Kind::Usage, what).hint("-1 is for ever")
    })
}

/// What the options of `run` and `create` asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Requested {
    /// Whether its stdin can be written to, be it later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) interactive: bool,
    /// Whether its process 1 is an init of ours, which starts the command.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) init: bool,
    /// What asks it to end, in place of what the image names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
    /// How many seconds it has to end in then; below 0 as long as it wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_timeout: Option<i64>,
    /// Whether it is begun again when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart: Option<Restart>,
    /// How it is looked whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<Health>,
    /// After how many seconds each of its runs is ended; 0 is never, as in podman.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u64>,
    /// The file that says the number of process 1 while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pidfile: Option<PathBuf>,
    /// What is asked of its log.
    #[serde(skip_serializing_if = "log::Request::is_empty")]
    pub(crate) log: log::Request,
}

impl Requested {
    /// Takes one of these options; answers `false` for any other.
    pub(crate) fn option(&mut self, call: &mut Call, name: &str) -> Result<bool> {
        match name {
            "-i" | "--interactive" => self.interactive = true,
            "--init" => self.init = true,
            "--stop-signal" => {
                let text = call.text()?;
                signals::parse(&text)?;
                self.stop_signal = Some(text);
            }
            "--restart" => self.restart = Some(Restart::parse(&call.text()?)?),
            "--pidfile" => {
                let path = std::path::absolute(call.text()?);
                self.pidfile = Some(path.doing(|| "find the file for the pid".into())?);
            }
            "--timeout" => self.timeout = Some(call.number()?),
            "--stop-timeout" => self.stop_timeout = Some(seconds(call)?),
            name => {
                return Ok(
                    self.log.option(call, name)? || Health::option(&mut self.health, call, name)?
                );
            }
        }
        Ok(true)
    }

    /// Looks at what was asked for as a whole.
    pub(crate) fn check(&self) -> Result<()> {
        self.health.as_ref().map_or(Ok(()), Health::check)
    }

    /// What was not asked for now was perhaps asked for before.
    pub(crate) fn or(self, before: Requested) -> Requested {
        Requested {
            interactive: self.interactive || before.interactive,
            init: self.init || before.init,
            stop_signal: self.stop_signal.or(before.stop_signal),
            stop_timeout: self.stop_timeout.or(before.stop_timeout),
            restart: self.restart.or(before.restart),
            timeout: self.timeout.or(before.timeout),
            pidfile: self.pidfile.or(before.pidfile),
            log: self.log.or(before.log),
            health: self.health.or(before.health),
        }
    }

    /// What is said of restarting; where nothing is, it is not.
    pub(crate) fn restart(&self) -> Restart {
        self.restart.unwrap_or_default()
    }

    /// How long it has to end in; `None` is for ever. `given` is what is said now.
    pub(crate) fn stop_timeout(&self, given: Option<i64>) -> Option<Duration> {
        match given.or(self.stop_timeout) {
            Some(seconds) => seconds.try_into().ok().map(Duration::from_secs),
            None => Some(STOP_TIMEOUT),
        }
    }

    /// Process 1 is gone: its number may soon be another's.
    pub(crate) fn remove_pidfile(&self) {
        if let Some(Err(error)) = self.pidfile.as_deref().map(files::remove) {
            say(error);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Requested::default()
    }
}
