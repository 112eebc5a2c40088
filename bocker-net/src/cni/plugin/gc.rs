//! GC: attachments of which the runtime knows nothing any more are removed. STATUS: whether ADD could succeed.

use bocker_pipe::error::Failures;

use super::attachment;
use super::config::{Config, Where};
use super::{Answer, Code, Failure, del, ipam};
use crate::cni::invoke::{self, Verb};
use crate::cni::version::Version;
use crate::firewall::Firewall;
use crate::network;

/// Fails where the version has no such command.
fn since_1_1(config: &Config, verb: Verb) -> Result<(), Failure> {
    match config.version >= Version::V1_1_0 {
        true => Ok(()),
        false => {
            let what = format!("there is no {verb} in {}", config.version);
            Err(Failure::new(Code::Incompatible, what))
        }
    }
}

pub(super) fn run(config: &Config) -> Answer {
    since_1_1(config, Verb::Gc)?;
    let mut failures = Failures::default();
    for (id, one) in attachment::all(&config.name)? {
        let is_valid = |(container, ifname): &(String, String)| {
            (container, ifname) == (&one.label.container, &one.label.ifname)
        };
        if !config.valid.iter().any(is_valid) {
            failures.note(del::remove(&id));
        }
    }
    if let Some(delegate) = ipam::of(config)
        && ipam::is_recent(&delegate)?
    {
        let done = ipam::call(Verb::Gc, &delegate, "", "", None);
        failures.note(done.map(drop).map_err(|failed| failed.error));
    }
    failures.into_result()?;
    Ok(None)
}

pub(super) fn status(config: &Config) -> Answer {
    since_1_1(config, Verb::Status)?;
    let unavailable = |failure: Failure| Failure {
        code: Code::Unavailable as u64,
        ..failure
    };
    ready(config).map_err(unavailable)?;
    Ok(None)
}

fn ready(config: &Config) -> Result<(), Failure> {
    Firewall::open()?.exists()?;
    match &config.place {
        Where::Network(name) => drop(network::find(name)?),
        Where::Bridge { ipam, .. } => drop(invoke::find(ipam, &invoke::folders())?),
    }
    if let Some(delegate) = ipam::of(config)
        && ipam::is_recent(&delegate)?
    {
        ipam::call(Verb::Status, &delegate, "", "", None)?;
    }
    Ok(())
}
