//! The verb `pull`: what the registry has is looked up first, so that the steps after it are known and can be shown.

use std::ffi::OsString;
use std::rc::Rc;

use bocker_pipe::events::{Event, Type};
use bocker_pipe::layout::{Descriptor, Digest, Image, Layout, Platform, Writer};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Document, Doing, Error, Id, Kind, Result, Step};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::runtime::{self, Runtime};

use crate::announce;
use crate::download::{Downloads, patiently};
use crate::endpoint::Options;
use crate::platform;
use crate::progress::{Progress, Style, size};
use crate::registry::Registry;
use crate::resolve::{self, Resolved};
use crate::verify;

/// `bocker.image`, as the later stages read it.
#[derive(Serialize)]
struct Member<'a> {
    id: &'a Id,
    reference: String,
    digest: &'a Digest,
    platform: &'a Platform,
    config: &'a Map<String, Value>,
}

/// What the steps share.
struct Pull {
    runtime: Runtime,
    registry: Rc<Registry>,
    layout: Layout,
    reference: Reference,
    resolved: Resolved,
    progress: Rc<Progress>,
    writer: Option<Rc<Writer>>,
    downloads: Option<Downloads>,
    /// Blobs that were not there before.
    written: Vec<Digest>,
    /// What was entered in `index.json`, and the entries that it replaced.
    entered: Option<(Image, Vec<Image>)>,
    id: Id,
}

/// `pull REF`.
pub(crate) fn pull(call: &mut Call) -> Result<()> {
    let mut name: Option<OsString> = None;
    let (mut wanted, mut style) = (None, Style::default());
    let (mut options, mut mirrors) = (Options::default(), Vec::new());
    let mut verifier: Option<OsString> = None;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "--platform" => wanted = Some(platform::parse(&call.text()?)?),
                "--mirror" => mirrors.push(call.text()?),
                "--verify" => verifier = Some(call.value()?),
                other if style.take(call, other)? => {}
                other if options.take(call, other)? => {}
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if name.is_none() => name = Some(word),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let name = name.ok_or_else(|| {
        Error::new(Kind::Usage, "no image was named").hint("see 'bocker-pull --help'")
    })?;
    let name = name
        .to_str()
        .ok_or_else(|| Error::new(Kind::Usage, format!("'{}' is not UTF-8", name.display())))?;
    let reference = Reference::parse(name)?;
    call.document()?;
    let registry = Registry::new(&reference, &mirrors, options)?;
    let pull = look_up(registry, reference, wanted, style)?;
    if let Some(program) = &verifier {
        verify::verify(program, &pull.reference, &pull.resolved)?;
    }
    let steps = pull.steps();
    call.tells(
        |document| tell(document, "pull"),
        |document| tell(document, "delete"),
    );
    call.create(pull, steps, |document, pull| {
        document.set_member(
            "image",
            &Member {
                id: &pull.id,
                reference: pull.reference.to_string(),
                digest: pull.resolved.digest(),
                platform: &pull.resolved.platform,
                config: &pull.resolved.settings,
            },
        );
        Ok(())
    })
}

fn tell(document: &Document, action: &str) -> Vec<Event> {
    let text = |pointer: &str| document.value(pointer)?.as_str();
    let id = text("/bocker/image/id").unwrap_or_default();
    let name = text("/bocker/image/reference").unwrap_or_default();
    vec![Event::new(Type::Image, action, id).name(name)]
}

/// Asks the registry what the reference means. Changes nothing on this machine.
fn look_up(
    registry: Registry,
    reference: Reference,
    wanted: Option<Platform>,
    style: Style,
) -> Result<Pull> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "prepare for network traffic".into())?;
    let registry = Rc::new(registry);
    let layout = Layout::open();
    let platform = wanted.clone().unwrap_or_else(platform::host);
    let waiting = Progress::waiting(style);
    let resolved = patiently(
        &runtime,
        &waiting,
        &registry.notices,
        resolve::resolve(&registry, &layout, &reference, &platform),
    )??;
    if !resolved.fits && wanted.is_some() {
        return Err(resolve::another(&reference, &platform, &resolved.platform));
    }
    let index = layout.index()?;
    let id = index.id_for(resolved.digest())?;
    let is_here = index
        .images()
        .contains(&entry(&reference, &resolved, id.clone()));
    let mut layers = resolved.layers.iter().map(|layer| &layer.descriptor);
    let progress = match style {
        // Of one that is up to date there is no more to say.
        Style::Auto | Style::Plain if is_here && layers.all(|layer| layout.has(layer)) => waiting,
        _ => Progress::of(style, layers),
    };
    let progress = Rc::new(progress);
    progress.resolved(&reference.to_string(), resolved.digest());
    if !resolved.fits {
        let (found, host) = (
            platform::show(&resolved.platform),
            platform::show(&platform),
        );
        progress.say(&format!(
            "bocker-pull: the image '{}' is made for {found}, this host is {host}",
            reference.familiar()
        ));
    }
    progress.say_all(&registry.notices);
    Ok(Pull {
        runtime,
        registry,
        layout,
        reference,
        resolved,
        progress,
        writer: None,
        downloads: None,
        written: Vec::new(),
        entered: None,
        id,
    })
}

