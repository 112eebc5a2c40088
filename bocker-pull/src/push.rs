//! The verb `push`: an image of the store to a registry. What is there already is not sent again, and nothing that leads to
//! something is sent before it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bocker_pipe::events::{Event, Type};
use bocker_pipe::layout::{
    Descriptor, Digest, Image, ImageIndex, Layout, MANIFEST_MAX, Manifest, Writer,
};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, Step};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use tokio::runtime::{self, Runtime};

use crate::archive::{self, is_index};
use crate::download::patiently;
use crate::endpoint::{Endpoint, Options, header};
use crate::mirrors;
use crate::notices::Notices;
use crate::progress::{Progress, Style};
use crate::registry::CONTENT_DIGEST;
use crate::resolve::DEPTH_MAX;
use crate::upload;

/// How many blobs are sent at the same time.
const AT_ONCE: usize = 3;
/// What says in the media type of a layer that its maker does not let registries pass it on.
const FOREIGN: [&str; 2] = [".nondistributable.", ".foreign."];

/// What was pushed, as one JSON line.
#[derive(Serialize)]
struct Pushed<'a> {
    reference: String,
    /// The tag, for people.
    tag: String,
    digest: &'a Digest,
    /// Of the manifest, in bytes.
    size: u64,
}

struct Push {
    runtime: Runtime,
    endpoint: Endpoint,
    notices: Rc<Notices>,
    layout: Layout,
    /// As long as it is held nobody removes a blob.
    writer: Option<Writer>,
    target: Reference,
    /// Children first, the one that gets the name last.
    manifests: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<Descriptor>,
    /// Other repositories of the registry that hold a blob, as far as the store knows.
    elsewhere: BTreeMap<Digest, String>,
    progress: Progress,
}

/// `push IMAGE [REF]`.
pub(crate) fn push(call: &mut Call) -> Result<()> {
    let (mut words, mut style, mut options) = (Vec::new(), Style::default(), Options::default());
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                other if style.take(call, other)? => {}
                other if options.take(call, other)? => {}
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if words.len() < 2 => words.push(word.to_string_lossy().into_owned()),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let Some(name) = words.first() else {
        return Err(Error::new(Kind::Usage, "no image was named"));
    };
    let layout = Layout::open();
    let image = layout.find(name)?;
    let target = match words.get(1).or(image.reference.as_ref()) {
        Some(reference) => Reference::parse(reference)?,
        None => {
            return Err(Error::new(
                Kind::Usage,
                format!("the image '{name}' has no name to push it as"),
            )
            .hint("give one: bocker-pull push IMAGE REF"));
        }
    };
    let mut push = Push::new(layout, &image, target, style, options)?;
    call.run_steps(&mut push, vec![blobs(), manifests()])?;
    if call.dry_run() {
        return Ok(());
    }
    let event = Event::new(Type::Image, "push", &image.id);
    event.name(push.target.to_string()).record();
    call.line(&Pushed {
        reference: push.target.to_string(),
        tag: push.target.version().to_string(),
        digest: &image.digest,
        size: image.size,
    })
}

