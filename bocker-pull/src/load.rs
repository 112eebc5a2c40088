//! The verb `load`: images from an archive, compressed or not, or from the folder of an image layout.
//!
//! It is read once, from its beginning to its end, so that it may come through a pipe: what may be a blob goes into the store
//! under the digest that it has, whatever it is called; in the end the files that name blobs are read, and those that no image
//! leads to are removed again. No file of an archive ever gets a path of its own, and its links are followed among its own names.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bocker_pipe::compression::{self, Compression};
use bocker_pipe::layout::{
    CONFIG_MAX, Change, Descriptor, Digest, Image, ImageIndex, Layout, MANIFEST_MAX, Manifest,
    OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Platform, WHY_BLOBS, Writer,
};
use bocker_pipe::reference::Reference;
use bocker_pipe::step::{interruption, quote};
use bocker_pipe::tar::EntryKind;
use bocker_pipe::tar::read::Reader;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, Step};
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, fstat, openat2, statvfs};
use serde::de::DeserializeOwned;

use crate::archive::{
    self, BLOBS, INDEX_FILE, LAYOUT_FILE, MANIFEST_FILE, REPOSITORIES_FILE, Saved, is_index,
};
use crate::list::Line;
use crate::platform;
use crate::resolve::DEPTH_MAX;
use crate::tag::tell;

/// How many files and links of an archive are kept in mind.
const FILES_MAX: usize = 10_000;
/// How many links may lead to a file, one after another.
const LINKS_MAX: usize = 8;
/// How much is copied at once, in bytes.
const CHUNK: usize = 256 << 10;

/// Where images come from.
enum Input {
    Stdin,
    File(PathBuf, File),
    Folder(PathBuf, OwnedFd),
}

struct Load {
    layout: Layout,
    input: Input,
    writer: Option<Writer>,
    /// Blobs that were not there before.
    written: Vec<Digest>,
    files: Files,
    images: Vec<Found>,
    change: Change,
    loaded: Vec<Image>,
}

/// An image that the archive holds.
struct Found {
    manifest: Descriptor,
    platform: Platform,
    names: Vec<Reference>,
}

/// `load [-i FILE|DIR]`.
pub(crate) fn load(call: &mut Call) -> Result<()> {
    let mut from = None;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if matches!(&*option, "-i" | "--input") => {
                from = Some(PathBuf::from(call.value()?));
            }
            Arg::Option(option) if matches!(&*option, "-q" | "--quiet") => {}
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => {
                return Err(call
                    .unexpected(&word)
                    .hint("the archive is stdin, or named by -i"));
            }
        }
    }
    let mut load = Load {
        layout: Layout::open(),
        input: Input::open(from)?,
        writer: None,
        written: Vec::new(),
        files: Files::default(),
        images: Vec::new(),
        change: Change::default(),
        loaded: Vec::new(),
    };
    call.run_steps(&mut load, vec![store(), read(), manifests(), index()])?;
    let tidied = call.engine().tear_down(&mut load, vec![blobs()]);
    for image in load.loaded {
        if !call.dry_run() {
            tell("load", &image);
        }
        call.line(&Line::new(&load.layout, image))?;
    }
    tidied
}

impl Input {
    fn open(from: Option<PathBuf>) -> Result<Input> {
        let Some(path) = from else {
            if io::stdin().is_terminal() {
                return Err(Error::new(
                    Kind::Usage,
                    "stdin is a terminal, and an archive is read from it",
                )
                .hint("name a file with -i, or redirect it"));
            }
            return Ok(Input::Stdin);
        };
        let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        let is_folder = file.metadata().is_ok_and(|data| data.is_dir());
        Ok(match is_folder {
            true => Input::Folder(path, file.into()),
            false => Input::File(path, file),
        })
    }

