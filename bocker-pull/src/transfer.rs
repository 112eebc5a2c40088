//! One blob into its ingest file, whatever it takes: from where it can be had, on from where it broke off, anew when what
//! was there already is spoilt. At its end size and digest are right.

use std::io::Write;

use bocker_pipe::layout::{Descriptor, Ingest};
use bocker_pipe::{Doing, Result};
use reqwest::header::{ACCEPT, CONTENT_RANGE, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use crate::announce::Growth;
use crate::endpoint::{Body, Endpoint, header};
use crate::progress::Underway;
use crate::registry::{ANYTHING, Registry, blob_at, there};
use crate::resolve::Layer;
use crate::retry::Failure;

/// How much has to come between two failures so that the second is not counted with the first.
const PROGRESS: u64 = 1 << 20;

/// A blob on its way.
struct Transfer<'a> {
    blob: &'a Descriptor,
    ingest: &'a mut Ingest,
    underway: &'a Underway<'a>,
    growth: Growth<'a>,
    /// Whether the rest alone may be asked for.
    ranges: bool,
}

/// Fetches a layer. What has come stays in the ingest file when it fails, unless it was wrong.
pub(crate) async fn fetch(
    registry: &Registry,
    layer: &Layer,
    ingest: &mut Ingest,
    underway: &Underway<'_>,
) -> Result<()> {
    let mut transfer = Transfer {
        blob: &layer.descriptor,
        ingest,
        underway,
        growth: Growth::of(&layer.descriptor),
        ranges: true,
    };
    transfer.growth.has(transfer.ingest.size())?;
    transfer.fetch(registry, layer).await
}

