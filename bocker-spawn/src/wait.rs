//! `wait`: how containers end, told by their supervisors, or read where it is recorded.

use std::thread::sleep;
use std::time::Duration;

use bocker_pipe::error::Failures;
use bocker_pipe::lock::{self, Supervisor};
use bocker_pipe::state::State;
use bocker_pipe::{Call, Error, Id, Kind, Result, containers};

use crate::container::Container;
use crate::report;
use crate::socket::{self, Answer, Connection, Hello, PACKET, Request};

/// Between a supervisor's lock and its socket it sets the container up.
const TICK: Duration = Duration::from_millis(5);

/// The verb: an exit status a line, in the order of the words.
pub(crate) fn wait(call: &mut Call) -> Result<()> {
    let names = report::names(call)?;
    // All are heard from now on: one that is removed at its end is gone when its turn comes.
    let waiting: Vec<Result<Waiting>> = names
        .iter()
        .map(|name| Waiting::begin(name, !call.dry_run()))
        .collect();
    let mut failures = Failures::default();
    for waiting in waiting {
        if call.dry_run() {
            failures.note(waiting.map(drop));
            continue;
        }
        let code = waiting.and_then(Waiting::end);
        failures.note(code.and_then(|code| call.line(&code)));
    }
    failures.into_result()
}

/// A container whose end is awaited.
struct Waiting {
    id: Id,
    name: String,
    connection: Option<Connection>,
}

impl Waiting {
    fn begin(name: &str, really: bool) -> Result<Waiting> {
        let id = containers::resolve(name)?;
        let connection = match really {
            true => connect(&id)?,
            false => None,
        };
        if let Some(connection) = &connection {
            connection.say(&Request::Hello(Hello::default()))?;
        }
        Ok(Waiting {
            id,
            name: name.to_owned(),
            connection,
        })
    }

    fn end(self) -> Result<u8> {
        let Waiting {
            id,
            name,
            connection,
        } = self;
        if let Some(connection) = connection
            && let Some(code) = told(&connection)?
        {
            return Ok(code);
        }
        recorded(&id, &name)
    }
}

/// The supervisor of a container that runs, or will in a moment; `None` where there is none.
pub(crate) fn connect(id: &Id) -> Result<Option<Connection>> {
    loop {
        if let Some(connection) = Connection::open(id)? {
            return Ok(Some(connection));
        }
        if lock::supervisor(id) != Supervisor::Runs {
            return Ok(None);
        }
        sleep(TICK);
    }
}

/// What the supervisor says of the end; `None` when it has gone without a word.
fn told(connection: &Connection) -> Result<Option<u8>> {
    let mut packet = [0; PACKET];
    loop {
        match connection.hear(&mut packet)? {
            Some(Answer::Ended(exit)) => return Ok(Some(exit.code)),
            Some(Answer::LetGo(reason)) => return Err(socket::let_go(reason)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

/// How one has ended that has no supervisor, by what is recorded or what `reap` would record. One that was never started
/// has not failed.
pub(crate) fn recorded(id: &Id, name: &str) -> Result<u8> {
    loop {
        let (container, state) = Container::load(id.clone(), name)?.observe()?;
        let is_recorded = container.is_recorded();
        match state {
            State::Creating | State::Created => return Ok(0),
            // What is removed by those who come after its supervisor is recorded nowhere.
            State::Exited
                if !is_recorded
                    && container.document.is_removed_at_its_end()
                    && lock::supervisor(id) != Supervisor::Lost =>
            {
                let what = format!("{name} has ended, and its exit status went with it");
                return Err(Error::new(Kind::NotFound, what));
            }
            State::Exited | State::Orphaned => {
                let exit = container.document.exit()?.filter(|_| is_recorded);
                let exit = exit.unwrap_or_else(|| container.unrecorded_exit(state));
                return Ok(exit.code);
            }
            State::Running | State::Paused | State::Restarting => {}
        }
        // It was started again meanwhile.
        if let Some(connection) = connect(id)?
            && connection.say(&Request::Hello(Hello::default()))?
            && let Some(code) = told(&connection)?
        {
            return Ok(code);
        }
    }
}