    /// The command that unpacks what may be of use.
    fn command(&self, into: &str) -> String {
        let into = quote(into);
        match self {
            Input::Stdin => format!("tar -C {into} -x {BLOBS}"),
            Input::File(path, _) => {
                let path = quote(&path.display().to_string());
                format!("tar -C {into} -xf {path} {BLOBS}")
            }
            Input::Folder(path, _) => {
                let path = quote(&path.join(BLOBS).display().to_string());
                format!("cp -n {path}/* {into}/{BLOBS}/")
            }
        }
    }
}

fn store() -> Step<Load> {
    Step::new(
        "pull.store",
        "the image store is there, and as long as the archive is read nobody removes blobs from it",
    )
    .command(|c: &Load| {
        let blobs = c.layout.root().join(BLOBS).display().to_string();
        vec![format!("mkdir -p {}", quote(&blobs))]
    })
    .apply(|c| {
        c.writer = Some(c.layout.writer()?);
        Ok(())
    })
    // All blobs go here: only together can they be checked against what else is in the store.
    .undo(|c| c.discard())
}

fn read() -> Step<Load> {
    Step::new(
        "pull.archive",
        "the files of the archive, each in the store under its digest; there is no other place that it could ask for",
    )
    .command(|c: &Load| vec![c.input.command(&c.layout.root().display().to_string())])
    .apply(Load::read)
}

fn manifests() -> Step<Load> {
    Step::new(
        "pull.manifest",
        "the manifests and configurations are checked; what has none, as docker saved it, is given one",
    )
    .command(|c: &Load| {
        let line = |found: &Found| format!("# {} is an image", found.manifest.digest);
        c.images.iter().map(line).collect()
    })
    .apply(|c| {
        c.images = c.find()?;
        Ok(())
    })
}

fn index() -> Step<Load> {
    Step::new(
        "pull.index",
        "the entries in index.json that give the images their names; from here on they can be seen",
    )
    .command(|c: &Load| c.loaded.iter().map(Image::entry_line).collect())
    .look(|c| c.layout.look_at_index())
    .apply(|c| {
        let images = &c.images;
        let writer = opened(&c.writer)?;
        c.loaded = c.change.make(writer, |index| {
            let mut loaded = Vec::new();
            for found in images {
                let id = index.id_for(&found.manifest.digest)?;
                let names = found.names.iter().map(|name| Some(name.to_string()));
                let nameless = found.names.is_empty().then_some(None);
                for reference in names.chain(nameless) {
                    let image = Image {
                        id: id.clone(),
                        reference,
                        media_type: found.manifest.media_type.clone(),
                        digest: found.manifest.digest.clone(),
                        size: found.manifest.size,
                        platform: Some(found.platform.clone()),
                        source: None,
                    };
                    // Loaded once more, an image keeps the entry that it has.
                    let is_same = |other: &Image| {
                        other.reference == image.reference && other.digest == image.digest
                    };
                    if !index.images().iter().any(is_same) {
                        index.put(&image);
                    }
                    loaded.push(image);
                }
            }
            Ok(loaded)
        })?;
        Ok(())
    })
    .undo(|c| c.change.undo(opened(&c.writer)?))
}

fn blobs() -> Step<Load> {
    Step::new("pull.blobs", WHY_BLOBS).apply(Load::discard)
}

fn opened(writer: &Option<Writer>) -> Result<&Writer> {
    writer
        .as_ref()
        .ok_or_else(|| Error::new(Kind::Invalid, "the image store is not open"))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, what)
}

impl Load {
    /// Removes what was written and nothing leads to.
    fn discard(&mut self) -> Result<()> {
        let written = std::mem::take(&mut self.written);
        match self.writer.take() {
            Some(writer) => writer.discard(&written),
            None => Ok(()),
        }
    }

    fn read(&mut self) -> Result<()> {
        let writer = opened(&self.writer)?;
        let free = statvfs(self.layout.root()).doing(|| "ask for free space".into())?;
        let mut intake = Intake {
            writer,
            written: &mut self.written,
            files: &mut self.files,
            free: free.f_bavail.saturating_mul(free.f_frsize),
            buffer: vec![0; CHUNK],
        };
        match &mut self.input {
            Input::Stdin => intake.archive(io::stdin().lock()),
            Input::File(_, file) => intake.archive(file),
            Input::Folder(_, folder) => intake.folder(folder),
        }
    }

