//! Images made by hand, byte for byte: every kind of entry that a layer can hold, written as an OCI image layout.
//! Sources: OCI image-spec layer.md (whiteouts, hard links), image-layout.md, config.md.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::bins::cache_dir;

/// A static busybox: all the programs of the images.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// The time of every file: images are the same bytes on every run.
const MTIME: u64 = 1_420_070_400;

/// A capability of a file as `setcap cap_net_raw+ep` writes it: revision 2, effective, permitted bit 13
/// (capabilities(7), `struct vfs_cap_data`).
pub(crate) const CAP_NET_RAW_EP: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// What an entry of a layer is.
#[derive(Debug, Clone, Hash)]
pub enum Node {
    /// A regular file with these bytes.
    File(Vec<u8>),
    /// A directory.
    Dir,
    /// A symbolic link to this.
    Symlink(String),
    /// Another name of this entry, which may be of a layer beneath.
    Hardlink(String),
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// These blocks, as they are; the path counts for nothing.
    Raw(Vec<u8>),
}

#[derive(Debug, Clone, Hash)]
struct Entry {
    path: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    /// Records of an extended header (pax).
    records: Vec<(String, Vec<u8>)>,
    node: Node,
}

/// One layer: entries in the order in which they stand in the archive.
#[derive(Debug, Clone, Default, Hash)]
pub struct Layer {
    entries: Vec<Entry>,
}

impl Layer {
    /// A layer without entries.
    #[must_use]
    pub fn new() -> Layer {
        Layer::default()
    }

    /// Adds an entry; the path is taken as it is, absolute and `..` included.
    #[must_use]
    pub fn node(mut self, path: impl AsRef<[u8]>, mode: u32, node: Node) -> Layer {
        self.entries.push(Entry {
            path: path.as_ref().into(),
            mode,
            owner: (0, 0),
            records: Vec::new(),
            node,
        });
        self
    }

    /// Adds a regular file with mode 0644.
    #[must_use]
    pub fn file(self, path: impl AsRef<[u8]>, bytes: impl Into<Vec<u8>>) -> Layer {
        self.node(path, 0o644, Node::File(bytes.into()))
    }

    /// Adds a directory with mode 0755.
    #[must_use]
    pub fn dir(self, path: impl AsRef<[u8]>) -> Layer {
        self.node(path, 0o755, Node::Dir)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.node(path, 0o777, Node::Symlink(target.into()))
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Layer {
        self.node(path, 0o644, Node::Hardlink(target.into()))
    }

    /// Hides an entry of the layers beneath (`.wh.<name>`).
    #[must_use]
    pub fn whiteout(self, path: &str) -> Layer {
        match path.rsplit_once('/') {
            Some((dir, name)) => self.file(format!("{dir}/.wh.{name}"), ""),
            None => self.file(format!(".wh.{path}"), ""),
        }
    }

    /// Hides everything that the layers beneath have in a directory (`.wh..wh..opq`).
    #[must_use]
    pub fn opaque(self, dir: &str) -> Layer {
        self.file(format!("{dir}/.wh..wh..opq"), "")
    }

    /// Gives the last entry an owner.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Layer {
        if let Some(last) = self.entries.last_mut() {
            last.owner = (uid, gid);
        }
        self
    }

