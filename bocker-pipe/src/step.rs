//! Steps and the small engine that runs them. Every change that a tool makes to the machine is a [`Step`]: named, with why
//! it is done, the classic command that does the same, how to look at the result, and how it is taken back.
//! `-v`, `--explain`, `--dry-run`, undo and `BOCKER_FAIL_AT` all come from this one seam.

use std::fmt::Write as _;
use std::io::Write as _;

use nix::sys::signal::{Signal, raise};

use crate::error::{Error, Failures, Kind, Result};
use crate::{signals, timing};

/// Names the step after which a tool fails, or, with `kill:` or `stop:` before the name, gets SIGKILL or SIGSTOP. For tests.
pub const FAIL_VARIABLE: &str = "BOCKER_FAIL_AT";

type Describe<C> = Box<dyn Fn(&C) -> Vec<String>>;
type Act<C> = Box<dyn FnMut(&mut C) -> Result<()>>;

/// One change to the machine. `C` is the tool's context: what is planned and what has come of it.
pub struct Step<C> {
    name: &'static str,
    why: &'static str,
    command: Option<Describe<C>>,
    look: Option<Describe<C>>,
    apply: Option<Act<C>>,
    undo: Option<Act<C>>,
    timed_elsewhere: bool,
    is_last: bool,
}

impl<C> Step<C> {
    /// A step named `stage.object`, and one sentence on why it is done.
    pub fn new(name: &'static str, why: &'static str) -> Step<C> {
        Step {
            name,
            why,
            command: None,
            look: None,
            apply: None,
            undo: None,
            timed_elsewhere: false,
            is_last: false,
        }
    }

    /// The commands that would do the same, a line each; a line for which there is none begins with `#`.
    /// Asked for only when somebody looks, after the step was applied, so that the context knows what was chosen.
    #[must_use]
    pub fn command(mut self, lines: impl Fn(&C) -> Vec<String> + 'static) -> Self {
        self.command = Some(Box::new(lines));
        self
    }

    /// The command that shows the result.
    #[must_use]
    pub fn look(mut self, line: impl Fn(&C) -> String + 'static) -> Self {
        self.look = Some(Box::new(move |context| vec![line(context)]));
        self
    }

    /// What the step does. One that fails must have left nothing of its own: it is not undone.
    #[must_use]
    pub fn apply(mut self, act: impl FnMut(&mut C) -> Result<()> + 'static) -> Self {
        self.apply = Some(Box::new(act));
        self
    }

    /// How the step is taken back. Already gone is success.
    #[must_use]
    pub fn undo(mut self, act: impl FnMut(&mut C) -> Result<()> + 'static) -> Self {
        self.undo = Some(Box::new(act));
        self
    }

    /// To apply it is only to wait for another process, which does it and says how long it took.
    #[must_use]
    pub fn timed_elsewhere(mut self) -> Self {
        self.timed_elsewhere = true;
        self
    }

    /// In a teardown, left out when a step before it has failed: by what it removes, the rest is found again.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.is_last = true;
        self
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// How much of the work is shown, and whether it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// Each step is printed as its commands.
    pub verbose: bool,
    /// As `verbose`, with why, and how to look.
    pub explain: bool,
    /// Nothing is done.
    pub dry_run: bool,
}

/// What [`FAIL_VARIABLE`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FailAt {
    step: String,
    /// Sent to this process instead of failing.
    signal: Option<Signal>,
}

impl FailAt {
    fn from_environment() -> Option<FailAt> {
        let text = std::env::var(FAIL_VARIABLE).ok()?;
        let (signal, step) = match text.split_once(':') {
            Some(("kill", step)) => (Some(Signal::SIGKILL), step),
            Some(("stop", step)) => (Some(Signal::SIGSTOP), step),
            _ => (None, text.as_str()),
        };
        let step = step.to_owned();
        Some(FailAt { step, signal })
    }

    fn strike(&self, step: &str) -> Result<()> {
        match self.signal {
            _ if self.step != step => Ok(()),
            None => Err(Error::new(
                Kind::Injected,
                format!("{FAIL_VARIABLE} asked {step} to fail"),
            )),
            Some(signal) => {
                // Neither can fail, and SIGKILL does not return.
                let _ = raise(signal);
                Ok(())
            }
        }
    }
}

/// Runs steps.
#[derive(Debug)]
pub struct Engine {
    mode: Mode,
    fail_at: Option<FailAt>,
}

impl Engine {
    /// An engine that shows and does what `mode` says.
    pub fn new(mode: Mode) -> Engine {
        Engine {
            mode,
            fail_at: FailAt::from_environment(),
        }
    }