    /// The images that the archive says it holds.
    fn find(&mut self) -> Result<Vec<Found>> {
        if let Some(layout) = &self.files.layout {
            let version: serde_json::Value = json(layout, LAYOUT_FILE)?;
            if version["imageLayoutVersion"] != "1.0.0" {
                return Err(Error::new(
                    Kind::Version,
                    "the archive is an image layout of another version than 1.0.0",
                ));
            }
        }
        let found = match (&self.files.index, &self.files.manifest) {
            (Some(index), _) => {
                let index: ImageIndex = json(index, INDEX_FILE)?;
                self.of_index(&index.manifests)?
            }
            (None, Some(saved)) => {
                let saved: Vec<Saved> = json(saved, MANIFEST_FILE)?;
                saved
                    .iter()
                    .map(|saved| self.of_saved(saved))
                    .collect::<Result<_>>()?
            }
            (None, None) if self.files.is_ancient => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "the archive is of docker before 1.10, which knew no digests",
                )
                .hint("load it with an old docker, and save it with a newer one"));
            }
            (None, None) => {
                return Err(invalid(
                    "the archive holds no images: it has neither index.json nor manifest.json",
                )
                .hint("an archive of files is made an image by 'bocker-snap init -'"));
            }
        };
        match found.is_empty() {
            true => Err(invalid("the archive holds no image")),
            false => Ok(found),
        }
    }

    fn of_index(&self, entries: &[Descriptor]) -> Result<Vec<Found>> {
        let mut all: Vec<Found> = Vec::new();
        for entry in entries
            .iter()
            .filter(|entry| !platform::is_attestation(entry))
        {
            let mut manifest = entry.clone();
            let mut depth = 0;
            while is_index(&manifest.media_type) {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(invalid(format!(
                        "the archive nests indexes more than {DEPTH_MAX} deep"
                    )));
                }
                let index: ImageIndex = json(&self.blob(&manifest, MANIFEST_MAX)?, "an index")?;
                // Of an image for many machines, an archive holds those that somebody had.
                let mut here = index.manifests;
                here.retain(|child| self.layout.has(child));
                let host = platform::host();
                manifest = platform::choose(&host, &here).cloned().ok_or_else(|| {
                    let (host, offered) = (platform::show(&host), platform::offers(&here));
                    invalid(format!(
                        "the archive holds nothing for {host}, but for {offered}"
                    ))
                })?;
            }
            let found = self.image(manifest, archive::name_of(entry))?;
            match all
                .iter_mut()
                .find(|other| other.manifest.digest == found.manifest.digest)
            {
                Some(other) => other.names.extend(found.names),
                None => all.push(found),
            }
        }
        Ok(all)
    }

    /// An image by its manifest, if all of it is here.
    fn image(&self, descriptor: Descriptor, name: Option<Reference>) -> Result<Found> {
        let manifest = archive::manifest(&descriptor, &self.blob(&descriptor, MANIFEST_MAX)?)?;
        let config = self.blob(&manifest.config, CONFIG_MAX)?;
        let config = archive::config(&config, manifest.layers.len())?;
        if let Some(layer) = manifest.layers.iter().find(|layer| !self.layout.has(layer)) {
            return Err(lacks(layer));
        }
        Ok(Found {
            platform: descriptor
                .platform
                .clone()
                .unwrap_or_else(|| config.platform()),
            manifest: descriptor,
            names: name.into_iter().collect(),
        })
    }

    /// A small blob that something leads to.
    fn blob(&self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>> {
        match self.layout.has(descriptor) {
            true => self.layout.read_blob(&descriptor.digest, max),
            false => Err(lacks(descriptor)),
        }
    }

    /// An image as docker saved it: configuration and layers, but no manifest, which is made here.
    fn of_saved(&mut self, saved: &Saved) -> Result<Found> {
        let paths = saved.layers.as_deref().unwrap_or_default();
        let config = self.files.find(&saved.config)?.descriptor(OCI_CONFIG);
        let settings = self.blob(&config, CONFIG_MAX)?;
        let settings = archive::config(&settings, paths.len())?;
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(&settings.rootfs.diff_ids) {
            let file = self.files.find(path)?;
            let suffix = match self.compression(&file.digest)? {
                Compression::Gzip => "+gzip",
                Compression::Zstd => "+zstd",
                Compression::None if file.digest == *diff_id => "",
                Compression::Xz | Compression::Bzip2 => {
                    let what =
                        format!("the layer '{path}' in the archive is compressed by xz or bzip2");
                    return Err(Error::new(Kind::Unsupported, what).hint(
                        "an image has plain layers, or such that gzip or zstd has compressed",
                    ));
                }
                Compression::None => {
                    return Err(invalid(format!(
                        "the layer '{path}' in the archive is not what its image's configuration says"
                    )));
                }
            };
            layers.push(file.descriptor(&format!("{OCI_LAYER}{suffix}")));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config,
            layers,
        };
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|error| invalid(format!("cannot print as JSON: {error}")))?;
        let digest = Digest::of(&bytes);
        if !self.layout.blob(&digest).exists() {
            opened(&self.writer)?.write_blob(OCI_MANIFEST, &bytes)?;
            self.written.push(digest.clone());
        }
        let mut names = Vec::new();
        for tag in saved.repo_tags.iter().flatten() {
            names.push(Reference::parse(tag)?);
        }
        names.retain(archive::has_tag);
        Ok(Found {
            manifest: Descriptor {
                media_type: OCI_MANIFEST.to_owned(),
                digest,
                size: bytes.len() as u64,
                annotations: Default::default(),
                platform: None,
            },
            platform: settings.platform(),
            names,
        })
    }

    fn compression(&self, digest: &Digest) -> Result<Compression> {
        let (file, _) = self.layout.open_blob(digest)?;
        let mut head = Vec::new();
        file.take(Compression::MAGIC as u64)
            .read_to_end(&mut head)
            .doing(|| format!("read the blob {digest}"))?;
        Ok(Compression::of(&head))
    }
}

