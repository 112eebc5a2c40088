//! `create`: makes the container's group in every hierarchy and writes its limits.

use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;

use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step, claim, lock};

use crate::STAGE;
use crate::controller::{ALL, Controller};
use crate::hierarchies::{Hierarchies, Version};
use crate::member::{self, Earlier};
use crate::request::{Devices, Memory, Request};
use crate::{group, memory, supervisors, unified};

/// What the steps work on.
struct Context {
    /// The placeholder until the claim is made.
    id: Id,
}

pub(crate) fn run(call: &mut Call) -> Result<()> {
    let (options, for_supervisor) = options(call)?;
    let document = call.document()?;
    let earlier: Option<Earlier> = document.member(STAGE)?;
    let request = options.over(earlier.map(|m| m.request).unwrap_or_default());
    request.validate()?;
    let id = match document.value("/bocker/id") {
        None => None,
        Some(_) => Some(document.id()?),
    };
    let hierarchies = Hierarchies::read()?;
    check_available(&hierarchies, &request)?;

    let _lock = match &id {
        Some(id) if !call.dry_run() => Some(lock::verbs(id)?),
        _ => None,
    };
    let mut steps = Vec::new();
    if id.is_none() {
        steps.push(claim_step());
    }
    steps.extend(unified::parent_step(&hierarchies)?);
    let mut supervisor = Vec::new();
    if for_supervisor {
        steps.extend(supervisors::step(&hierarchies));
        supervisor = hierarchies.supervisors();
    }
    steps.extend(group_steps(&hierarchies, &request));
    let context = Context {
        id: id.unwrap_or_else(Id::placeholder),
    };
    call.create(context, steps, move |document, context| {
        document.set_member("id", &context.id);
        member::add(document, &context.id, &hierarchies, &supervisor, &request);
        Ok(())
    })
}

/// What is asked for, and whether there is to be a place for a supervisor.
fn options(call: &mut Call) -> Result<(Request, bool)> {
    let mut request = Request::default();
    let mut for_supervisor = false;
    let mut default_memory = None;
    while let Some(arg) = call.arg()? {
        let option = match arg {
            Arg::Option(option) => option,
            Arg::Value(word) => return Err(call.unexpected(&word)),
        };
        match option.as_str() {
            "--supervisor" => for_supervisor = true,
            "--cpu-shares" => request.cpu_shares = Some(call.number()?),
            "--cpus" => request.cpus = Some(call.text()?),
            "--memory" => request.memory = Some(memory_option(call, false)?),
            "--default-memory" => default_memory = Some(memory_option(call, true)?),
            "--pids-limit" => request.pids = Some(pids_option(call)?),
            "--devices" => request.devices = Some(Devices::parse(&call.text()?)?),
            _ => return Err(call.unknown(&option)),
        }
    }
    request.memory = request.memory.or(default_memory);
    Ok((request, for_supervisor))
}

fn memory_option(call: &mut Call, default: bool) -> Result<Memory> {
    let limit = memory::parse(&call.text()?)?;
    Ok(Memory { limit, default })
}

fn pids_option(call: &mut Call) -> Result<i64> {
    let text = call.text()?;
    let digits = text.strip_prefix('-').unwrap_or(&text);
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| {
            let message = format!("'{text}' is not a number of processes (--pids-limit)");
            Error::new(Kind::Invalid, message)
        })
}

