//! The verb `save`: images as one archive, which is an OCI image layout and, by a `manifest.json`, what docker before 25 and
//! podman read too. The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use bocker_pipe::layout::{
    Descriptor, Digest, Hasher, Image, ImageIndex, Layout, OCI_INDEX, Writer,
};
use bocker_pipe::reference::Reference;
use bocker_pipe::step::{interruption, quote};
use bocker_pipe::tar::write::Writer as Tar;
use bocker_pipe::tar::{Entry, EntryKind};
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, Step};

use crate::archive::{
    BLOBS, CONTAINERD_NAME, INDEX_FILE, LAYOUT, LAYOUT_FILE, MANIFEST_FILE, REF_NAME, Saved,
    has_tag,
};
use crate::tag::tell;

/// How much is copied before somebody looks whether a signal came, in bytes.
const PIECE: u64 = 64 << 20;
/// How much is hashed at once, in bytes.
const CHUNK: usize = 256 << 10;

/// What is written, and where to.
struct Save {
    layout: Layout,
    /// The images, each with the names by which it was asked for.
    images: BTreeMap<Digest, (Image, BTreeSet<String>)>,
    output: Option<PathBuf>,
}

/// `save [-o FILE] IMAGE...`.
pub(crate) fn save(call: &mut Call) -> Result<()> {
    let (mut output, mut words) = (None, Vec::new());
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if matches!(&*option, "-o" | "--output") => {
                output = Some(PathBuf::from(call.value()?));
            }
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => words.push(word.to_string_lossy().into_owned()),
        }
    }
    if words.is_empty() {
        return Err(Error::new(Kind::Usage, "no image is named"));
    }
    if output.is_none() && io::stdout().is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            "stdout is a terminal, and an archive is written to it",
        )
        .hint("name a file with -o, or redirect it"));
    }
    let layout = Layout::open();
    let index = layout.index()?;
    let mut images = BTreeMap::new();
    for word in &words {
        let image = index.find(word)?;
        let (_, names) = images
            .entry(image.digest.clone())
            .or_insert_with(|| (image.clone(), BTreeSet::new()));
        // As docker: an id or a digest gives the image without a name.
        names.extend(
            Reference::parse(word)
                .ok()
                .filter(has_tag)
                .map(|name| name.to_string())
                .filter(|name| image.reference.as_ref() == Some(name)),
        );
    }
    let mut save = Save {
        layout,
        images,
        output,
    };
    call.run_steps(&mut save, vec![archive()])?;
    if !call.dry_run() {
        for (image, _) in save.images.values() {
            tell("save", image);
        }
    }
    Ok(())
}

fn archive() -> Step<Save> {
    Step::new(
        "pull.archive",
        "the blobs of the images, each checked on the way, and what says which of them is what",
    )
    .command(|c: &Save| {
        let root = c.layout.root().display().to_string();
        let file = c
            .output
            .as_deref()
            .map_or("-".into(), |file| quote(&file.display().to_string()));
        let blobs = c
            .images
            .values()
            .flat_map(|(image, _)| c.layout.blobs_of(image));
        let blobs: BTreeSet<String> = blobs
            .map(|digest| format!("{BLOBS}/{}", digest.hex()))
            .collect();
        let blobs: Vec<String> = blobs.into_iter().collect();
        vec![
            format!("# {LAYOUT_FILE}, {INDEX_FILE} and {MANIFEST_FILE} of these images, and:"),
            format!("tar -C {} -cf {file} {}", quote(&root), blobs.join(" ")),
        ]
    })
    .apply(|c| {
        // As long as it is held nobody removes a blob.
        let writer = c.layout.writer()?;
        match &c.output {
            None => {
                let stdout = io::stdout().as_fd().try_clone_to_owned();
                c.write(&writer, stdout.doing(|| "write to stdout".into())?.into())
            }
            Some(path) => into_file(path, |file| c.write(&writer, file)),
        }
    })
}