impl Push {
    /// Looks up what there is to push. No request is made.
    fn new(
        layout: Layout,
        image: &Image,
        target: Reference,
        style: Style,
        mut options: Options,
    ) -> Result<Push> {
        if let Version::Digest(digest) = target.version()
            && *digest != image.digest
        {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "the image is {}, and cannot be pushed as {digest}",
                    image.digest
                ),
            )
            .hint("give it a tag"));
        }
        let top = Descriptor {
            media_type: image.media_type.clone(),
            digest: image.digest.clone(),
            size: image.size,
            annotations: BTreeMap::new(),
            platform: None,
        };
        let mut contents = Contents::default();
        contents.gather(&layout, top, 0)?;
        let Contents { manifests, blobs } = contents;
        let notices = Rc::new(Notices::default());
        options.plain_http |= mirrors::of(target.domain())?.plain_http;
        let endpoint = Endpoint::upstream(&target, "pull,push", options, &notices)?;
        let elsewhere = elsewhere(&layout, &target, &blobs)?;
        for repository in elsewhere.values().collect::<BTreeSet<_>>() {
            endpoint.want(&format!("repository:{repository}:pull"));
        }
        let blobs: Vec<Descriptor> = blobs.into_values().collect();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing(|| "prepare for network traffic".into())?;
        Ok(Push {
            runtime,
            endpoint,
            notices,
            layout,
            writer: None,
            target,
            manifests,
            progress: Progress::of(style, &blobs),
            blobs,
            elsewhere,
        })
    }

    /// Whether the registry has the image already, under whatever name: then it has all of it.
    async fn is_there(&self) -> Result<bool> {
        let Some((top, _)) = self.manifests.last() else {
            return Ok(false);
        };
        let url = self.endpoint.url(&format!("manifests/{}", top.digest))?;
        let accept = |request: reqwest::RequestBuilder| {
            request.header(reqwest::header::ACCEPT, top.media_type.as_str())
        };
        let response = self.endpoint.send(Method::HEAD, &url, accept).await?;
        Ok(response.status() == StatusCode::OK)
    }

    async fn send_blobs(&self) -> Result<()> {
        if self.is_there().await? {
            self.blobs.iter().for_each(|blob| self.progress.there(blob));
            return Ok(());
        }
        let sent = stream::iter(&self.blobs)
            .map(Ok)
            .try_for_each_concurrent(AT_ONCE, |blob| {
                let from = self.elsewhere.get(&blob.digest).map(String::as_str);
                upload::blob(&self.endpoint, &self.layout, &self.progress, blob, from)
            });
        sent.await
    }

    async fn send_manifests(&self) -> Result<()> {
        let last = self.manifests.len().saturating_sub(1);
        for (number, (manifest, bytes)) in self.manifests.iter().enumerate() {
            let version = match number == last {
                true => self.target.version().clone(),
                false => Version::Digest(manifest.digest.clone()),
            };
            let url = self.endpoint.url(&format!("manifests/{version}"))?;
            let shape = |request: reqwest::RequestBuilder| {
                let request = request.header(CONTENT_TYPE, manifest.media_type.as_str());
                request.body(bytes.clone())
            };
            let response = self.endpoint.send(Method::PUT, &url, shape).await?;
            let response = self.endpoint.accepted(response).await?;
            let stored = Digest::parse(header(response.headers(), &CONTENT_DIGEST));
            if stored.is_ok_and(|stored| stored != manifest.digest) {
                return Err(self
                    .endpoint
                    .says("stored the manifest under another digest"));
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> String {
        quote(&self.layout.blob(digest).display().to_string())
    }
}

/// What an image consists of.
#[derive(Default)]
struct Contents {
    manifests: Vec<(Descriptor, Vec<u8>)>,
    blobs: BTreeMap<Digest, Descriptor>,
}

impl Contents {
    /// Adds a manifest after all that it leads to.
    fn gather(&mut self, layout: &Layout, top: Descriptor, depth: u32) -> Result<()> {
        if self
            .manifests
            .iter()
            .any(|(known, _)| known.digest == top.digest)
        {
            return Ok(());
        }
        if depth > DEPTH_MAX {
            let what = format!("the image nests indexes more than {DEPTH_MAX} deep");
            return Err(Error::new(Kind::Invalid, what));
        }
        let bytes = layout.read_blob(&top.digest, MANIFEST_MAX)?;
        if is_index(&top.media_type) {
            let index: ImageIndex = serde_json::from_slice(&bytes).map_err(|error| {
                let what = format!("the index {} cannot be read: {error}", top.digest);
                Error::new(Kind::Invalid, what)
            })?;
            for child in index.manifests {
                self.gather(layout, child, depth + 1)?;
            }
        } else {
            let manifest: Manifest = archive::manifest(&top, &bytes)?;
            for part in manifest.layers.into_iter().chain([manifest.config]) {
                // What its maker keeps for himself is fetched from him.
                if !FOREIGN.iter().any(|word| part.media_type.contains(word)) {
                    let (_, size) = layout.open_blob(&part.digest)?;
                    if size != part.size {
                        let what =
                            format!("the blob {} is damaged: it has {size} bytes", part.digest);
                        return Err(Error::new(Kind::Invalid, what).hint("pull the image again"));
                    }
                    self.blobs.insert(part.digest.clone(), part);
                }
            }
        }
        self.manifests.push((top, bytes));
        Ok(())
    }
}

/// In which other repository of the target's registry each blob most likely is: one that an image of the store with this blob
/// is named after.
fn elsewhere(
    layout: &Layout,
    target: &Reference,
    blobs: &BTreeMap<Digest, Descriptor>,
) -> Result<BTreeMap<Digest, String>> {
    let mut found = BTreeMap::new();
    for image in layout.images()? {
        let name = image.reference.as_deref().map(Reference::parse);
        let Some(Ok(name)) = name else { continue };
        if name.domain() == target.domain() && name.path() != target.path() {
            let here = layout.blobs_of(&image).into_iter();
            let wanted = here.filter(|digest| blobs.contains_key(digest));
            found.extend(wanted.map(|digest| (digest, name.path().to_owned())));
        }
    }
    Ok(found)
}

fn blobs() -> Step<Push> {
    Step::new(
        "pull.upload",
        "the configuration and the layers that the registry does not have, several at a time",
    )
    .command(|c: &Push| {
        let (token, authorization) = c.endpoint.shown_authorization();
        let curl = format!("curl -fsS{authorization}");
        let mut lines: Vec<String> = token.into_iter().collect();
        for blob in &c.blobs {
            let digest = &blob.digest;
            let there = quote(&c.endpoint.shown(&format!("blobs/{digest}")));
            let uploads = quote(&c.endpoint.shown("blobs/uploads/"));
            lines.push(format!(
                "{curl} -I -o /dev/null {there} || {curl} -T {} --url-query digest={digest} \"$({curl} -X POST -o /dev/null -w '%header{{location}}' {uploads})\"",
                c.path(digest)
            ));
        }
        lines
    })
    .look(|c| {
        let digest = c.blobs.first().map(|blob| blob.digest.to_string());
        let path = format!("blobs/{}", digest.unwrap_or_default());
        format!("curl -I {}", quote(&c.endpoint.shown(&path)))
    })
    .apply(|c| {
        c.writer = Some(c.layout.writer()?);
        let sent = patiently(&c.runtime, &c.progress, &c.notices, c.send_blobs());
        c.progress.clear();
        c.progress.say_all(&c.notices);
        sent?
    })
}

fn manifests() -> Step<Push> {
    Step::new(
        "pull.manifest",
        "the manifests, of an index those that it leads to first; the last one gets the name, and the image can be pulled",
    )
    .command(|c: &Push| {
        let (_, authorization) = c.endpoint.shown_authorization();
        let last = c.manifests.len().saturating_sub(1);
        let line = |(number, (manifest, _)): (usize, &(Descriptor, Vec<u8>))| {
            let version = match number == last {
                true => c.target.version().to_string(),
                false => manifest.digest.to_string(),
            };
            format!(
                "curl -fsS{authorization} -T {} -H 'Content-Type: {}' {}",
                c.path(&manifest.digest),
                manifest.media_type,
                quote(&c.endpoint.shown(&format!("manifests/{version}")))
            )
        };
        c.manifests.iter().enumerate().map(line).collect()
    })
    .look(|c| format!("skopeo inspect docker://{}", c.target))
    .apply(|c| {
        let sent = patiently(&c.runtime, &c.progress, &c.notices, c.send_manifests());
        c.progress.say_all(&c.notices);
        sent?
    })
}