    /// Applies the steps in order, stopping at the first that fails and before the next when an ending signal came.
    /// `done` receives those that were applied, for [`Engine::take_back`].
    pub fn set_up<C>(
        &self,
        context: &mut C,
        steps: Vec<Step<C>>,
        done: &mut Vec<Step<C>>,
    ) -> Result<()> {
        for mut step in steps {
            interruption()?;
            let result = self.apply(context, &mut step);
            self.show(context, &step);
            result?;
            let struck = self.strike(&step);
            done.push(step);
            struck?;
        }
        interruption()
    }

    /// Takes back what was applied, last first, going on after failures. The error tells all of them.
    pub fn take_back<C>(&self, context: &mut C, done: Vec<Step<C>>) -> Result<()> {
        let mut failures = Failures::default();
        for mut step in done.into_iter().rev() {
            if self.mode.dry_run {
                continue;
            }
            if let Some(undo) = step.undo.as_mut() {
                if self.mode.verbose || self.mode.explain {
                    print(&format!("# undo {}\n", step.name));
                }
                let undone = timing::measure(format_args!("undo {}", step.name), || undo(context));
                failures.note(undone);
            }
        }
        failures.into_result()
    }

    /// Applies the steps of a teardown in order, going on after failures, but for those that are to be the [last](Step::last).
    /// The error tells all of them.
    pub fn tear_down<C>(&self, context: &mut C, steps: Vec<Step<C>>) -> Result<()> {
        let mut failures = Failures::default();
        for mut step in steps {
            if step.is_last && !failures.is_empty() {
                continue;
            }
            let result = self.apply(context, &mut step);
            self.show(context, &step);
            failures.note(result.and_then(|()| self.strike(&step)));
        }
        failures.into_result()
    }

    fn apply<C>(&self, context: &mut C, step: &mut Step<C>) -> Result<()> {
        match step.apply.as_mut() {
            Some(apply) if !self.mode.dry_run => match step.timed_elsewhere {
                true => apply(context),
                false => timing::measure(step.name, || apply(context)),
            },
            _ => Ok(()),
        }
    }

    fn strike<C>(&self, step: &Step<C>) -> Result<()> {
        match &self.fail_at {
            Some(fail_at) if !self.mode.dry_run => fail_at.strike(step.name),
            _ => Ok(()),
        }
    }

    fn show<C>(&self, context: &C, step: &Step<C>) {
        if self.mode.verbose || self.mode.explain || self.mode.dry_run {
            print(&self.description(context, step));
        }
    }

    fn description<C>(&self, context: &C, step: &Step<C>) -> String {
        let mut text = String::new();
        if self.mode.explain {
            let _ = writeln!(text, "# {}: {}", step.name, step.why);
        }
        let lines = step
            .command
            .as_ref()
            .map(|command| command(context))
            .unwrap_or_default();
        for line in &lines {
            let mark = if line.starts_with('#') { "" } else { "+ " };
            let _ = writeln!(text, "{mark}{line}");
        }
        if lines.is_empty() && !self.mode.explain {
            let _ = writeln!(text, "# {}: {}", step.name, step.why);
        }
        if self.mode.explain
            && let Some(look) = &step.look
        {
            for line in look(context) {
                let _ = writeln!(text, "#   look: {line}");
            }
        }
        text
    }
}

/// One write for a step, so that the lines of stages that run side by side do not mix.
fn print(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Fails with [`Kind::Interrupted`] when an ending signal came since the verb began.
/// A step that takes long asks it between pieces of its work; the engine asks between steps.
pub fn interruption() -> Result<()> {
    match signals::pending() {
        None => Ok(()),
        Some(signal) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            Err(Error::new(
                Kind::Interrupted(signal),
                format!("interrupted by {name}"),
            ))
        }
    }
}

/// Quotes a word for sh(1), only where it must be; for the commands that steps show.
pub fn quote(word: &str) -> String {
    // ASCII beside UTF-8 leaves it UTF-8, so that nothing is lost.
    String::from_utf8_lossy(&quote_bytes(word.as_bytes())).into_owned()
}