impl Save {
    fn write(&self, store: &Writer, to: File) -> Result<()> {
        let mut blobs = BTreeMap::new();
        let mut entries = Vec::new();
        let mut saved = Vec::new();
        for (image, names) in self.images.values() {
            let manifest = store.layout().manifest(image)?;
            blobs.insert(image.digest.clone(), image.size);
            for part in manifest.layers.iter().chain([&manifest.config]) {
                blobs.insert(part.digest.clone(), part.size);
            }
            let entry = Descriptor {
                media_type: image.media_type.clone(),
                digest: image.digest.clone(),
                size: image.size,
                annotations: BTreeMap::new(),
                platform: image.platform.clone(),
            };
            let with_name = |name: &String| {
                let names = [CONTAINERD_NAME, REF_NAME].map(|key| (key.to_owned(), name.clone()));
                Descriptor {
                    annotations: names.into(),
                    ..entry.clone()
                }
            };
            match names.is_empty() {
                true => entries.push(entry),
                false => entries.extend(names.iter().map(with_name)),
            }
            let path = |digest: &Digest| format!("{BLOBS}/{}", digest.hex());
            saved.push(Saved {
                config: path(&manifest.config.digest),
                repo_tags: (!names.is_empty()).then(|| names.iter().cloned().collect()),
                layers: Some(
                    manifest
                        .layers
                        .iter()
                        .map(|layer| path(&layer.digest))
                        .collect(),
                ),
            });
        }
        let index = ImageIndex {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests: entries,
        };
        let mut tar = Tar::new(to);
        small(&mut tar, LAYOUT_FILE, LAYOUT)?;
        small(&mut tar, INDEX_FILE, &json(&index)?)?;
        small(&mut tar, MANIFEST_FILE, &json(&saved)?)?;
        for folder in ["blobs/", &format!("{BLOBS}/")] {
            let mut entry = Entry::new(EntryKind::Directory, folder);
            entry.mode = 0o755;
            tar.append(&entry, &mut io::empty())?;
        }
        for (digest, size) in &blobs {
            blob(&mut tar, store.layout(), digest, *size)?;
        }
        tar.finish().map(drop)
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::new(Kind::Invalid, format!("cannot print as JSON: {error}")))
}

fn file_entry(name: &str, size: u64) -> Entry {
    let mut entry = Entry::new(EntryKind::File, name);
    entry.mode = 0o644;
    entry.size = size;
    entry
}

fn small(tar: &mut Tar<File>, name: &str, mut bytes: &[u8]) -> Result<()> {
    tar.append(&file_entry(name, bytes.len() as u64), &mut bytes)
}

/// Appends a blob. It is hashed on another thread while the kernel copies it, from pages that are then in memory anyway: a
/// blob that is damaged is noticed here, and not when the archive is all that is left.
fn blob(tar: &mut Tar<File>, layout: &Layout, digest: &Digest, size: u64) -> Result<()> {
    let (mut from, found) = layout.open_blob(digest)?;
    let (mut again, _) = layout.open_blob(digest)?;
    let damaged = || {
        let what = format!("the blob {digest} is damaged: its content or size is another");
        Error::new(Kind::Invalid, what).hint("pull the image again")
    };
    if found != size {
        return Err(damaged());
    }
    let doing = || format!("copy the blob {digest}");
    thread::scope(|scope| {
        let sum = scope.spawn(move || sum(&mut again));
        let copied = tar.append_with(
            &file_entry(&format!("{BLOBS}/{}", digest.hex()), size),
            |to| {
                let mut copied = 0;
                while copied < size {
                    interruption()?;
                    // By copy_file_range(2), sendfile(2) or splice(2), whichever the two descriptors allow.
                    match io::copy(&mut (&mut from).take(PIECE.min(size - copied)), to)
                        .doing(doing)?
                    {
                        0 => break,
                        more => copied += more,
                    }
                }
                Ok(copied)
            },
        );
        let sum = sum.join().map_err(|_| damaged())?.doing(doing)?;
        copied?;
        match sum == *digest {
            true => Ok(()),
            false => Err(damaged()),
        }
    })
}

fn sum(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Writes a file as a whole: it appears, or replaces what was there, when it is complete. What is no regular file (a pipe,
/// `/dev/null`) is written to as it is.
fn into_file(path: &Path, write: impl FnOnce(File) -> Result<()>) -> Result<()> {
    let doing = || format!("write {}", path.display());
    if fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        let file = OpenOptions::new().write(true).open(path).doing(doing)?;
        return write(file);
    }
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("'{}' is not the name of a file", path.display()),
        )
    })?);
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .doing(doing)?;
    let result = write(file).and_then(|()| fs::rename(&new, path).doing(doing));
    if result.is_err() {
        // The first error says it.
        let _ = fs::remove_file(&new);
    }
    result
}