impl Transfer<'_> {
    /// From the addresses that the manifest names, else from the mirrors, else from the registry.
    async fn fetch(&mut self, registry: &Registry, layer: &Layer) -> Result<()> {
        for address in layer.urls.iter().flatten() {
            match self.fetch_foreign(registry.upstream(), address).await {
                Ok(()) => return Ok(()),
                Err(error) => registry.notices.add(&format!(
                    "{}; the registry is asked instead",
                    error.message()
                )),
            }
        }
        for endpoint in registry.endpoints() {
            let url = blob_at(endpoint, &self.blob.digest)?;
            match self.fetch_from(endpoint, &url, true).await {
                Ok(()) => return Ok(()),
                Err(error) => registry.pass_over(endpoint, error)?,
            }
        }
        Err(registry.says("was not asked"))
    }

    /// From somewhere that is no registry, and is told nothing.
    async fn fetch_foreign(&mut self, endpoint: &Endpoint, address: &str) -> Result<()> {
        let refused = |why: &str| endpoint.says(&format!("names '{address}' for a layer: {why}"));
        let url = Url::parse(address).map_err(|error| refused(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("it is not spoken to by HTTP"));
        }
        self.fetch_from(endpoint, &url, false).await
    }

    /// From one address, again and on from where it broke off as long as that is worth it.
    async fn fetch_from(&mut self, endpoint: &Endpoint, url: &Url, authorized: bool) -> Result<()> {
        // What is here already may be wrong, and whoever sends the rest is not to blame for that: then all of it, once.
        let mut inherited = self.ingest.size() > 0;
        let mut retries = endpoint.retries();
        loop {
            let before = self.ingest.size();
            let Err(failure) = self.once(endpoint, url, authorized).await else {
                let checked = self.ingest.check(self.blob);
                if checked.is_ok() {
                    return Ok(());
                }
                self.restart()?;
                if !inherited {
                    return checked;
                }
                inherited = false;
                let digest = &self.blob.digest;
                endpoint.notices.add(&format!(
                    "what was here of the blob {digest} is damaged; it is fetched anew"
                ));
                continue;
            };
            if self.ingest.size() >= before.saturating_add(PROGRESS) {
                retries.progressed();
            }
            if !retries.allow(failure.again) {
                return Err(failure.error);
            }
            endpoint.again(&failure);
            retries.wait(failure.again).await;
        }
    }

    /// One request, for what is missing.
    async fn once(
        &mut self,
        endpoint: &Endpoint,
        url: &Url,
        authorized: bool,
    ) -> Result<(), Failure> {
        if self.ingest.size() == self.blob.size && self.blob.size > 0 {
            return Ok(());
        }
        if !self.ranges {
            self.restart()?;
        }
        let mut from = self.ingest.size();
        let response = loop {
            let range = (from > 0).then(|| format!("bytes={from}-"));
            let shape = |request: RequestBuilder| {
                let request = request.header(ACCEPT, ANYTHING);
                match &range {
                    Some(range) => request.header(RANGE, range),
                    None => request,
                }
            };
            let response = match authorized {
                true => endpoint.send(Method::GET, url, shape).await?,
                false => endpoint.exchange(&Method::GET, url, None, &shape).await?,
            };
            if range.is_none() || self.is_the_rest(&response, from) {
                break response;
            }
            // It does not know how to send a part: all of it, then.
            self.ranges = false;
            self.restart()?;
            from = 0;
        };
        let response = there(endpoint, &self.blob.digest, response)?;
        let response = endpoint.accepted(response).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT && from == 0 {
            let digest = &self.blob.digest;
            let what = format!("sent a part of the blob {digest} when asked for all of it");
            return Err(endpoint.says(&what).into());
        }
        // Who ignores that only the rest was asked for sends what is here already first.
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            _ => from,
        };
        self.take(endpoint, response, skip).await
    }

    /// Whether an answer is one to a question for the rest: the rest, all, or an error other than about the question.
    fn is_the_rest(&self, response: &Response, from: u64) -> bool {
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = parse_content_range(header(response.headers(), &CONTENT_RANGE));
                range.is_some_and(|(first, last, total)| {
                    first == from
                        && last + 1 == self.blob.size
                        && total.is_none_or(|total| total == self.blob.size)
                })
            }
            status => status != StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    /// Writes what comes, but for the first `skip` bytes.
    async fn take(
        &mut self,
        endpoint: &Endpoint,
        response: Response,
        mut skip: u64,
    ) -> Result<(), Failure> {
        let (digest, size) = (&self.blob.digest, self.blob.size);
        let mut body = Body::new(endpoint, response);
        while let Some(chunk) = body.chunk().await? {
            let chunk = chunk.as_ref();
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            let chunk = &chunk[known..];
            if self.ingest.size() + chunk.len() as u64 > size {
                self.restart()?;
                let what = format!("sent more than the {size} bytes of the blob {digest}");
                return Err(endpoint.says(&what).into());
            }
            if let Err(error) = self.ingest.write_all(chunk) {
                // On a full disk a part that nobody may ever ask for again is in everybody's way.
                self.ingest.restart()?;
                return Err(error)
                    .doing(|| format!("store the blob {digest}"))
                    .map_err(Failure::from);
            }
            self.underway.advance(chunk.len() as u64);
            self.growth.has(self.ingest.size())?;
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.underway.restart();
        self.ingest.restart()?;
        self.growth.has(0)
    }
}

/// The value of `Content-Range`: the first and the last byte, and how many there are in all if that is known
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-14.4>).
pub(crate) fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    let (unit, rest) = value.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let sound = unit.eq_ignore_ascii_case("bytes")
        && first <= last
        && last < u64::MAX
        && total.is_none_or(|total| last < total);
    sound.then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_content_range_is_read_only_if_it_is_one() {
        for (value, expected) in [
            ("bytes 0-99/100", Some((0, 99, Some(100)))),
            ("BYTES 5-5/*", Some((5, 5, None))),
            (" bytes  1-2/3 ", Some((1, 2, Some(3)))),
            ("bytes 5-4/100", None),
            ("bytes 0-100/100", None),
            ("bytes */100", None),
            ("bytes +1-2/3", None),
            ("bytes -1-2/3", None),
            ("items 0-1/2", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-99999999999999999999/*", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(value), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_value_makes_the_parser_panic(value in "(bytes )?[0-9*/ -]{0,50}") {
            parse_content_range(&value);
        }

        #[test]
        fn what_was_written_is_read(first in 0_u64..1000, more in 0_u64..1000, rest in 1_u64..1000) {
            let last = first + more;
            let value = format!("bytes {first}-{last}/{}", last + rest);
            prop_assert_eq!(parse_content_range(&value), Some((first, last, Some(last + rest))));
        }
    }
}
