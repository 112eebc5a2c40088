//! Restarts: whether a container that has ended is begun again, after how long, and how. Its root, network and cgroups stay as they
//! are; only the steps from its namespaces on are done again.

use std::time::{Duration, Instant};

use bocker_pipe::document::ExitMember;
use bocker_pipe::step::Engine;
use bocker_pipe::{Error, Kind, Result, lock, time};
use nix::sys::signalfd::SignalFd;
use serde::{Deserialize, Serialize};

use crate::start::{self, Context};
use crate::streams::{After, Event};
use crate::supervise::supervise;
use crate::watch::{Token, Watch};
use crate::{oom, record};

/// moby, restartmanager: how long it waits at first, at most, and how long a run has to take so that it waits as at first.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const LONG_RUN: Duration = Duration::from_secs(10);

/// When it is begun again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// Never.
    #[default]
    No,
    /// When its exit status is not 0.
    OnFailure,
    /// Unless the user has stopped it; after a restart of the machine all the same.
    Always,
    /// Unless the user has stopped it.
    UnlessStopped,
}

/// `--restart`, as the document keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restart {
    pub(crate) policy: Policy,
    /// At most so many times, of [`Policy::OnFailure`]; 0 is without end.
    #[serde(default, skip_serializing_if = "record::is_zero")]
    pub(crate) retries: u64,
}

impl Restart {
    /// Reads `no`, `on-failure`, `on-failure:3`, `always`, `unless-stopped`.
    pub(crate) fn parse(text: &str) -> Result<Restart> {
        let unknown = || {
            Error::new(Kind::Usage, format!("'{text}' is not a restart policy"))
                .hint("it is no, on-failure[:TIMES], always or unless-stopped")
        };
        let (name, retries) = match text.split_once(':') {
            Some((name, times)) if times.bytes().all(|b| b.is_ascii_digit()) => {
                (name, times.parse().map_err(|_| unknown())?)
            }
            Some(_) => return Err(unknown()),
            None => (text, 0),
        };
        let policy = match name {
            "no" => Policy::No,
            "on-failure" => Policy::OnFailure,
            "always" => Policy::Always,
            "unless-stopped" => Policy::UnlessStopped,
            _ => return Err(unknown()),
        };
        if policy != Policy::OnFailure && text.contains(':') {
            return Err(
                Error::new(Kind::Usage, format!("'{name}' takes no number of times"))
                    .hint("on-failure does"),
            );
        }
        Ok(Restart { policy, retries })
    }

    /// Whether it can ever begin again.
    pub(crate) fn is_any(self) -> bool {
        self.policy != Policy::No
    }

    fn wants(self, code: u8, restarts: u64) -> bool {
        match self.policy {
            Policy::No => false,
            Policy::OnFailure => code != 0 && (self.retries == 0 || restarts < self.retries),
            Policy::Always | Policy::UnlessStopped => true,
        }
    }
}

/// The waiting between runs, twice as long each time.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    wait: Option<Duration>,
}

impl Backoff {
    /// How long to wait after a run that took so long and ended so; `None` when there is to be no other. `restarts` there have
    /// been since the user started it.
    pub(crate) fn after(
        &mut self,
        restart: Restart,
        code: u8,
        restarts: u64,
        run: Duration,
    ) -> Option<Duration> {
        if !restart.wants(code, restarts) {
            return None;
        }
        let wait = match self.wait {
            Some(wait) if run < LONG_RUN => (wait * 2).min(LONGEST_WAIT),
            _ => FIRST_WAIT,
        };
        self.wait = Some(wait);
        Some(wait)
    }
}

/// Keeps a container company through all its runs. The end of the last.
pub(crate) fn through_all_runs(
    engine: &Engine,
    context: &mut Context,
    signals: &SignalFd,
) -> Result<ExitMember> {
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        let exit = supervise(context, signals)?;
        let member = &context.member;
        if member.stopped || context.is_ending {
            return Ok(exit);
        }
        let restart = member.request.restart();
        let wait = backoff.after(restart, exit.code, member.restarts, begun.elapsed());
        let Some(wait) = wait else {
            return Ok(exit);
        };
        if !pause(context, signals, &exit, wait)? {
            return Ok(exit);
        }
        context.member.restarts += 1;
        context.oom_kills = oom::kills(&context.plan()?.cgroups);
        if let Err(error) = again(engine, context) {
            return Ok(ExitMember {
                code: error.exit_code(),
                error: Some(error.to_string()),
                finished: Some(time::now().to_string()),
                ..ExitMember::default()
            });
        }
    }
}