    /// Gives the last entry an extended attribute.
    #[must_use]
    pub fn xattr(self, name: &str, value: impl Into<Vec<u8>>) -> Layer {
        self.record(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Gives the last entry a time of modification, in decimal seconds.
    #[must_use]
    pub fn time(self, seconds: &str) -> Layer {
        self.record("mtime", seconds)
    }

    /// Gives the last entry a record of an extended header (pax).
    #[must_use]
    pub fn record(mut self, key: &str, value: impl Into<Vec<u8>>) -> Layer {
        if let Some(last) = self.entries.last_mut() {
            last.records.push((key.into(), value.into()));
        }
        self
    }

    /// Moves all of it into a directory, with the targets of hard links, and of symbolic ones that are absolute.
    #[must_use]
    pub fn below(mut self, dir: &str) -> Layer {
        for entry in &mut self.entries {
            entry.path = [dir.as_bytes(), b"/", &entry.path].concat();
            match &mut entry.node {
                Node::Hardlink(target) if !target.starts_with('/') => {
                    *target = format!("{dir}/{target}");
                }
                Node::Hardlink(target) | Node::Symlink(target) if target.starts_with('/') => {
                    *target = format!("/{dir}{target}");
                }
                _ => {}
            }
        }
        self
    }

    /// Adds the entries of another layer after these.
    #[must_use]
    pub fn and(mut self, other: Layer) -> Layer {
        self.entries.extend(other.entries);
        self
    }

    /// Adds busybox as `bin/busybox`, with all its applets as symbolic links.
    ///
    /// # Panics
    /// When it is not installed.
    #[must_use]
    pub fn busybox(self) -> Layer {
        let busybox = fs::read(BUSYBOX).expect("busybox-static is installed");
        let mut layer = self
            .dir("bin")
            .node("bin/busybox", 0o755, Node::File(busybox));
        for applet in applets() {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        layer
    }

    /// The layer as an uncompressed archive.
    ///
    /// # Panics
    /// When the archive's format has no place for something.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for e in &self.entries {
            let (kind, bytes, link, device) = match &e.node {
                Node::File(bytes) => (EntryType::Regular, &bytes[..], "", None),
                Node::Dir => (EntryType::Directory, &[][..], "", None),
                Node::Symlink(target) => (EntryType::Symlink, &[][..], target.as_str(), None),
                Node::Hardlink(target) => (EntryType::Link, &[][..], target.as_str(), None),
                Node::Char(a, i) => (EntryType::Char, &[][..], "", Some((*a, *i))),
                Node::Block(a, i) => (EntryType::Block, &[][..], "", Some((*a, *i))),
                Node::Fifo => (EntryType::Fifo, &[][..], "", None),
                Node::Raw(blocks) => {
                    tar.get_mut().extend_from_slice(blocks);
                    continue;
                }
            };
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(e.mode);
            header.set_uid(e.owner.0);
            header.set_gid(e.owner.1);
            header.set_mtime(MTIME);
            header.set_size(bytes.len() as u64);
            if let Some((major, minor)) = device {
                header.set_device_major(major).expect("a GNU header");
                header.set_device_minor(minor).expect("a GNU header");
            }
            // The names go in as they are: the tar crate rightly refuses paths that leave the root, and hostile
            // images hold them. What does not fit the header goes into an extended one (pax).
            let mut extended: Vec<(String, &[u8])> = Vec::new();
            let old = header.as_old_mut();
            for (name, field, value) in [
                ("path", &mut old.name, e.path.as_slice()),
                ("linkpath", &mut old.linkname, link.as_bytes()),
            ] {
                let fits = value.len().min(field.len());
                field[..fits].copy_from_slice(&value[..fits]);
                if fits < value.len() {
                    extended.push((name.into(), value));
                }
            }
            for (key, value) in &e.records {
                extended.push((key.clone(), value));
            }
            if !extended.is_empty() {
                tar.append_pax_extensions(extended.iter().map(|(n, v)| (n.as_str(), *v)))
                    .expect("an extended header");
            }
            header.set_cksum();
            tar.append(&header, bytes).expect("an entry in an archive");
        }
        tar.into_inner().expect("the end of an archive")
    }
}

/// The names of busybox's applets.
///
/// # Panics
/// When busybox is not installed.
pub(crate) fn applets() -> Vec<String> {
    let list = Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .expect("busybox-static is installed");
    String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|applet| *applet != "busybox")
        .map(str::to_owned)
        .collect()
}

/// One platform's image: its layers, lowest first, and its configuration.
#[derive(Debug, Clone)]
pub struct Platform {
    /// `amd64`, `arm64` and so on, as Go calls them.
    pub architecture: String,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// The `config` object of the image's configuration.
    pub config: Value,
    /// The annotations of the manifest.
    pub annotations: Value,
}

impl Platform {
    /// An image for this machine.
    #[must_use]
    pub fn new(layers: Vec<Layer>, config: Value) -> Platform {
        Platform {
            architecture: machine().into(),
            layers,
            config,
            annotations: json!({}),
        }
    }
}

/// The machine's architecture as images name it.
fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An OCI image layout on disk with one image (or one index) in it.
#[derive(Debug, Clone)]
pub struct Image {
    layout: PathBuf,
}