fn lacks(blob: &Descriptor) -> Error {
    let Descriptor { digest, size, .. } = blob;
    invalid(format!(
        "the archive lacks the blob {digest} of {size} bytes, which an image in it consists of"
    ))
}

fn json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("{what} of the archive cannot be read: {error}")))
}

/// What an archive holds, by the names in it.
#[derive(Default)]
struct Files {
    layout: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
    is_ancient: bool,
    stored: HashMap<String, Stored>,
    links: HashMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Stored {
    digest: Digest,
    size: u64,
}

impl Stored {
    fn descriptor(&self, media_type: &str) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: self.digest.clone(),
            size: self.size,
            annotations: Default::default(),
            platform: None,
        }
    }
}

impl Files {
    /// The file that a path in the archive means, by way of links in the archive.
    fn find(&self, path: &str) -> Result<&Stored> {
        let mut name = normal(path, "")?;
        for _ in 0..=LINKS_MAX {
            if let Some(file) = self.stored.get(&name) {
                return Ok(file);
            }
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => return Err(invalid(format!("the archive lacks its file '{path}'"))),
            }
        }
        Err(invalid(format!(
            "too many links lead from '{path}' in the archive"
        )))
    }

    fn count(&self) -> Result<()> {
        match self.stored.len() + self.links.len() < FILES_MAX {
            true => Ok(()),
            false => Err(invalid(format!(
                "the archive holds more than {FILES_MAX} files"
            ))),
        }
    }
}