/// Records the end, and waits. Whether the container is to be begun again.
fn pause(
    context: &mut Context,
    signals: &SignalFd,
    exit: &ExitMember,
    wait: Duration,
) -> Result<bool> {
    // Those who ask find how it ended, and the same if this process is killed meanwhile, be it as it waits for the lock.
    record::end(&mut context.document, &mut context.member, exit);
    record::write_status(exit, &context.folder)?;
    if let Some(alive) = &context.alive {
        alive.restarts()?;
    }
    let lock = context.id().and_then(lock::verbs)?;
    record::write_document(&mut context.document, &context.folder)?;
    drop(lock);
    context.streams.tell_end(exit, false);
    context.streams.begin_again();
    let mut watch = Watch::default();
    watch.at(Token::Restart, Instant::now() + wait);
    let (mut stopped, mut is_ending) = (false, false);
    context
        .streams
        .run(None, signals, &mut watch, |event, _| match event {
            Event::Due(Token::Restart) => After::Return,
            Event::Stop => {
                stopped = true;
                After::Return
            }
            Event::Signal(libc::SIGTERM) => {
                is_ending = true;
                After::Return
            }
            _ => After::Continue,
        })?;
    context.member.stopped |= stopped;
    context.is_ending |= is_ending;
    Ok(!stopped && !is_ending)
}

/// A new process 1 of the same plan.
fn again(engine: &Engine, context: &mut Context) -> Result<()> {
    // Nothing of the caller's is left.
    context.options.stdin = None;
    context.options.attach = false;
    context.lock = Some(lock::verbs(context.id()?)?);
    let mut done = Vec::new();
    let begun = engine.set_up(context, start::steps_of_a_run(), &mut done);
    let begun = begun.map_err(|error| match engine.take_back(context, done) {
        Ok(()) => error,
        Err(second) => error.and(&second),
    });
    context.lock = None;
    if let Some(alive) = &context.alive {
        alive.runs_again()?;
    }
    begun
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_docker_writes_it() {
        let of = |text| Restart::parse(text).map(|restart| (restart.policy, restart.retries));
        assert_eq!(of("no").unwrap(), (Policy::No, 0));
        assert_eq!(of("on-failure").unwrap(), (Policy::OnFailure, 0));
        assert_eq!(of("on-failure:3").unwrap(), (Policy::OnFailure, 3));
        assert_eq!(of("unless-stopped").unwrap(), (Policy::UnlessStopped, 0));
        for text in [
            "",
            "sometimes",
            "always:3",
            "on-failure:",
            "on-failure:-1",
            "on-failure:x",
        ] {
            assert_eq!(of(text).unwrap_err().kind(), &Kind::Usage, "{text}");
        }
        let kept = serde_json::to_string(&Restart::parse("unless-stopped").unwrap()).unwrap();
        assert_eq!(kept, r#"{"policy":"unless-stopped"}"#);
    }

    #[test]
    fn a_failure_is_tried_again_so_many_times_and_success_is_not() {
        let restart = Restart::parse("on-failure:2").unwrap();
        let tried = |code, restarts| {
            let after = Backoff::default().after(restart, code, restarts, Duration::ZERO);
            after.is_some()
        };
        assert!(tried(1, 0) && tried(1, 1) && !tried(1, 2));
        assert!(!tried(0, 0));
    }

    #[test]
    fn the_wait_doubles_up_to_a_minute_and_a_long_run_begins_it_anew() {
        let restart = Restart::parse("always").unwrap();
        let mut backoff = Backoff::default();
        let mut after = |seconds| {
            let wait = backoff.after(restart, 0, 0, Duration::from_secs(seconds));
            wait.unwrap().as_millis()
        };
        let waits: Vec<u128> = (0..12).map(|_| after(0)).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [51_200, 60_000, 60_000]);
        assert_eq!((after(9), after(10), after(1)), (60_000, 100, 200));
    }
}
