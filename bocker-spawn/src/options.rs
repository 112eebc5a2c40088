//! What the command lines of `run`, `create` and `spec` say.

use std::ffi::OsString;
use std::os::fd::RawFd;

use bocker_pipe::{Arg, Call, Error, Kind, Result};

use crate::process::Request;
use crate::requested::Requested;

/// What the command line says beside the process.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) request: Request,
    pub(crate) requested: Requested,
    pub(crate) read_only: bool,
    pub(crate) stdin: Option<RawFd>,
    pub(crate) stdout: Option<RawFd>,
    pub(crate) stderr: Option<RawFd>,
    pub(crate) detach: bool,
    pub(crate) attach: bool,
    pub(crate) no_stdout: bool,
    pub(crate) no_stderr: bool,
    pub(crate) detach_keys: Option<String>,
    pub(crate) no_sig_proxy: bool,
    /// The caller has stopped it to start it again.
    pub(crate) restarted: bool,
    pub(crate) on_exit: Option<String>,
    pub(crate) on_arg: Vec<String>,
}

/// Takes the options that `run`, `spec` and `create` share; answers `false` for any other.
pub(crate) fn process_option(call: &mut Call, option: &str, request: &mut Request) -> Result<bool> {
    match option {
        "-e" | "--env" => request.add_variable(call.text()?)?,
        "--env-file" => request.add_variables_of(call.value()?.as_ref())?,
        "-w" | "--workdir" => request.working_dir = Some(call.text()?),
        "-u" | "--user" => request.user = Some(call.text()?),
        "--entrypoint" => request.entrypoint = Some(call.text()?),
        "-t" | "--tty" => request.terminal = true,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The command begins at the first word, or after `--`.
pub(crate) fn take_command(call: &mut Call, first: OsString, request: &mut Request) -> Result<()> {
    let mut words = vec![first];
    words.extend(call.rest()?);
    request.set_command(words)
}

/// The value of `--sig-proxy=false`.
pub(crate) fn boolean(call: &mut Call) -> Result<bool> {
    let text = call.text()?;
    text.parse()
        .map_err(|_| Error::new(Kind::Usage, format!("'{text}' is neither true nor false")))
}

pub(crate) fn options(call: &mut Call) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(name) => match name.as_str() {
                "--read-only" => options.read_only = true,
                "--stdin" => options.stdin = Some(call.number()?),
                "--stdout" => options.stdout = Some(call.number()?),
                "--stderr" => options.stderr = Some(call.number()?),
                "-d" | "--detach" => options.detach = true,
                "--attach" => options.attach = true,
                "--no-stdout" => options.no_stdout = true,
                "--no-stderr" => options.no_stderr = true,
                "--detach-keys" => options.detach_keys = Some(call.text()?),
                "--sig-proxy" => options.no_sig_proxy = !boolean(call)?,
                "--restarted" => options.restarted = true,
                "--on-exit" => options.on_exit = Some(call.text()?),
                "--on-arg" => options.on_arg.push(call.text()?),
                name => {
                    if !process_option(call, name, &mut options.request)?
                        && !options.requested.option(call, name)?
                    {
                        return Err(call.unknown(name));
                    }
                }
            },
            Arg::Value(word) => {
                take_command(call, word, &mut options.request)?;
                break;
            }
        }
    }
    options.requested.check()?;
    options.requested.interactive |= options.stdin.is_some();
    if options.attach && !options.detach {
        return Err(Error::new(Kind::Usage, "--attach goes with --detach"));
    }
    if options.on_exit.is_some() && !options.detach {
        return Err(Error::new(Kind::Usage, "--on-exit goes with --detach"));
    }
    if options.on_exit.is_none() && !options.on_arg.is_empty() {
        return Err(Error::new(Kind::Usage, "--on-arg goes with --on-exit"));
    }
    Ok(options)
}
