//! `create`: makes the container's group in every hierarchy and writes its limits.

use std::io::Write as _;
use std::path::PathBuf;

use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Error, Id, Kind, Result, Step, claim, lock};

use crate::STAGE;
use crate::controller::{ALL, Controller, Setting};
use crate::hierarchies::Hierarchies;
use crate::member::{self, Earlier};
use crate::request::{Devices, Memory, Request};
use crate::{group, memory};

/// What the steps work on.
struct Context {
    /// The placeholder until the claim is made.
    id: Id,
}

pub(crate) fn run(call: &mut Call) -> Result<()> {
    let options = options(call)?;
    let document = call.document()?;
    let earlier: Option<Earlier> = document.member(STAGE)?;
    let request = options.over(earlier.map(|m| m.request).unwrap_or_default());
    request.validate()?;
    let id = match document.value("/bocker/id") {
        None => None,
        Some(_) => Some(document.id()?),
    };
    let hierarchies = Hierarchies::read()?;
    check_mounted(&hierarchies, &request)?;

    let _lock = match &id {
        Some(id) if !call.dry_run() => Some(lock::verbs(id)?),
        _ => None,
    };
    let mut steps = Vec::new();
    if id.is_none() {
        steps.push(claim_step());
    }
    steps.extend(group_steps(&hierarchies, &request));
    let context = Context {
        id: id.unwrap_or_else(Id::placeholder),
    };
    call.create(context, steps, move |document, context| {
        document.set_member("id", &context.id);
        member::add(document, &context.id, &hierarchies, &request);
        Ok(())
    })
}

fn options(call: &mut Call) -> Result<Request> {
    let mut request = Request::default();
    let mut default_memory = None;
    while let Some(arg) = call.arg()? {
        let option = match arg {
            Arg::Option(option) => option,
            Arg::Value(word) => return Err(call.unexpected(&word)),
        };
        match option.as_str() {
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
    Ok(request)
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
fn check_mounted(hierarchies: &Hierarchies, request: &Request) -> Result<()> {
    for controller in ALL {
        if hierarchies.of(controller).is_some() {
            continue;
        }
        let name = controller.name();
        if let Some(option) = controller.asked_by(request) {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{option} needs the {name} controller, which is not mounted"),
            )
            .hint(format!(
                "mount -t cgroup -o {name} cgroup /sys/fs/cgroup/{name}, or leave {option} out"
            )));
        }
        if controller == Controller::Memory && request.memory.is_some() {
            // Nobody asked: the container runs, and whoever watches is told. If stderr is gone, nobody watches.
            let _ = writeln!(
                std::io::stderr(),
                "bocker-cg: the {name} controller is not mounted: the default limit is not set"
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

/// A step for each controller. Where several are mounted together the first makes the group for all of them.
fn group_steps(hierarchies: &Hierarchies, request: &Request) -> Vec<Step<Context>> {
    let mut steps = Vec::new();
    for hierarchy in hierarchies.iter() {
        for (position, controller) in hierarchy.controllers.iter().enumerate() {
            let settings = controller.settings(request, &hierarchy.mount);
            let makes = position == 0;
            if makes || !settings.is_empty() {
                let mount = hierarchy.mount.clone();
                steps.push(group_step(*controller, mount, makes, settings));
            }
        }
    }
    steps
}

fn group_step(
    controller: Controller,
    mount: PathBuf,
    makes: bool,
    settings: Vec<Setting>,
) -> Step<Context> {
    let folder = move |c: &Context| mount.join(&c.id);
    let (shown, looked, undone) = (folder.clone(), folder.clone(), folder.clone());
    let written = settings.clone();
    let step = Step::new(controller.step(), controller.why())
        .command(move |c: &Context| {
            let group = shown(c).display().to_string();
            let mkdir = makes.then(|| format!("mkdir {}", quote(&group)));
            let echo = written.iter().map(|Setting { file, value }| {
                format!(
                    "echo {} > {}",
                    quote(value),
                    quote(&format!("{group}/{file}"))
                )
            });
            mkdir.into_iter().chain(echo).collect()
        })
        .look(move |c| {
            let file = looked(c).join(controller.shown_by());
            format!("cat {}", quote(&file.display().to_string()))
        })
        .apply(move |c| {
            let group = folder(c);
            if !makes {
                return group::set(&group, &settings);
            }
            group::make(&group)?;
            group::set(&group, &settings).map_err(|error| match group::remove(&group) {
                Ok(()) => error,
                Err(second) => error.and(&second),
            })
        });
    if makes {
        step.undo(move |c| group::remove(&undone(c)))
    } else {
        step
    }
}
