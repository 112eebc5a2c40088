//! One blob to a registry (<https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-blobs>): not at all where
//! it is there, mounted from another repository where the registry can do that, else sent, in pieces where it is large, and
//! from where it broke off after a failure.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bocker_pipe::layout::{Descriptor, Layout};
use bocker_pipe::{Error, Kind, Result};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use tokio::time;

use crate::endpoint::{Endpoint, header};
use crate::progress::{Progress, TICK, Underway};
use crate::retry::{self, Again, Failure};

/// A blob of at most so many bytes goes in one request.
const MONOLITHIC_MAX: u64 = 8 << 20;
/// How much of a larger one goes in one request. Many a proxy before a registry takes no more than 100 MB.
const PIECE: u64 = 64 << 20;
/// How small pieces get where a registry, or a proxy before it, does not take them.
const PIECE_MIN: u64 = 1 << 20;
/// How much is read at once, in bytes.
const CHUNK: u64 = 256 << 10;
/// The least that a registry wants in a piece that is not the last.
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const OCTETS: &str = "application/octet-stream";

/// An upload that a registry has begun.
struct Session {
    url: Url,
    /// How many bytes it has.
    offset: u64,
    /// The least that it wants at once.
    least: u64,
}

/// Sees to it that the registry has a blob.
pub(crate) async fn blob(
    endpoint: &Endpoint,
    layout: &Layout,
    progress: &Progress,
    blob: &Descriptor,
    elsewhere: Option<&str>,
) -> Result<()> {
    let url = endpoint.url(&format!("blobs/{}", blob.digest))?;
    let response = endpoint.send(Method::HEAD, &url, |request| request).await?;
    match response.status() {
        StatusCode::OK => {
            progress.there(blob);
            return Ok(());
        }
        StatusCode::NOT_FOUND => {}
        _ => drop(endpoint.accepted(response).await?),
    }
    let mut session = match elsewhere {
        Some(repository) => match mount(endpoint, blob, repository).await? {
            Mounted::There => {
                progress.mounted(blob);
                return Ok(());
            }
            Mounted::Begun(session) => session,
        },
        None => None,
    };
    let (file, _) = layout.open_blob(&blob.digest)?;
    let upload = Upload {
        endpoint,
        blob,
        file: Arc::new(file),
        sent: Arc::default(),
        underway: progress.begin(blob),
    };
    let mut retries = endpoint.retries();
    let mut piece = PIECE;
    let mut reached = 0;
    loop {
        let Err(failure) = upload.attempt(&mut session, &mut piece).await else {
            break;
        };
        let offset = session.as_ref().map_or(0, |session| session.offset);
        if offset > reached {
            reached = offset;
            retries.progressed();
        }
        if !retries.allow(failure.again) {
            return Err(failure.error);
        }
        endpoint.again(&failure);
        retries.wait(failure.again).await;
        if let Some(begun) = session.take() {
            session = upload.ask(begun).await;
        }
        let offset = session.as_ref().map_or(0, |session| session.offset);
        upload.underway.restart();
        upload.underway.advance(offset);
    }
    progress.uploaded(blob);
    Ok(())
}

enum Mounted {
    There,
    /// The registry would rather have it sent.
    Begun(Option<Session>),
}

/// Asks for the blob of another repository.
async fn mount(endpoint: &Endpoint, blob: &Descriptor, from: &str) -> Result<Mounted> {
    let mut url = endpoint.url("blobs/uploads/")?;
    url.query_pairs_mut()
        .append_pair("mount", &blob.digest.to_string())
        .append_pair("from", from);
    let response = endpoint.send(Method::POST, &url, empty).await?;
    Ok(match response.status() {
        StatusCode::CREATED => Mounted::There,
        StatusCode::ACCEPTED => Mounted::Begun(Some(Session::of(endpoint, &response, 0)?)),
        // One that cannot, or will not let us; without the wish it may.
        _ => Mounted::Begun(None),
    })
}

fn empty(request: RequestBuilder) -> RequestBuilder {
    request.header(CONTENT_LENGTH, "0")
}

impl Session {
    fn of(endpoint: &Endpoint, response: &Response, offset: u64) -> Result<Session> {
        let url = Endpoint::location(response)
            .ok_or_else(|| endpoint.says("does not say where to upload to"))?;
        let least = header(response.headers(), &CHUNK_MIN_LENGTH);
        Ok(Session {
            url,
            offset,
            least: least.parse().unwrap_or(0),
        })
    }

    /// Goes on where an answer says. Some change the address with every piece.
    fn go_on(&mut self, response: &Response) {
        if let Some(url) = Endpoint::location(response) {
            self.url = url;
        }
    }
}

/// How many bytes a registry has, as the header `Range: 0-41` of its answer says.
fn received(range: &str) -> Option<u64> {
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (_, last) = range.split_once('-')?;
    last.parse::<u64>().ok()?.checked_add(1)
}

struct Upload<'a> {
    endpoint: &'a Endpoint,
    blob: &'a Descriptor,
    file: Arc<File>,
    sent: Arc<AtomicU64>,
    underway: Underway<'a>,
}