impl Image {
    /// The folder of the layout: what `skopeo` takes as `oci:DIR`.
    #[must_use]
    pub fn layout(&self) -> &Path {
        &self.layout
    }

    /// Writes an image of one platform.
    ///
    /// # Panics
    /// When the disk is full or not writable.
    #[must_use]
    pub fn single(platform: &Platform) -> Image {
        cached(std::slice::from_ref(platform), |layout| {
            let manifest = layout.platform(platform);
            layout.index(&[manifest]);
        })
    }

    /// Writes an image of several platforms behind one index, as multi-platform images are published.
    ///
    /// # Panics
    /// When the disk is full or not writable.
    #[must_use]
    pub fn index(platforms: &[Platform]) -> Image {
        cached(platforms, |layout| {
            let manifests: Vec<Value> = platforms.iter().map(|p| layout.platform(p)).collect();
            let index =
                json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
            let index = layout.json(INDEX_TYPE, &index);
            layout.index(&[index]);
        })
    }

    /// Writes images into one layout, each with its name: what lies below, and an archive that is written byte for byte. Answers the
    /// archives' blobs too. Nothing is kept in memory, and nothing for another test.
    ///
    /// # Panics
    /// When the disk is full or not writable.
    #[must_use]
    pub fn named(dir: &Path, images: Vec<(String, Layer, Archive)>) -> (Image, Vec<PathBuf>) {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("a folder for images");
        let layout = Layout { dir: dir.into() };
        let mut manifests = Vec::new();
        let mut blobs = Vec::new();
        for (name, below, archive) in images {
            let below = layout.layer(|to| to.write_all(&below.tar()));
            let above = layout.layer(archive);
            blobs.push(layout.path(above.0["digest"].as_str().expect("a digest")));
            let mut manifest = layout.manifest(machine(), &json!({}), &json!({}), &[below, above]);
            manifest["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            manifests.push(manifest);
        }
        layout.index(&manifests);
        let layout = dir.into();
        (Image { layout }, blobs)
    }

    /// One layer: busybox, `/etc/passwd` with the users root and app (1000), and nothing special. Its command is `sh`.
    #[must_use]
    pub fn simple() -> Image {
        Image::single(&Platform::new(
            vec![base()],
            json!({"Env": [PATH], "Cmd": ["sh"]}),
        ))
    }

    /// Four layers with every kind of entry there is: see `full_layers` in this file, which tests quote.
    #[must_use]
    pub fn full() -> Image {
        Image::single(&Platform::new(
            full_layers(),
            json!({
                "Env": [PATH, "FIXTURE=from the image"],
                "Entrypoint": null,
                "Cmd": ["cat", "hello"],
                "WorkingDir": "/data",
                "User": "app",
                "Labels": {"org.example.fixture": "full"},
                "StopSignal": "SIGUSR1",
                "ExposedPorts": {"8080/tcp": {}}
            }),
        ))
    }

    /// An index of two platforms: this machine's (whose `/arch` says so) and another one's.
    #[must_use]
    pub fn two_platforms() -> Image {
        let other = if machine() == "arm64" {
            "amd64"
        } else {
            "arm64"
        };
        let platforms = [other, machine()].map(|architecture| Platform {
            architecture: architecture.into(),
            ..Platform::new(
                vec![base(), Layer::new().file("arch", architecture)],
                json!({"Env": [PATH], "Cmd": ["cat", "/arch"]}),
            )
        });
        Image::index(&platforms)
    }

    /// An image whose `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`, `/dev`, `/proc` and `/sys` are absolute
    /// symbolic links to `target`, a folder of the host: whoever follows them as root writes there.
    #[must_use]
    pub fn links_to_the_host(target: &Path) -> Image {
        let target = target.display().to_string();
        let mut layer = base();
        for file in ["resolv.conf", "hosts", "hostname", "mtab"] {
            layer = layer.symlink(&format!("etc/{file}"), &format!("{target}/{file}"));
        }
        for dir in ["dev", "proc", "sys"] {
            layer = layer.symlink(dir, &format!("{target}/{dir}"));
        }
        Image::single(&Platform::new(
            vec![layer],
            json!({"Env": [PATH], "Cmd": ["sh"]}),
        ))
    }

    /// An image whose labels, environment, annotations and file names imitate every key and path that a tool honours.
    /// `program` is what the imitated keys name: it must never run.
    #[must_use]
    pub fn imitation(program: &Path) -> Image {
        Image::single(&imitation(&program.display().to_string()))
    }
}

/// What writes an archive.
pub type Archive = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()>>;

/// The usual PATH of images.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/data:/bin/sh\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nextra:x:2000:app\n";

/// Busybox and the least that programs expect.
fn base() -> Layer {
    Layer::new()
        .busybox()
        .dir("etc")
        .file("etc/passwd", PASSWD)
        .file("etc/group", GROUP)
        .node("root", 0o700, Node::Dir)
        .node("tmp", 0o1777, Node::Dir)
}

fn full_layers() -> Vec<Layer> {
    let long = format!("long/{}/{}", "d".repeat(90), "f".repeat(120));
    let lowest = base()
        .dir("usr")
        .dir("usr/lib")
        .dir("usr/bin")
        .symlink("lib", "usr/lib")
        .symlink("absolute", "/usr/lib")
        .dir("data")
        .owner(1000, 1000)
        .file("data/hello", "hello from the image\n")
        .file("data/linked", "one file, three names\n")
        .hardlink("data/linked-too", "data/linked")
        .file("etc/removed", "gone in the second layer\n")
        .dir("var")
        .dir("var/old")
        .file("var/old/kept", "kept\n")
        .file("var/old/removed", "removed\n")
        .dir("opt")
        .dir("opt/opaque")
        .file("opt/opaque/one", "hidden by the opaque whiteout\n")
        .dir("opt/opaque/two")
        .file("opt/opaque/two/deep", "hidden too\n")
        .dir("opt/gone")
        .file("opt/gone/file", "goes with its directory\n")
        .file("becomes-dir", "a file at first\n")
        .dir("becomes-file")
        .file("becomes-file/inside", "in a directory at first\n")
        .file("order", "the first layer\n");
    let second = Layer::new()
        .whiteout("etc/removed")
        .whiteout("var/old/removed")
        .whiteout("opt/gone")
        // A hard link whose target is in the layer beneath.
        .hardlink("data/linked-across", "data/linked")
        // Through the symbolic link of the layer beneath, as Debian's merged /usr does it.
        .file("lib/through-link", "in /usr/lib\n")
        .file("order", "the second layer\n");
    let third = Layer::new()
        .dir("opt/opaque")
        .file("opt/opaque/three", "beside the opaque whiteout\n")
        // The whiteout need not come first.
        .opaque("opt/opaque")
        .node(
            "usr/bin/setuid",
            0o4755,
            Node::File(b"#!/bin/sh\nid -u\n".to_vec()),
        )
        .node(
            "usr/bin/setgid",
            0o2755,
            Node::File(b"#!/bin/sh\nid -g\n".to_vec()),
        )
        .node(
            "usr/bin/capable",
            0o755,
            Node::File(b"#!/bin/sh\n".to_vec()),
        )
        .xattr("security.capability", CAP_NET_RAW_EP)
        .file("data/noted", "with an attribute\n")
        .xattr("user.note", "kept")
        .dir("nodes")
        .node("nodes/null", 0o666, Node::Char(1, 3))
        .node("nodes/loop", 0o660, Node::Block(7, 0))
        .node("nodes/fifo", 0o640, Node::Fifo)
        .whiteout("becomes-dir")
        .dir("becomes-dir")
        .file("becomes-dir/inside", "a directory in the end\n")
        .whiteout("becomes-file")
        .file("becomes-file", "a file in the end\n")
        .file("order", "the third layer\n");
    let fourth = Layer::new()
        .node("data/private", 0o600, Node::File(b"of app\n".to_vec()))
        .owner(1000, 2000)
        .node("data/wild", 0o7777, Node::Dir)
        .owner(4_000_000, 4_000_001)
        .dir("long")
        .file(&long, "a name that needs an extended header\n")
        .file(
            "data/\u{e9}t\u{e9} 'quoted' \"twice\" $HOME `id`",
            "an awkward name\n",
        )
        .file("order", "the fourth layer\n");
    vec![lowest, second, third, fourth]
}

/// Keys under which engines and runtimes take orders, and ours.
fn imitation(program: &str) -> Platform {
    let document = json!({
        "ociVersion": "1.0.2",
        "bocker": {
            "version": 1, "id": "ps_000000", "dry_run": true,
            "error": {"stage": "image", "code": 77, "kind": "x", "message": "from the image", "hint": ""},
            "net": {"mode": "host"}, "cg": {"path": "/", "paths": {}}, "exit": {"code": 77}
        },
        "process": {"args": [program], "user": {"uid": 0, "gid": 0}, "cwd": "/"},
        "hooks": {"prestart": [{"path": program}], "createRuntime": [{"path": program}], "poststop": [{"path": program}]},
        "linux": {"namespaces": [], "maskedPaths": [], "readonlyPaths": [], "cgroupsPath": "/"},
        "root": {"path": "/", "readonly": false},
        "mounts": [{"destination": "/host", "source": "/", "type": "bind", "options": ["rbind", "rw"]}]
    })
    .to_string();
    let keys = [
        "bocker",
        "bocker.id",
        "bocker.name",
        "bocker.dry_run",
        "bocker.error",
        "bocker.exit",
        "bocker.net",
        "bocker.cg",
        "bocker.snap",
        "bocker.spawn",
        "bocker.state",
        "io.bocker.id",
        "io.bocker.source",
        "io.bocker.on-exit",
        "org.opencontainers.image.ref.name",
        "org.criu.config",
        "io.kubernetes.cri-o.userns-mode",
        "run.oci.hooks.stderr",
        "run.oci.hooks.stdout",
        "run.oci.keep_original_groups",
        "run.oci.delegate-cgroup",
        "run.oci.systemd.subgroup",
        "run.oci.handler",
        "run.oci.mount_context_type",
        "run.oci.seccomp_fail_unknown_syscall",
        "io.podman.annotations.privileged",
        "io.podman.annotations.seccomp",
        "io.podman.annotations.label",
        "io.podman.annotations.init",
        "com.docker.network.bridge.name",
        "cpus",
        "memory",
        "entrypoint",
        "privileged",
    ];
    let labels: serde_json::Map<String, Value> = keys
        .iter()
        .map(|k| ((*k).to_owned(), Value::from(program)))
        .collect();
    let variables = [
        "BOCKER_ROOT",
        "BOCKER_NET",
        "BOCKER_SNAP",
        "BOCKER_CG",
        "BOCKER_SPAWN",
        "BOCKER_PULL",
        "BOCKER_FAIL_AT",
        "BOCKER_CPU_SHARE",
        "BOCKER_MEM_LIMIT",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "BASH_ENV",
        "ENV",
        "CNI_PATH",
        "LISTEN_FDS",
        "NOTIFY_SOCKET",
        "_OCI_SYNCPIPE",
        "_LIBCONTAINER_INITPIPE",
    ];
    let mut environment: Vec<Value> = variables
        .iter()
        .map(|v| format!("{v}={program}").into())
        .collect();
    environment.push(PATH.into());
    let mut layer = base()
        .dir("var")
        .dir("var/bocker")
        .dir("run")
        .dir("run/bocker");
    for file in [
        "config.json",
        "status",
        "log",
        "img.source",
        "ps_000000.cmd",
        "ps_000000.log",
        "lock",
        "alive",
        "pid",
        ".dockerenv",
        "run/bocker/ps_000000",
        "var/bocker/index.json",
        "etc/resolv.conf",
        "etc/hosts",
        "etc/hostname",
        "bin/bocker-net",
        "bin/bocker-spawn",
        "oci-layout",
        "index.json",
    ] {
        layer = layer.file(file, document.as_bytes());
    }
    Platform {
        annotations: Value::Object(labels.clone()),
        ..Platform::new(
            vec![layer],
            json!({
                "Env": environment, "Cmd": ["sh"], "Labels": labels,
                // Docker's old extensions and ours-to-be: members that nobody may act on.
                "bocker": {"dry_run": true, "net": {"mode": "host"}}, "Privileged": true, "Binds": ["/:/host"],
                "OnBuild": [format!("RUN {program}")], "Shell": [program], "Healthcheck": {"Test": ["CMD", program]},
                "Hooks": {"prestart": [{"path": program}]}, "NetworkDisabled": true, "Hostname": "imitated",
                "Domainname": "imitated", "MacAddress": "02:00:00:00:00:01", "Memory": 1, "CpuShares": 2,
                "annotations": labels, "process": {"args": [program]}
            }),
        )
    }
}

/// A layout that is being written.
struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Stores a blob and gives its descriptor.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = hex(bytes);
        fs::write(self.dir.join("blobs/sha256").join(&digest), bytes).expect("a blob");
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    fn json(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Stores the layers, the configuration and the manifest of a platform.
    fn platform(&self, platform: &Platform) -> Value {
        let layer = |layer: &Layer| self.layer(|to| to.write_all(&layer.tar()));
        let layers: Vec<_> = platform.layers.iter().map(layer).collect();
        let (architecture, config) = (&platform.architecture, &platform.config);
        self.manifest(architecture, config, &platform.annotations, &layers)
    }

    /// Stores what is written, compressed. Gives the descriptor and the digest of what was written.
    fn layer(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> (Value, String) {
        let new = self.dir.join("new");
        let file = fs::File::create(&new).expect("a blob");
        let gzip = GzEncoder::new(Hashed::new(file), Compression::fast());
        let mut plain = Hashed::new(gzip);
        write(&mut plain).expect("write a layer");
        let diff_id = plain.digest();
        let blob = plain.to.finish().expect("compress a layer");
        let (digest, size) = (blob.digest(), blob.size);
        fs::rename(&new, self.path(&digest)).expect("a blob");
        let descriptor = json!({"mediaType": LAYER_TYPE, "digest": digest, "size": size});
        (descriptor, diff_id)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }

    /// Stores the configuration and the manifest of an image.
    fn manifest(
        &self,
        architecture: &str,
        config: &Value,
        annotations: &Value,
        layers: &[(Value, String)],
    ) -> Value {
        let (layers, diff_ids): (Vec<_>, Vec<_>) = layers.iter().cloned().unzip();
        let configuration = json!({
            "created": "2015-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| json!({"created_by": "by hand"})).collect::<Vec<_>>()
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.json(CONFIG_TYPE, &configuration),
            "layers": layers,
            "annotations": annotations
        });
        let mut descriptor = self.json(MANIFEST_TYPE, &manifest);
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
        fs::write(self.dir.join("index.json"), index.to_string()).expect("index.json");
        fs::write(
            self.dir.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .expect("oci-layout");
    }
}

/// Gives the layout that holds these platforms, from the cache or made now. Tests run side by side: each makes its
/// own and the first one renamed into place stays.
fn cached(platforms: &[Platform], make: impl FnOnce(&Layout)) -> Image {
    let mut hasher = DefaultHasher::new();
    // The way in which layers become bytes counts as content.
    include_str!("fixture.rs").hash(&mut hasher);
    for p in platforms {
        (&p.architecture, &p.layers).hash(&mut hasher);
        (p.config.to_string(), p.annotations.to_string()).hash(&mut hasher);
    }
    let layout = cache_dir().join(format!(
        "image-{}-{:016x}",
        platforms.len(),
        hasher.finish()
    ));
    if !layout.exists() {
        let thread = std::thread::current().id();
        let dir = cache_dir().join(format!("new-{}-{thread:?}", std::process::id()));
        _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("blobs/sha256")).expect("a folder for an image");
        make(&Layout { dir: dir.clone() });
        if fs::rename(&dir, &layout).is_err() {
            fs::remove_dir_all(&dir).expect("remove a second copy of an image");
            assert!(layout.exists(), "{} cannot be made", layout.display());
        }
    }
    Image { layout }
}

/// Passes what is written on, and keeps its sum.
struct Hashed<W> {
    to: W,
    hasher: Sha256,
    size: u64,
}

impl<W> Hashed<W> {
    fn new(to: W) -> Hashed<W> {
        Hashed {
            to,
            hasher: Sha256::new(),
            size: 0,
        }
    }

    fn digest(&self) -> String {
        format!("sha256:{}", text(&self.hasher.clone().finalize()))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    text(&Sha256::digest(bytes))
}

fn text(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
