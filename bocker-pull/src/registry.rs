//! The repository that an image comes from: its registry, and mirrors that are asked before it. Whoever sent it, nothing is
//! believed that has not the digest and the size that led to it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use bocker_pipe::layout::{
    DOCKER_INDEX, DOCKER_MANIFEST, Digest, MANIFEST_MAX, OCI_INDEX, OCI_MANIFEST,
};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::{Error, Kind, Result};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use crate::endpoint::{Body, Endpoint, Options, header};
use crate::mirrors;
use crate::notices::Notices;
use crate::retry::Failure;

/// All kinds of manifests and indexes. Without this header some registries say 404 for what is there.
const MANIFESTS: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];
pub(crate) const ANYTHING: &str = "*/*";
/// The digest that a registry says a manifest has.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A manifest or index as it came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    /// Of the bytes, not what a header says.
    pub(crate) digest: Digest,
    /// Of the header, without parameters; empty when there was none.
    pub(crate) content_type: String,
}

/// One repository, wherever it can be had.
pub(crate) struct Registry {
    reference: Reference,
    mirrors: Vec<Endpoint>,
    upstream: Endpoint,
    /// The mirrors that have failed once, and are not asked again.
    failed: RefCell<BTreeSet<usize>>,
    pub(crate) notices: Rc<Notices>,
}

impl Registry {
    /// The repository of a reference, to be pulled from `mirrors` first, then from those that the machine is set up with, then
    /// from its own registry. No request is made yet.
    pub(crate) fn new(
        reference: &Reference,
        mirrors: &[String],
        mut options: Options,
    ) -> Result<Registry> {
        let notices = Rc::default();
        let known = mirrors::of(reference.domain())?;
        let named = mirrors.iter().map(String::as_str);
        let all = named.chain(known.mirrors.iter().map(String::as_str));
        let mirrors = all
            .map(|address| mirrors::endpoint(address, reference, options, &notices))
            .collect::<Result<_>>()?;
        options.plain_http |= known.plain_http;
        Ok(Registry {
            reference: reference.clone(),
            mirrors,
            upstream: Endpoint::upstream(reference, "pull", options, &notices)?,
            failed: RefCell::default(),
            notices,
        })
    }

    /// The registry itself.
    pub(crate) fn upstream(&self) -> &Endpoint {
        &self.upstream
    }

    /// An error that the registry is to blame for.
    pub(crate) fn says(&self, what: &str) -> Error {
        self.upstream.says(what)
    }

    /// The address of a manifest, for people.
    pub(crate) fn manifest_url(&self, version: &Version) -> String {
        self.upstream.shown(&manifest(version))
    }

    /// The address of a blob, for people.
    pub(crate) fn blob_url(&self, digest: &Digest) -> String {
        self.upstream.shown(&blob(digest))
    }