impl Upload<'_> {
    /// Sends what is missing. `session` is left as far as it came.
    async fn attempt(&self, session: &mut Option<Session>, piece: &mut u64) -> Result<(), Failure> {
        let begun = match session {
            Some(begun) => begun,
            None => session.insert(self.begin().await?),
        };
        let size = self.blob.size;
        if begun.offset == 0 && size <= MONOLITHIC_MAX {
            return self.finish(session, 0).await;
        }
        while begun.offset < size {
            let length = (*piece).max(begun.least).min(size - begun.offset);
            let (from, to) = (begun.offset, begun.offset + length);
            let shape = |request: RequestBuilder| {
                request
                    .header(CONTENT_TYPE, OCTETS)
                    .header(CONTENT_RANGE, format!("{from}-{}", to - 1))
                    .body(self.body(from, to))
            };
            let sending = self.endpoint.send(Method::PATCH, &begun.url, shape);
            let response = self.watch(sending).await.map_err(Failure::passing)?;
            if response.status() == StatusCode::PAYLOAD_TOO_LARGE && *piece / 4 >= PIECE_MIN {
                *piece /= 4;
                self.underway.retreat(length);
                continue;
            }
            let response = self.accepted(response, session_is_gone).await;
            let response = match response {
                Ok(response) => response,
                Err((failure, gone)) => {
                    if gone {
                        *session = None;
                    }
                    return Err(failure);
                }
            };
            begun.go_on(&response);
            // Without a word it has all of it; a registry that has less is sent the rest.
            let has = received(header(response.headers(), &RANGE)).unwrap_or(to);
            if has <= from || has > to {
                let what = format!(
                    "has {has} bytes of {}, when {to} were sent",
                    self.blob.digest
                );
                return Err(self.endpoint.says(&what).into());
            }
            self.underway.retreat(to - has);
            begun.offset = has;
        }
        self.finish(session, size).await
    }

    /// Ends the upload with what is left from `offset` on, which is all of it or nothing.
    async fn finish(&self, session: &mut Option<Session>, offset: u64) -> Result<(), Failure> {
        let Some(begun) = session.take() else {
            return Err(self.endpoint.says("has no upload").into());
        };
        let mut url = begun.url.clone();
        // The address may have a query of its own.
        url.query_pairs_mut()
            .append_pair("digest", &self.blob.digest.to_string());
        let size = self.blob.size;
        let shape = |request: RequestBuilder| match offset < size {
            true => request
                .header(CONTENT_TYPE, OCTETS)
                .body(self.body(offset, size)),
            false => empty(request),
        };
        let sending = self.endpoint.send(Method::PUT, &url, shape);
        let response = self.watch(sending).await.map_err(Failure::passing)?;
        match self.accepted(response, session_is_gone).await {
            Ok(_) => Ok(()),
            Err((failure, _)) => Err(failure),
        }
    }

    async fn begin(&self) -> Result<Session, Failure> {
        let url = self.endpoint.url("blobs/uploads/")?;
        let response = self.endpoint.send(Method::POST, &url, empty).await?;
        match self.accepted(response, |_| false).await {
            Ok(response) => Ok(Session::of(self.endpoint, &response, 0)?),
            Err((failure, _)) => Err(failure),
        }
    }

    /// Asks how far an upload came. One of which the registry does not know begins anew.
    async fn ask(&self, session: Session) -> Option<Session> {
        let asking = self
            .endpoint
            .send(Method::GET, &session.url, |request| request);
        let response = asking.await.ok()?;
        let has = received(header(response.headers(), &RANGE)).unwrap_or(0);
        if response.status() != StatusCode::NO_CONTENT || has > self.blob.size {
            return None;
        }
        let mut session = session;
        session.go_on(&response);
        session.offset = match has {
            // Of nothing at all, many say "0-0", which would be the first byte.
            1 => 0,
            has => has,
        };
        Some(session)
    }

    /// Passes a good answer on. Of another, whether to try again, and whether the upload is lost.
    async fn accepted(
        &self,
        response: Response,
        is_gone: fn(StatusCode) -> bool,
    ) -> Result<Response, (Failure, bool)> {
        let status = response.status();
        let gone = is_gone(status);
        let again = match retry::of_answer(status, response.headers(), true) {
            Again::Never if gone => Again::Soon,
            again => again,
        };
        let accepted = self.endpoint.accepted(response).await;
        accepted.map_err(|error| (Failure { error, again }, gone))
    }

    /// Shows how much has been sent while something is.
    async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let result = time::timeout(TICK, &mut work).await;
            self.underway.advance(self.sent.swap(0, Ordering::Relaxed));
            if let Ok(result) = result {
                return result;
            }
        }
    }

    fn body(&self, from: u64, to: u64) -> Body {
        Body::wrap(Part {
            file: Arc::clone(&self.file),
            at: from,
            to,
            sent: Arc::clone(&self.sent),
        })
    }
}

/// What a registry says to a piece of an upload that it does not know, or that does not follow what it has.
fn session_is_gone(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

/// A part of a file as the body of a request, read while it is sent.
struct Part {
    file: Arc<File>,
    at: u64,
    to: u64,
    sent: Arc<AtomicU64>,
}

impl http_body::Body for Part {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let length = CHUNK.min(self.to - self.at);
        if length == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; length as usize];
        let read = self.file.read_exact_at(&mut chunk, self.at);
        Poll::Ready(Some(match read {
            Ok(()) => {
                self.at += length;
                self.sent.fetch_add(length, Ordering::Relaxed);
                Ok(Frame::data(chunk.into()))
            }
            Err(error) => Err(cannot_read(&error)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.to
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.to - self.at)
    }
}

fn cannot_read(error: &io::Error) -> Error {
    let what = format!("a blob of the store cannot be read: {error}");
    Error::new(Kind::Invalid, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_has_is_told_by_the_last_byte() {
        for (range, expected) in [
            ("0-41", Some(42)),
            ("bytes=0-0", Some(1)),
            ("0-18446744073709551615", None),
            ("", None),
            ("x-y", None),
        ] {
            assert_eq!(received(range), expected, "{range}");
        }
    }
}
