//! The other way round: started with `CNI_COMMAND` set, bocker-net is a plugin that other runtimes call (SPEC.md, section 2). It
//! connects a namespace of theirs to a network of ours, as `create` connects one of ours, or to a bridge whose addresses an
//! IPAM plugin gives. The namespace is never unpinned, and nothing but the interface is made in it.

mod add;
pub(crate) mod attachment;
mod check;
mod config;
mod del;
mod gc;
mod ipam;

pub(crate) use del::steps;

use std::ffi::OsString;
use std::io::{Read, Write};

use bocker_pipe::{Error, Kind, pool};
use serde::Serialize;
use serde_json::{Value, json};

use self::config::{Config, Environment};
use super::MAX_SIZE;
use super::version::Version;

const COMMAND: &str = "CNI_COMMAND";
/// The exit code of a plugin that fails; why, its stdout says.
const FAILED: u8 = 1;

/// SPEC.md, section 5, and from 100 on our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Incompatible = 1,
    Unsupported = 2,
    Environment = 4,
    Io = 5,
    Decode = 6,
    Configuration = 7,
    Unavailable = 50,
    /// A system call failed.
    System = 100,
    /// A port or an address is taken, or none is left.
    InUse = 101,
    /// Somebody else's object, or an attachment, is there already.
    Exists = 102,
    /// CHECK has found a difference.
    Differs = 103,
}

/// An error of the protocol.
#[derive(Debug)]
struct Failure {
    code: u64,
    error: Error,
}

impl Failure {
    fn new(code: Code, message: impl Into<String>) -> Failure {
        Error::new(Kind::Invalid, message).with(code)
    }
}

/// Gives an error the protocol's code.
trait With {
    fn with(self, code: Code) -> Failure;
}

impl With for Error {
    fn with(self, code: Code) -> Failure {
        Failure {
            code: code as u64,
            error: self,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match error.kind() {
            Kind::Invalid | Kind::Usage | Kind::NotFound => Code::Configuration,
            Kind::Unsupported => Code::Unsupported,
            Kind::InUse => Code::InUse,
            Kind::Exists => Code::Exists,
            _ => Code::System,
        };
        error.with(code)
    }
}

/// What came of a command: what is printed, if anything.
type Answer = Result<Option<Value>, Failure>;

/// Whether we are called as a plugin: it has no arguments, and its command is a variable.
pub(crate) fn is_called() -> bool {
    std::env::args_os().nth(1).is_none()
        && std::env::var_os(COMMAND).is_some_and(|command| !command.is_empty())
}

/// The plugin. Gives the exit code.
pub(crate) fn main() -> u8 {
    let command = std::env::var_os(COMMAND).unwrap_or_default();
    let mut version = Version::LATEST;
    let (printed, code) = match run(&command, &mut version) {
        Ok(None) => return 0,
        Ok(Some(answer)) => (answer, 0),
        Err(Failure { code, error }) => {
            let mut said =
                json!({"cniVersion": version.as_str(), "code": code, "msg": error.message()});
            if let Some(hint) = error.hint_text() {
                said["details"] = hint.into();
            }
            (said, FAILED)
        }
    };
    match writeln!(std::io::stdout().lock(), "{printed}") {
        Ok(()) => code,
        Err(_) => FAILED,
    }
}

fn run(command: &OsString, version: &mut Version) -> Answer {
    let input = input()?;
    if command == "VERSION" {
        return versions(&input);
    }
    let config = Config::parse(input, version)?;
    // Where networks are defined.
    pool::ensure()?;
    match command.to_str() {
        Some("ADD") => add::run(&config, &Environment::of_container(true)?),
        Some("DEL") => del::run(&config, &Environment::of_container(false)?),
        Some("CHECK") => check::run(&config, &Environment::of_container(true)?),
        Some("GC") => gc::run(&config),
        Some("STATUS") => gc::status(&config),
        _ => {
            let what = format!("there is no command '{}'", command.display());
            Err(Failure::new(Code::Environment, what))
        }
    }
}

fn input() -> Result<Value, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_SIZE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            Failure::new(Code::Io, format!("cannot read the configuration: {error}"))
        })?;
    if bytes.len() > MAX_SIZE {
        let what = format!("the configuration is larger than {} MiB", MAX_SIZE >> 20);
        return Err(Failure::new(Code::Decode, what));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(
            Code::Decode,
            format!("the configuration is not JSON: {error}"),
        )
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions<'a> {
    cni_version: &'a str,
    supported_versions: [&'static str; 4],
}

/// What comes is answered in kind: some runtimes ask in a version that nobody speaks (SPEC.md, section 2, VERSION).
fn versions(input: &Value) -> Answer {
    let asked = input.get("cniVersion").and_then(Value::as_str);
    let known = asked.and_then(Version::parse).unwrap_or(Version::LATEST);
    Ok(Some(json!(Versions {
        cni_version: known.as_str(),
        supported_versions: Version::ALL.map(Version::as_str),
    })))
}

/// A configuration is taken, or refused with a code.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(input: Value) {
    if let Ok(config) = Config::parse(input, &mut Version::LATEST.clone()) {
        assert!(super::is_name(&config.name));
    }
}