impl Pull {
    fn steps(&self) -> Vec<Step<Pull>> {
        let mut steps = vec![store(), manifest()];
        steps.extend((0..self.resolved.layers.len()).map(blob));
        steps.push(index());
        steps
    }

    fn writer(&self) -> Result<&Writer> {
        self.writer
            .as_deref()
            .ok_or_else(|| Error::new(Kind::Invalid, "the image store is not open"))
    }

    fn image(&self, id: Id) -> Image {
        entry(&self.reference, &self.resolved, id)
    }

    /// Ends the downloads and notes what they have written.
    fn stop(&mut self) {
        self.written
            .extend(self.downloads.take().into_iter().flat_map(Downloads::stop));
        self.progress.clear();
    }

    fn path(&self, blob: &Descriptor) -> String {
        quote(&self.layout.blob(&blob.digest).display().to_string())
    }

    /// The command that fetches an address, with the token that was needed.
    fn curl(&self, options: &str, address: &str, blob: &Descriptor) -> String {
        let (_, token) = self.registry.upstream().shown_authorization();
        format!(
            "curl -fsSL{token}{options} -o {} {}",
            self.path(blob),
            quote(address)
        )
    }

    fn fetch_and_check(&self, blob: &Descriptor) -> Vec<String> {
        vec![
            self.curl("", &self.registry.blob_url(&blob.digest), blob),
            format!(
                "echo {}  {} | sha256sum -c",
                blob.digest.hex(),
                self.path(blob)
            ),
        ]
    }
}

/// The entry that makes the image one.
fn entry(reference: &Reference, resolved: &Resolved, id: Id) -> Image {
    let (manifest, _) = &resolved.manifest;
    let index = resolved.index.as_ref();
    Image {
        id,
        reference: Some(reference.to_string()),
        media_type: manifest.media_type.clone(),
        digest: manifest.digest.clone(),
        size: manifest.size,
        platform: Some(resolved.platform.clone()),
        source: index.map(|(index, _)| index.digest.clone()),
    }
}

fn store() -> Step<Pull> {
    Step::new(
        "pull.store",
        "the image store is there, and as long as the pull lasts nobody removes blobs from it",
    )
    .command(|pull: &Pull| {
        let root = pull.layout.root().display().to_string();
        let mut lines = vec![format!(
            "mkdir -p {}",
            quote(&format!("{root}/blobs/sha256"))
        )];
        let (token, _) = pull.registry.upstream().shown_authorization();
        lines.extend(token);
        let limit = pull.registry.upstream().limit();
        lines.extend(limit.map(|limit| format!("# {limit}")));
        lines
    })
    .look(|pull| {
        format!(
            "cat {}",
            quote(&pull.layout.root().join("index.json").display().to_string())
        )
    })
    .apply(|pull| {
        let writer = Rc::new(pull.layout.writer()?);
        pull.downloads = Some(Downloads::new(
            &pull.registry,
            &writer,
            &pull.progress,
            &pull.resolved.layers,
        ));
        pull.writer = Some(writer);
        Ok(())
    })
    // The store itself stays, since other images share it. All blobs go here, not in their own steps: only the whole
    // of them can be checked against what else is in the store. What was fetched of the layers the next pull goes on with.
    .undo(|pull| {
        pull.stop();
        let written = std::mem::take(&mut pull.written);
        let layers = pull.resolved.layers.iter();
        let layers: Vec<Digest> = layers
            .map(|layer| layer.descriptor.digest.clone())
            .collect();
        match pull.writer.take().and_then(Rc::into_inner) {
            Some(writer) => writer.take_back(&written, &layers),
            None => Ok(()),
        }
    })
}