    /// Who is to be asked, in this order. The last is the registry itself.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let failed = self.failed.borrow().clone();
        let mirrors = self.mirrors.iter().enumerate();
        mirrors
            .filter(move |(number, _)| !failed.contains(number))
            .map(|(_, mirror)| mirror)
            .chain([&self.upstream])
    }

    /// Notes that somebody has failed, so that the next is asked. The registry's own failure is given back: there is no next.
    /// A mirror that only has not got something is asked for other things.
    pub(crate) fn pass_over(&self, endpoint: &Endpoint, error: Error) -> Result<()> {
        let number = self
            .mirrors
            .iter()
            .position(|mirror| std::ptr::eq(mirror, endpoint));
        let Some(number) = number else {
            return Err(error);
        };
        if *error.kind() != Kind::NotFound {
            self.failed.borrow_mut().insert(number);
            let message = error.message();
            self.notices
                .add(&format!("{message}; another one is asked"));
        }
        Ok(())
    }

    async fn each<T>(&self, ask: impl AsyncFn(&Endpoint) -> Result<T>) -> Result<T> {
        for endpoint in self.endpoints() {
            match ask(endpoint).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.pass_over(endpoint, error)?,
            }
        }
        Err(self.says("was not asked"))
    }

    /// What a tag points at, as far as the registry says it without sending it: that costs nothing where pulls are counted.
    pub(crate) async fn look(&self, version: &Version) -> Result<Option<Digest>> {
        self.each(async |endpoint| {
            let url = endpoint.url(&manifest(version))?;
            let response = endpoint.send(Method::HEAD, &url, all_manifests).await?;
            // Whatever else it is, the registry says it better when it is asked for the manifest itself.
            let found = response.status() == StatusCode::OK;
            let digest = header(response.headers(), &CONTENT_DIGEST);
            Ok(Digest::parse(digest).ok().filter(|_| found))
        })
        .await
    }

    /// Fetches a manifest or index. One asked for by digest is believed only when it has it.
    pub(crate) async fn manifest(&self, version: &Version) -> Result<Fetched> {
        self.each(async |endpoint| {
            let url = endpoint.url(&manifest(version))?;
            whole(endpoint, async || {
                let response = endpoint.send(Method::GET, &url, all_manifests).await?;
                if response.status() == StatusCode::NOT_FOUND {
                    return Err(missing(&self.reference).into());
                }
                let response = endpoint.accepted(response).await?;
                let content_type = header(response.headers(), &CONTENT_TYPE);
                let content_type = content_type.split(';').next().unwrap_or_default();
                let content_type = content_type.trim().to_ascii_lowercase();
                let bytes = Body::new(endpoint, response)
                    .all(MANIFEST_MAX, "manifest")
                    .await?;
                let digest = Digest::of(&bytes);
                if let Version::Digest(asked) = version
                    && *asked != digest
                {
                    let what = format!("sent the manifest {digest} when asked for {asked}");
                    return Err(endpoint.says(&what).into());
                }
                Ok(Fetched {
                    bytes,
                    digest,
                    content_type,
                })
            })
            .await
        })
        .await
    }

    /// Fetches a small blob and checks it.
    pub(crate) async fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        self.each(async |endpoint| {
            let url = endpoint.url(&blob(digest))?;
            whole(endpoint, async || {
                let response = endpoint.send(Method::GET, &url, anything).await?;
                let response = there(endpoint, digest, response)?;
                let response = endpoint.accepted(response).await?;
                let bytes = Body::new(endpoint, response)
                    .all(max, "configuration")
                    .await?;
                if Digest::of(&bytes) != *digest {
                    let what = format!("sent something else when asked for the blob {digest}");
                    return Err(endpoint.says(&what).into());
                }
                Ok(bytes)
            })
            .await
        })
        .await
    }
}

/// Fetches something small, again from its beginning when it breaks off.
async fn whole<T>(endpoint: &Endpoint, fetch: impl AsyncFn() -> Result<T, Failure>) -> Result<T> {
    let mut retries = endpoint.retries();
    loop {
        let failure = match fetch().await {
            Ok(fetched) => return Ok(fetched),
            Err(failure) => failure,
        };
        if !retries.allow(failure.again) {
            return Err(failure.error);
        }
        endpoint.again(&failure);
        retries.wait(failure.again).await;
    }
}

/// Refuses the answer that a blob is not there.
pub(crate) fn there(endpoint: &Endpoint, digest: &Digest, response: Response) -> Result<Response> {
    match response.status() {
        StatusCode::NOT_FOUND => Err(endpoint.says(&format!(
            "does not have the blob {digest}, which the image consists of"
        ))),
        _ => Ok(response),
    }
}

/// The address of a blob at one of those who have it.
pub(crate) fn blob_at(endpoint: &Endpoint, digest: &Digest) -> Result<Url> {
    endpoint.url(&blob(digest))
}

fn manifest(version: &Version) -> String {
    format!("manifests/{version}")
}

fn blob(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

fn all_manifests(request: RequestBuilder) -> RequestBuilder {
    request.header(ACCEPT, MANIFESTS.join(", "))
}

fn anything(request: RequestBuilder) -> RequestBuilder {
    request.header(ACCEPT, ANYTHING)
}

/// The image is not there, in the original's words.
fn missing(reference: &Reference) -> Error {
    Error::new(
        Kind::NotFound,
        format!("No image named '{}' exists", reference.familiar()),
    )
}
