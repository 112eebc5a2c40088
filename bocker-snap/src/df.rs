//! `df`: what images, containers and volumes take on the disk, and what of it comes back when they go, as JSON Lines.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use bocker_pipe::layout::{Image, Layout};
use bocker_pipe::{Call, Id, Result, containers, lock, paths};
use serde::Serialize;

use crate::container::Folder;
use crate::parts::{self, Part, Parts};
use crate::{garbage, image, layers, names, volume};

/// What is summed up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Images,
    Containers,
    Volumes,
    /// What `gc` would remove, without grace.
    Leftovers,
}

const KINDS: [Kind; 4] = [
    Kind::Images,
    Kind::Containers,
    Kind::Volumes,
    Kind::Leftovers,
];

/// What was found at each path.
type Measured = HashMap<PathBuf, Parts>;

/// All of a kind, as one line.
#[derive(Serialize)]
struct Total {
    kind: Kind,
    count: usize,
    /// How many of them are in use.
    active: usize,
    size: u64,
    /// What comes back when all that are not in use go.
    reclaimable: u64,
}

/// One image, container or volume, as one line.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    what: &'a What,
    /// Bytes that it takes, whether others share them or not; of a container what it has written.
    size: u64,
    /// What others hold too.
    shared: u64,
    /// What comes back when it alone goes.
    unique: u64,
    /// Of a container what it has written and the layers that it stands on.
    #[serde(rename = "virtual", skip_serializing_if = "Option::is_none")]
    whole: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
enum What {
    Image {
        id: Id,
        references: Vec<String>,
        /// Those that are made of it.
        containers: Vec<Id>,
    },
    Container {
        id: Id,
        names: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        image: Option<Id>,
        running: bool,
    },
    Volume {
        name: String,
        containers: Vec<Id>,
    },
}

/// Who keeps something on the disk: what is measured at these paths.
struct Holder {
    kind: Kind,
    /// `None` for what nobody holds.
    what: Option<What>,
    active: bool,
    /// Its own.
    own: Vec<PathBuf>,
    /// What it stands on, which it keeps but has not written.
    below: Vec<PathBuf>,
}

/// What holds a part, while holders are gone through one after another.
#[derive(Default)]
struct Held {
    bytes: u64,
    holders: usize,
    /// Of these, those of each kind that are not in use.
    idle: [usize; 4],
    last: Option<usize>,
}

/// `df`.
pub(crate) fn df(call: &mut Call) -> Result<()> {
    call.no_more_args()?;
    parts::settle(&paths::root())?;
    let layout = Layout::open();
    let mut measured: Measured = HashMap::new();
    let holders = holders(&layout, &mut measured)?;
    for path in holders.iter().flat_map(Holder::paths) {
        measure(&mut measured, path, "")?;
    }
    let held = hold(&measured, &holders);
    for kind in KINDS {
        call.line(&total(kind, &measured, &held, &holders))?;
    }
    for holder in &holders {
        if let Some(what) = &holder.what {
            call.line(&line(what, &measured, &held, holder))?;
        }
    }
    Ok(())
}

fn hold<'a>(measured: &'a Measured, holders: &[Holder]) -> HashMap<&'a Part, Held> {
    let mut held: HashMap<&Part, Held> = HashMap::new();
    for (index, holder) in holders.iter().enumerate() {
        for (part, bytes) in parts_of(measured, holder.paths()) {
            let held = held.entry(part).or_default();
            held.bytes = held.bytes.max(*bytes);
            if held.last.replace(index) != Some(index) {
                held.holders += 1;
                held.idle[holder.kind as usize] += usize::from(!holder.active);
            }
        }
    }
    held
}

fn total(
    kind: Kind,
    measured: &Measured,
    held: &HashMap<&Part, Held>,
    holders: &[Holder],
) -> Total {
    let all: Vec<&Holder> = holders
        .iter()
        .filter(|holder| holder.kind == kind)
        .collect();
    let written: HashSet<&Part> = all
        .iter()
        .flat_map(|holder| holder.written(measured))
        .collect();
    let free = held
        .values()
        .filter(|part| part.idle[kind as usize] == part.holders);
    Total {
        kind,
        count: all.len(),
        active: all.iter().filter(|holder| holder.active).count(),
        size: written.into_iter().map(|part| held[part].bytes).sum(),
        reclaimable: free.map(|part| part.bytes).sum(),
    }
}

fn line<'a>(
    what: &'a What,
    measured: &Measured,
    held: &HashMap<&Part, Held>,
    holder: &Holder,
) -> Line<'a> {
    let all: HashSet<&Part> = parts_of(measured, holder.paths())
        .map(|(part, _)| part)
        .collect();
    let is_container = matches!(what, What::Container { .. });
    let whole = is_container.then(|| all.iter().map(|part| held[*part].bytes).sum());
    let alone = all.into_iter().filter(|part| held[part].holders == 1);
    let written = holder.written(measured);
    let size: u64 = written.iter().map(|part| held[part].bytes).sum();
    let shared = written.iter().filter(|part| held[*part].holders > 1);
    Line {
        what,
        size,
        shared: shared.map(|part| held[part].bytes).sum(),
        unique: alone.map(|part| held[part].bytes).sum(),
        whole,
    }
}

