//! `export`: all that a container sees, as a tar archive, without what is mounted in it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bocker_pipe::events::Event;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Doing, Error, Id, Kind, Result, Step, containers};
use rustix::fs::OFlags;

use crate::build::merged;
use crate::container::{self, Folder, Snap};
use crate::driver::Driver;
use crate::pack::{Rules, Tree, pack};
use crate::tree::open_directory;

/// How much is written at once, in bytes.
const BUFFER: usize = 256 << 10;

/// What is written where.
struct Export {
    id: Id,
    folder: Folder,
    snap: Snap,
    /// Or stdout.
    output: Option<PathBuf>,
}

/// `export CONTAINER [-o FILE]`.
pub(crate) fn export(call: &mut Call) -> Result<()> {
    let (mut name, mut output) = (None, None);
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if matches!(&*option, "-o" | "--output") => {
                output = Some(PathBuf::from(call.value()?));
            }
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if name.is_none() => name = Some(word.to_string_lossy().into_owned()),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let name = name.ok_or_else(|| Error::new(Kind::Usage, "no container is named"))?;
    if output.is_none() {
        refuse_terminal()?;
    }
    let id = containers::resolve(&name)?;
    let _lock = container::lock(&id)?;
    let folder = Folder::of(&id);
    let snap = folder.snap()?;
    let mut export = Export {
        id,
        folder,
        snap,
        output,
    };
    call.engine().tear_down(&mut export, vec![export_step()])?;
    if !call.dry_run() {
        Event::to(&export.id, "export").record();
    }
    Ok(())
}

/// An archive is no text: it is not written to a terminal.
pub(crate) fn refuse_terminal() -> Result<()> {
    if io::stdout().is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            "stdout is a terminal, and an archive would be written to it",
        )
        .hint("redirect it to a file or into a pipe"));
    }
    Ok(())
}

fn export_step() -> Step<Export> {
    Step::new(
        "snap.export",
        "the files that the container sees, its own and those of its image, as one archive",
    )
    .command(|c: &Export| {
        let root = quote(&c.folder.root().display().to_string());
        let tar =
            format!("tar -C {root} --one-file-system --sort=name --numeric-owner --xattrs -c .");
        match &c.output {
            Some(path) => vec![format!("{tar} > {}", quote(&path.display().to_string()))],
            None => vec![tar],
        }
    })
    .apply(|c| {
        let root = match c.snap.driver {
            Driver::Overlay => merged(&c.folder, &c.snap)?,
            Driver::Btrfs => open_directory(&c.folder.root())?,
        };
        let files = Tree::Files { mounts: false };
        let write = |to: &mut dyn Write| -> Result<()> {
            let to = BufWriter::with_capacity(BUFFER, to);
            let (mut to, _) = pack(root.as_fd(), files, Rules::default(), to)?;
            to.flush().doing(|| "write the archive".into())
        };
        match &c.output {
            None => write(&mut io::stdout().lock()),
            Some(path) => to_file(path, &c.id, write),
        }
    })
}

/// Writes a file that is there whole or not at all. What is no regular file, as a FIFO, is written as it stands.
fn to_file(path: &Path, id: &Id, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let what = || format!("write {}", path.display());
    if fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        let mut file = OpenOptions::new().write(true).open(path).doing(what)?;
        return write(&mut file);
    }
    let Some(name) = path.file_name() else {
        return Err(Error::new(
            Kind::Usage,
            format!("{} names no file", path.display()),
        ));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{id}"));
    let new = path.with_file_name(hidden);
    let written = (|| {
        // One that was killed has left its own: it is begun anew.
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&new)
            .doing(what)?;
        write(&mut file)?;
        fs::rename(&new, path).doing(what)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}
