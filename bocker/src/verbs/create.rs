//! `create`: what `run` would run, made ready and kept for `start`. Everything is made once, so that it is known to work, and taken
//! down again: what is not running holds nothing.

use std::ffi::OsString;

use bocker_pipe::{Error, Kind, Result};

use super::{cleanup, run};
use crate::pipeline::Pipeline;
use crate::session::Session;

/// Make a container, and print its id; 'start' runs it
#[derive(Debug, Default, clap::Args)]
#[group(skip)]
#[command(
    override_usage = "bocker create [OPTIONS] IMAGE [COMMAND [ARG]...]\n       bocker create [OPTIONS] --rootfs DIR [COMMAND [ARG]...]"
)]
pub(crate) struct Args {
    #[command(flatten)]
    container: run::Args,
}

pub(crate) fn run(session: &Session, args: &Args, line: &[OsString]) -> Result<u8> {
    if args.container.is_detached() {
        return Err(
            Error::new(Kind::Usage, "nothing runs that could be detached")
                .hint("leave -d out: 'start' leaves it running"),
        );
    }
    let plan = args.container.plan(session, line, "create")?;
    let mut stages = plan.stages;
    stages.push(run::with_command(plan.spawn, &plan.words));
    stages.extend(cleanup::teardown(session, false)?.stages);
    stages.push(session.own_stage("format").arg("{{.bocker.id}}"));
    let mut pipeline = Pipeline::new(stages);
    pipeline.document = Some(plan.document);
    session.run(&pipeline)
}