impl Holder {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.own.iter().chain(&self.below)
    }

    /// Its own parts, without what it stands on.
    fn written<'a>(&self, measured: &'a Measured) -> HashSet<&'a Part> {
        let below: HashSet<&Part> = parts_of(measured, self.below.iter())
            .map(|(part, _)| part)
            .collect();
        parts_of(measured, self.own.iter())
            .map(|(part, _)| part)
            .filter(|part| !below.contains(part))
            .collect()
    }
}

fn parts_of<'a, 'p>(
    measured: &'a Measured,
    paths: impl Iterator<Item = &'p PathBuf>,
) -> impl Iterator<Item = (&'a Part, &'a u64)> {
    paths.filter_map(|path| measured.get(path)).flatten()
}

fn measure(measured: &mut Measured, path: &Path, lineage: &str) -> Result<()> {
    if !measured.contains_key(path) {
        let own = path.to_string_lossy();
        let lineage = if lineage.is_empty() { &own } else { lineage };
        measured.insert(path.to_owned(), parts::of(path, lineage)?);
    }
    Ok(())
}

/// Everybody. Measures what has to be known to be a snapshot of something else.
fn holders(layout: &Layout, measured: &mut Measured) -> Result<Vec<Holder>> {
    let mut users: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    let mut holders = containers(measured, &mut users)?;
    for (id, names) in images(layout)? {
        let containers = users.remove(&id).unwrap_or_default();
        holders.push(Holder {
            kind: Kind::Images,
            active: !containers.is_empty(),
            own: image_paths(layout, &names, measured)?,
            below: Vec::new(),
            what: Some(What::Image {
                id,
                references: names
                    .into_iter()
                    .filter_map(|name| name.reference)
                    .collect(),
                containers,
            }),
        });
    }
    let mut users = volume::users()?;
    for volume in volume::all()? {
        let containers = users.remove(volume.name()).unwrap_or_default();
        holders.push(Holder {
            kind: Kind::Volumes,
            active: !containers.is_empty(),
            own: vec![paths::volumes().join(volume.name())],
            below: Vec::new(),
            what: Some(What::Volume {
                name: volume.name().to_owned(),
                containers,
            }),
        });
    }
    let leftovers = garbage::leftovers(layout)?.into_iter();
    holders.extend(leftovers.map(|path| Holder {
        kind: Kind::Leftovers,
        active: false,
        own: vec![path],
        below: Vec::new(),
        what: None,
    }));
    Ok(holders)
}

/// The containers, and for each image which are made of it.
fn containers(measured: &mut Measured, users: &mut BTreeMap<Id, Vec<Id>>) -> Result<Vec<Holder>> {
    let mut holders = Vec::new();
    for id in containers::list()? {
        let folder = Folder::of(&id);
        // One without a note is half made: what is there of it counts.
        let (layers, image) = match folder.snap() {
            Ok(snap) => (snap.layers, snap.image),
            Err(_) => Default::default(),
        };
        let below: Vec<PathBuf> = layers.iter().map(layers::path).collect();
        let lineage = layers.first().map_or("", |layer| layer.hex());
        for path in below.iter().map(PathBuf::as_path).chain([folder.path()]) {
            measure(measured, path, lineage)?;
        }
        if let Some(image) = &image {
            users.entry(image.clone()).or_default().push(id.clone());
        }
        let running = lock::is_alive(&id);
        holders.push(Holder {
            kind: Kind::Containers,
            // Nor does anyone remove one that is being made.
            active: running || !folder.is_handed_over(),
            own: vec![folder.path().to_owned()],
            below,
            what: Some(What::Container {
                names: names::names_of(&id)?,
                image,
                running,
                id,
            }),
        });
    }
    Ok(holders)
}

/// The blobs of an image, and its layers as far as they are unpacked.
fn image_paths(layout: &Layout, names: &[Image], measured: &mut Measured) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in names {
        let blobs = layout.blobs_of(name);
        paths.extend(blobs.iter().map(|blob| layout.blob(blob)));
        // Of one that is damaged, or another program's, nothing is unpacked.
        let unpacked = image::read(layout, name).map(|image| image.layers);
        let layers = unpacked.unwrap_or_default();
        let lineage = layers.first().map_or("", |layer| layer.chain_id.hex());
        for layer in &layers {
            let path = layers::path(&layer.chain_id);
            measure(measured, &path, lineage)?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The images with all their names.
fn images(layout: &Layout) -> Result<BTreeMap<Id, Vec<Image>>> {
    let mut images: BTreeMap<Id, Vec<Image>> = BTreeMap::new();
    for image in layout.images()? {
        images.entry(image.id.clone()).or_default().push(image);
    }
    Ok(images)
}