/// A path without `.` and `..`, seen from a folder of the archive. Fails when it leads out.
fn normal(path: &str, folder: &str) -> Result<String> {
    let mut parts: Vec<&str> = Vec::new();
    let beginning = if path.starts_with('/') { "" } else { folder };
    for part in beginning.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts
                    .pop()
                    .ok_or_else(|| invalid(format!("'{path}' leads out of the archive")))?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Takes what may be of use into the store.
struct Intake<'a> {
    writer: &'a Writer,
    written: &'a mut Vec<Digest>,
    files: &'a mut Files,
    /// How many bytes may still be taken.
    free: u64,
    buffer: Vec<u8>,
}

impl Intake<'_> {
    fn archive(&mut self, from: impl Read) -> Result<()> {
        let stream = compression::decoder(from).doing(|| "read the archive".into())?;
        let mut reader = Reader::new(stream);
        while let Some(entry) = reader.next()? {
            interruption()?;
            // A name that is no text is none that anything in the archive could lead to.
            let Ok(path) = String::from_utf8(entry.path) else {
                continue;
            };
            match entry.kind {
                EntryKind::File if entry.sparse.is_some() => {
                    return Err(invalid(format!("'{path}' in the archive is sparse")));
                }
                EntryKind::File => self.file(&path, entry.size, &mut reader)?,
                EntryKind::Symlink | EntryKind::HardLink => {
                    let Ok(target) = String::from_utf8(entry.link) else {
                        continue;
                    };
                    let name = normal(&path, "")?;
                    // A hard link's target is seen from the top, a symbolic link's from where that is.
                    let folder = match entry.kind {
                        EntryKind::Symlink => {
                            name.rsplit_once('/').map_or("", |(folder, _)| folder)
                        }
                        _ => "",
                    };
                    let target = normal(&target, folder)?;
                    self.files.count()?;
                    self.files.links.insert(name, target);
                }
                _ => {}
            }
        }
        reader.finish()
    }

    /// The blobs of an image layout that lies in a folder. Links in it are not followed.
    fn folder(&mut self, folder: &OwnedFd) -> Result<()> {
        let open = |path: &str, flags: OFlags| -> rustix::io::Result<OwnedFd> {
            let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            openat2(folder.as_fd(), path, flags, Mode::empty(), resolve)
        };
        let mut names = vec![LAYOUT_FILE.to_owned(), INDEX_FILE.to_owned()];
        let doing = || format!("read the folder {BLOBS}");
        let blobs = open(BLOBS, OFlags::DIRECTORY).doing(doing)?;
        for entry in Dir::read_from(blobs).doing(doing)? {
            let entry = entry.doing(doing)?;
            if let Ok(name) = entry.file_name().to_str() {
                names.push(format!("{BLOBS}/{name}"));
            }
        }
        for name in names {
            interruption()?;
            let doing = || format!("read {name}");
            let file = match open(&name, OFlags::empty()) {
                Err(rustix::io::Errno::NOENT) => continue,
                file => file.doing(doing)?,
            };
            let data = fstat(&file).doing(doing)?;
            if rustix::fs::FileType::from_raw_mode(data.st_mode).is_file() {
                self.file(&name, data.st_size.cast_unsigned(), &mut File::from(file))?;
            }
        }
        Ok(())
    }

    /// One regular file.
    fn file(&mut self, path: &str, size: u64, data: &mut impl Read) -> Result<()> {
        let name = normal(path, "")?;
        let small = match name.as_str() {
            LAYOUT_FILE => &mut self.files.layout,
            INDEX_FILE => &mut self.files.index,
            MANIFEST_FILE => &mut self.files.manifest,
            REPOSITORIES_FILE => {
                self.files.is_ancient = true;
                return Ok(());
            }
            _ => return self.blob(name, size, data),
        };
        if size > MANIFEST_MAX || small.is_some() {
            return Err(invalid(format!(
                "'{name}' in the archive has more than {MANIFEST_MAX} bytes, or is there twice"
            )));
        }
        let mut bytes = Vec::new();
        data.take(size)
            .read_to_end(&mut bytes)
            .doing(|| format!("read '{name}' of the archive"))?;
        *small = Some(bytes);
        Ok(())
    }

    /// What may be a blob: by its name in a layout, a configuration or a layer as docker saves them.
    fn blob(&mut self, name: String, size: u64, data: &mut impl Read) -> Result<()> {
        let promised = name.strip_prefix(BLOBS).and_then(|rest| {
            let hex = rest.strip_prefix('/')?;
            Digest::parse(&format!("sha256:{hex}")).ok()
        });
        let is_saved = name.ends_with(".tar") || name.ends_with(".json") && !name.contains('/');
        if promised.is_none() && !is_saved {
            return Ok(());
        }
        self.files.count()?;
        let known = promised.as_ref().map(|digest| Stored {
            digest: digest.clone(),
            size,
        });
        let stored = match known.filter(|known| self.writer.layout().has(&known.descriptor(""))) {
            Some(known) => known,
            None => self.take(&name, size, promised.as_ref(), data)?,
        };
        match self.files.stored.insert(name.clone(), stored.clone()) {
            Some(other) if other != stored => Err(invalid(format!(
                "'{name}' is in the archive twice, and each time another"
            ))),
            _ => Ok(()),
        }
    }

    /// Stores a file under the digest that it has, which is the one that is promised if one is.
    fn take(
        &mut self,
        name: &str,
        size: u64,
        promised: Option<&Digest>,
        data: &mut impl Read,
    ) -> Result<Stored> {
        let doing = || format!("store '{name}' of the archive");
        if size > self.free {
            return Err(invalid(format!(
                "'{name}' in the archive has {size} bytes, and {} are free",
                self.free
            )));
        }
        self.free -= size;
        let mut ingest = self.writer.ingest_new()?;
        let mut data = data.take(size);
        loop {
            match data.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => ingest.write_all(&self.buffer[..count]).doing(doing)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).doing(doing),
            }
            interruption()?;
        }
        if ingest.size() != size {
            return Err(invalid(format!("'{name}' in the archive is cut short")));
        }
        let stored = Stored {
            digest: ingest.digest(),
            size,
        };
        if promised.is_some_and(|promised| *promised != stored.digest) {
            return Err(invalid(format!(
                "'{name}' in the archive is not what it is called: it is {}",
                stored.digest
            )));
        }
        if !self.writer.layout().has(&stored.descriptor("")) {
            ingest.commit()?;
            self.written.push(stored.digest.clone());
        }
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_seen_from_its_folder_and_never_leads_out() {
        for (path, folder, expected) in [
            ("./a//b/.", "", "a/b"),
            ("../b/layer.tar", "a", "b/layer.tar"),
            ("/x", "a", "x"),
            ("a/../b", "", "b"),
        ] {
            assert_eq!(normal(path, folder).unwrap(), expected, "{path}");
        }
        for (path, folder) in [("..", ""), ("../../x", "a"), ("/..", "a"), ("a/../..", "")] {
            assert_eq!(normal(path, folder).unwrap_err().kind(), &Kind::Invalid);
        }
    }

    #[test]
    fn links_are_followed_among_the_archives_own_names_and_not_round_and_round() {
        let mut files = Files::default();
        let stored = Stored {
            digest: Digest::of(b"x"),
            size: 1,
        };
        files.stored.insert("x.tar".into(), stored.clone());
        for (name, target) in [
            ("a/layer.tar", "b/layer.tar"),
            ("b/layer.tar", "x.tar"),
            ("c", "d"),
            ("d", "c"),
        ] {
            files.links.insert(name.into(), target.into());
        }
        assert_eq!(files.find("a/layer.tar").unwrap(), &stored);
        assert!(
            files
                .find("c")
                .unwrap_err()
                .to_string()
                .contains("too many links")
        );
        assert!(
            files
                .find("e")
                .unwrap_err()
                .to_string()
                .contains("lacks its file 'e'")
        );
    }
}