/// As [`quote`], for a word that need not be UTF-8. Single quotes, so that JSON stays readable.
pub fn quote_bytes(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let parts: Vec<&[u8]> = word.split(|b| *b == b'\'').collect();
    [b"'", parts.join(br"'\''".as_slice()).as_slice(), b"'"].concat()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn step(name: &'static str) -> Step<Vec<String>> {
        Step::new(name, "because")
            .command(|log: &Vec<String>| vec![format!("do {}", log.len())])
            .look(|_| "ls".into())
            .apply(move |log: &mut Vec<String>| {
                log.push(format!("do {name}"));
                Ok(())
            })
            .undo(move |log: &mut Vec<String>| {
                log.push(format!("undo {name}"));
                Ok(())
            })
    }

    fn failing(name: &'static str) -> Step<Vec<String>> {
        step(name).apply(move |_| Err(Error::new(Kind::Invalid, format!("{name} broke"))))
    }

    fn engine(fail_at: Option<FailAt>) -> Engine {
        Engine {
            mode: Mode::default(),
            fail_at,
        }
    }

    #[test]
    fn what_was_applied_is_taken_back_in_reverse_and_the_step_that_failed_is_not() {
        let (mut log, mut done) = (Vec::new(), Vec::new());
        let engine = engine(None);
        let error = engine.set_up(
            &mut log,
            vec![step("a"), step("b"), failing("c"), step("d")],
            &mut done,
        );
        assert_eq!(error.unwrap_err().message(), "c broke");
        engine.take_back(&mut log, done).unwrap();
        assert_eq!(log, ["do a", "do b", "undo b", "undo a"]);
    }

    #[test]
    fn an_injected_failure_comes_after_the_step_so_that_its_undo_is_exercised() {
        let (mut log, mut done) = (Vec::new(), Vec::new());
        let engine = engine(Some(FailAt {
            step: "b".into(),
            signal: None,
        }));
        let error = engine
            .set_up(&mut log, vec![step("a"), step("b"), step("c")], &mut done)
            .unwrap_err();
        assert_eq!(error.kind(), &Kind::Injected);
        engine.take_back(&mut log, done).unwrap();
        assert_eq!(log, ["do a", "do b", "undo b", "undo a"]);
    }

    #[test]
    fn a_teardown_goes_on_and_tells_every_failure() {
        let mut log = Vec::new();
        let error = engine(None)
            .tear_down(
                &mut log,
                vec![failing("a"), step("b"), failing("c"), step("claim").last()],
            )
            .unwrap_err();
        assert_eq!(error.message(), "a broke; and then c broke");
        assert_eq!(log, ["do b"]);
        let steps = vec![step("a"), step("claim").last()];
        engine(None).tear_down(&mut log, steps).unwrap();
        assert_eq!(log, ["do b", "do a", "do claim"]);
    }

    #[test]
    fn an_undo_that_fails_does_not_stop_the_others() {
        let (mut log, mut done) = (Vec::new(), Vec::new());
        let engine = engine(None);
        let stuck = step("b").undo(|_| Err(Error::new(Kind::InUse, "b is stuck")));
        engine
            .set_up(&mut log, vec![step("a"), stuck], &mut done)
            .unwrap();
        assert_eq!(
            engine.take_back(&mut log, done).unwrap_err().message(),
            "b is stuck"
        );
        assert_eq!(log, ["do a", "do b", "undo a"]);
    }

    #[test]
    fn a_dry_run_does_nothing() {
        let (mut log, mut done) = (Vec::new(), Vec::new());
        let engine = Engine {
            mode: Mode {
                dry_run: true,
                ..Mode::default()
            },
            fail_at: None,
        };
        engine.set_up(&mut log, vec![step("a")], &mut done).unwrap();
        engine.take_back(&mut log, done).unwrap();
        assert!(log.is_empty());
    }

    #[test]
    fn an_explanation_is_a_script_with_comments() {
        let engine = Engine {
            mode: Mode {
                explain: true,
                ..Mode::default()
            },
            fail_at: None,
        };
        assert_eq!(
            engine.description(&Vec::new(), &step("net.x")),
            "# net.x: because\n+ do 0\n#   look: ls\n"
        );
    }

    #[test]
    fn a_word_is_quoted_only_where_it_must_be() {
        assert_eq!(quote("a/b:1@x=%+,.-_"), "a/b:1@x=%+,.-_");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("$(x)"), "'$(x)'");
        assert_eq!(quote("~"), "'~'");
        assert_eq!(quote(r#"{"a":"\n"}"#), r#"'{"a":"\n"}'"#);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_shell_reads_a_word_back(word in prop::collection::vec(1u8..=255, 0..20)) {
            let line = [b"printf %s ", quote_bytes(&word).as_slice()].concat();
            let output = Command::new("/bin/sh").arg("-c").arg(OsStr::from_bytes(&line)).output().unwrap();
            prop_assert_eq!(output.stdout, word);
        }
    }
}