fn blob(number: usize) -> Step<Pull> {
    Step::new(
        "pull.blob",
        "a layer, which is kept only when it has the size and the digest that the manifest says",
    )
    .command(move |pull: &Pull| {
        let layer = &pull.resolved.layers[number].descriptor;
        match &pull.downloads {
            Some(downloads) if downloads.downloaded(number) => pull.fetch_and_check(layer),
            None if !pull.layout.has(layer) => pull.fetch_and_check(layer),
            _ => vec![format!("# {} is already here", layer.digest)],
        }
    })
    .look(move |pull| {
        format!(
            "tar tf {}",
            pull.path(&pull.resolved.layers[number].descriptor)
        )
    })
    .apply(move |pull| {
        let downloads = pull
            .downloads
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Invalid, "the image store is not open"))?;
        let result = downloads.wait(&pull.runtime, number);
        pull.progress.clear();
        pull.progress.say_all(&pull.registry.notices);
        if result.is_err() {
            // What others have finished by now, the first step's undo takes back.
            pull.stop();
        }
        result
    })
}

fn manifest() -> Step<Pull> {
    Step::new(
        "pull.manifest",
        "the configuration and the manifest, byte for byte as they came: digests are over bytes",
    )
    .command(|pull: &Pull| {
        let Resolved {
            config, manifest, ..
        } = &pull.resolved;
        let version = Version::Digest(manifest.0.digest.clone());
        let accept = format!(" -H 'Accept: {}'", manifest.0.media_type);
        let mut lines = pull.fetch_and_check(&config.0);
        lines.push(pull.curl(&accept, &pull.registry.manifest_url(&version), &manifest.0));
        lines
    })
    .look(|pull| format!("jq . {}", pull.path(&pull.resolved.manifest.0)))
    .apply(|pull| {
        let parts = [
            Some(&pull.resolved.config),
            Some(&pull.resolved.manifest),
            pull.resolved.index.as_ref(),
        ];
        for (blob, bytes) in parts.into_iter().flatten() {
            if !pull.layout.has(blob) {
                pull.writer()?.write_blob(&blob.media_type, bytes)?;
                pull.written.push(blob.digest.clone());
            }
        }
        announce::manifest(pull.resolved.digest())
    })
}

fn index() -> Step<Pull> {
    Step::new(
        "pull.index",
        "the entry in index.json that gives the image its name; from here on it can be seen",
    )
    .command(|pull: &Pull| {
        vec![format!(
            "# index.json: {} is {}, {}",
            pull.reference,
            pull.resolved.digest(),
            pull.id
        )]
    })
    .look(|pull| {
        format!(
            "skopeo inspect oci:{}:{}",
            quote(&pull.layout.root().display().to_string()),
            pull.reference
        )
    })
    .apply(|pull| {
        let found = pull.layout.index()?;
        let id = found.id_for(pull.resolved.digest())?;
        if found.images().contains(&pull.image(id.clone())) {
            pull.id = id;
            pull.progress.say(&format!(
                "{} {} is up to date",
                pull.id,
                pull.reference.familiar()
            ));
            return Ok(());
        }
        let (image, replaced) = pull.writer()?.edit(|index| {
            let image = pull.image(index.id_for(pull.resolved.digest())?);
            let ours = |other: &Image| {
                other.reference == image.reference
                    || (other.reference.is_none() && other.digest == image.digest)
            };
            let replaced = index.images().into_iter().filter(ours).collect();
            index.put(&image);
            Ok((image, replaced))
        })?;
        pull.id = image.id.clone();
        pull.entered = Some((image, replaced));
        let layers = pull.resolved.layers.iter();
        let total = layers.map(|layer| layer.descriptor.size).sum();
        pull.progress.say(&format!(
            "{} {} ({})",
            pull.id,
            pull.reference.familiar(),
            size(total)
        ));
        Ok(())
    })
    .undo(|pull| {
        let Some((image, replaced)) = pull.entered.take() else {
            return Ok(());
        };
        pull.writer()?.edit(|index| {
            // Somebody may have moved the name on since.
            if index.remove_entry(&image) {
                replaced.iter().for_each(|former| index.put(former));
            }
            Ok(())
        })
    })
}