/// A controller that the machine lacks is an error when somebody asked for it.
fn check_available(hierarchies: &Hierarchies, request: &Request) -> Result<()> {
    for controller in ALL {
        if hierarchies.of(controller).is_some() {
            continue;
        }
        let name = controller.name();
        if let Some(option) = controller.asked_by(request) {
            return Err(match hierarchies.version() {
                Version::V1 => Error::new(
                    Kind::Unsupported,
                    format!("{option} needs the {name} controller, which is not mounted"),
                )
                .hint(format!(
                    "mount -t cgroup -o {name} cgroup /sys/fs/cgroup/{name}, or leave {option} out"
                )),
                Version::V2 => unified::not_available(option, name, hierarchies),
            });
        }
        if controller == Controller::Memory && request.memory.is_some() {
            // Nobody asked: the container runs, and whoever watches is told. If stderr is gone, nobody watches.
            let _ = writeln!(
                std::io::stderr(),
                "bocker-cg: there is no {name} controller here: the default limit is not set"
            );
        }
    }
    Ok(())
}

fn claim_step() -> Step<Context> {
    Step::new("cg.claim", "an id that nothing else on this machine has")
        .command(|c: &Context| vec![format!("mkdir -p -m 700 /run/bocker/{}", c.id)])
        .look(|c| format!("ls /run/bocker/{}", c.id))
        .apply(|c| {
            c.id = claim::make(STAGE)?;
            Ok(())
        })
        .undo(|c| claim::release_own(&c.id, STAGE))
}

/// On v1 a step for each controller, of which the first on a hierarchy makes the group; on v2 a step that makes the one
/// group, and one for each controller that has something to set there.
fn group_steps(hierarchies: &Hierarchies, request: &Request) -> Vec<Step<Context>> {
    let version = hierarchies.version();
    let request = Rc::new(request.clone());
    let mut steps = Vec::new();
    for hierarchy in hierarchies.iter() {
        let parent: Rc<Path> = hierarchy.parent.as_path().into();
        let mut made = version == Version::V2;
        if made {
            steps.push(make_step(
                "cg.group",
                "a place for the container's processes",
                &parent,
            ));
        }
        for controller in &hierarchy.controllers {
            let sets = !controller.settings(version, &request, &parent).is_empty();
            if !made || sets {
                steps.push(limits_step(*controller, version, &request, &parent, !made));
            }
            made = true;
        }
    }
    steps
}

fn make_step(name: &'static str, why: &'static str, parent: &Rc<Path>) -> Step<Context> {
    let (shown, looked, made, undone) = (
        parent.clone(),
        parent.clone(),
        parent.clone(),
        parent.clone(),
    );
    Step::new(name, why)
        .command(move |c: &Context| vec![group::mkdir_command(&shown.join(&c.id))])
        .look(move |c| format!("ls {}", quote(&looked.join(&c.id).display().to_string())))
        .apply(move |c| group::make(&made.join(&c.id)))
        .undo(move |c| group::remove(&undone.join(&c.id)))
}

fn limits_step(
    controller: Controller,
    version: Version,
    request: &Rc<Request>,
    parent: &Rc<Path>,
    makes: bool,
) -> Step<Context> {
    // Asked for when it is needed: what a group can hold is seen when the one above it is there.
    let settings = {
        let (request, parent) = (request.clone(), parent.clone());
        move || controller.settings(version, &request, &parent)
    };
    let written = settings.clone();
    let (shown, looked, set, undone) = (
        parent.clone(),
        parent.clone(),
        parent.clone(),
        parent.clone(),
    );
    let step = Step::new(controller.step(), controller.why())
        .command(move |c: &Context| {
            let group = shown.join(&c.id);
            let mkdir = makes.then(|| group::mkdir_command(&group));
            let echo = written().into_iter().map(|setting| setting.command(&group));
            mkdir.into_iter().chain(echo).collect()
        })
        .look(move |c| controller.look(version, &looked.join(&c.id)))
        .apply(move |c| {
            let group = set.join(&c.id);
            if !makes {
                return group::set(&group, &settings());
            }
            group::make(&group)?;
            group::set(&group, &settings()).map_err(|error| match group::remove(&group) {
                Ok(()) => error,
                Err(second) => error.and(&second),
            })
        });
    if makes {
        step.undo(move |c| group::remove(&undone.join(&c.id)))
    } else {
        step
    }
}
