//! `rename ID`: the others on a container's networks find it by the name that it has by now, and no more by the one before.

use bocker_pipe::{Call, Error, Id, Kind, Result, Step, containers, lock};

use crate::delete::{attachments, forget_command};
use crate::member::CniIp;
use crate::names::{Entry, Names};

struct Context {
    id: Id,
    /// Itself on those of its networks on which it is known by names.
    entries: Vec<Entry>,
}

/// The verb.
pub(crate) fn run(call: &mut Call) -> Result<()> {
    let container = call
        .container(None)?
        .ok_or_else(|| Error::new(Kind::Usage, "no container is named"))?;
    let id = containers::resolve(&container)?;
    // One that is renamed once more meanwhile has that name in the end.
    let _lock = match call.dry_run() {
        true => None,
        false => Some(lock::verbs(&id)?),
    };
    let members = Names::of_machine().members()?;
    let document = containers::load(&id)?;
    let name: Option<String> = document.member("name")?;
    let mut entries = Vec::new();
    for attachment in attachments(&document)? {
        let addresses = attachment.result.ips.iter().filter_map(CniIp::address);
        let addresses = addresses.collect();
        let aliases = &attachment.request.aliases;
        let member = (id.clone(), attachment.bridge.unwrap_or_default());
        if members.contains(&member) {
            let entry = Entry::new(&member.1, addresses, &id, name.as_deref(), aliases);
            entries.push(entry);
        }
    }
    match entries.is_empty() {
        true => Ok(()),
        false => call.run_steps(&mut Context { id, entries }, vec![step()]),
    }
}

fn step() -> Step<Context> {
    Step::new(
        "net.names",
        "the others on its networks find it by its new name, and no more by the former",
    )
    .command(|context: &Context| {
        let names = Names::of_machine();
        let lines = context.entries.iter().flat_map(|one| names.commands(one));
        let told = "# and in the hosts file of everyone in these tables".into();
        [forget_command(&context.id)]
            .into_iter()
            .chain(lines)
            .chain([told])
            .collect()
    })
    .look(|context| {
        let tables = Names::of_machine().folder().display().to_string();
        format!("grep -r {} {tables}", context.id)
    })
    .apply(|context| Names::of_machine().join(&context.id, &context.entries))
}
