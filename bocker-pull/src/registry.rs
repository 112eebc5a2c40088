//! One repository of a registry: requests of the OCI distribution protocol
//! (<https://github.com/opencontainers/distribution-spec>), anonymous Bearer tokens
//! (<https://distribution.github.io/distribution/spec/auth/token/>), and what the answers mean.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bocker_pipe::layout::{
    DOCKER_INDEX, DOCKER_MANIFEST, Digest, MANIFEST_MAX, OCI_INDEX, OCI_MANIFEST,
};
use bocker_pipe::reference::{Reference, Version};
use bocker_pipe::{Error, Kind, Result};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

use crate::challenge;
use crate::dns::Dns;

/// All kinds of manifests and indexes. Without this header some registries say 404 for what is there.
const MANIFESTS: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];
const ANYTHING: &str = "*/*";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may be silent in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN_MAX: u64 = 1 << 20;
/// How much of an error's body is looked at.
const ERROR_MAX: u64 = 64 << 10;
/// How much of a registry's own words is shown.
const WORDS_MAX: usize = 300;

/// A manifest or index as it came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    /// Of the bytes, not what a header says.
    pub(crate) digest: Digest,
    /// Of the header, without parameters; empty when there was none.
    pub(crate) content_type: String,
}

/// One repository.
pub(crate) struct Registry {
    client: Client,
    reference: Reference,
    base: Url,
    /// The last token and where it came from, for the shown commands.
    token: RefCell<Option<Token>>,
}

#[derive(Debug, Clone)]
struct Token {
    header: HeaderValue,
    address: Url,
}

/// The answer of a token server: either name is in use.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// The errors that a registry sends as JSON.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalError>,
}

#[derive(Deserialize)]
struct RefusalError {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl Registry {
    /// The repository of a reference. No request is made yet. Loopback is spoken to without TLS, all else with it unless
    /// `plain_http`.
    pub(crate) fn new(reference: &Reference, plain_http: bool) -> Result<Registry> {
        let host = reference.host();
        let loopback = is_loopback(host);
        let plain = plain_http || loopback;
        let scheme = if plain { "http" } else { "https" };
        let address = format!("{scheme}://{host}/v2/{}/", reference.path());
        let base = Url::parse(&address).map_err(|error| {
            Error::new(
                Kind::Invalid,
                format!("the registry '{host}' is not a host: {error}"),
            )
        })?;
        // A second provider is refused, the first one stays: either way there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("bocker-pull/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .dns_resolver(Dns::default())
                .referer(false)
                // Neither a redirect nor a token server may take us from TLS to plain text.
                .https_only(!plain);
            if loopback {
                builder.no_proxy()
            } else {
                builder
            }
        };
        let client = match builder().build() {
            // A machine without certificates can still use what needs none.
            Err(_) if plain => builder().tls_certs_only([]).build(),
            result => result,
        };
        let client = client.map_err(|error| {
            Error::new(
                Kind::Unsupported,
                format!("cannot set up TLS: {}", root_cause(&error)),
            )
            .hint("install the certificates of the authorities: ca-certificates on most systems")
        })?;
        Ok(Registry {
            client,
            reference: reference.clone(),
            base,
            token: RefCell::new(None),
        })
    }

    /// The address of a manifest, for people.
    pub(crate) fn manifest_url(&self, version: &Version) -> String {
        format!("{}manifests/{version}", self.base)
    }

    /// The address of a blob, for people.
    pub(crate) fn blob_url(&self, digest: &Digest) -> String {
        format!("{}blobs/{digest}", self.base)
    }

    /// Where the anonymous token came from, if one was needed.
    pub(crate) fn token_url(&self) -> Option<String> {
        self.token
            .borrow()
            .as_ref()
            .map(|token| token.address.to_string())
    }

    /// Fetches a manifest or index. One asked for by digest is believed only when it has it.
    pub(crate) async fn manifest(&self, version: &Version) -> Result<Fetched> {
        let response = self
            .get(&format!("manifests/{version}"), &MANIFESTS.join(", "))
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(missing(&self.reference));
        }
        let response = self.accepted(response).await?;
        let content_type = header(response.headers(), &CONTENT_TYPE);
        let content_type = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let bytes = self.read(response, MANIFEST_MAX, "manifest").await?;
        let digest = Digest::of(&bytes);
        if let Version::Digest(asked) = version
            && *asked != digest
        {
            return Err(self.says(&format!(
                "sent the manifest {digest} when asked for {asked}"
            )));
        }
        Ok(Fetched {
            bytes,
            digest,
            content_type,
        })
    }

    /// Begins to fetch a blob, whose bytes the caller has to bound and check.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Response> {
        let response = self.get(&format!("blobs/{digest}"), ANYTHING).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(self.says(&format!(
                "does not have the blob {digest}, which the image consists of"
            )));
        }
        self.accepted(response).await
    }

    /// Fetches a small blob and checks it.
    pub(crate) async fn small_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let response = self.blob(digest).await?;
        let bytes = self.read(response, max, "configuration").await?;
        if Digest::of(&bytes) != *digest {
            return Err(self.says(&format!(
                "sent something else when asked for the blob {digest}"
            )));
        }
        Ok(bytes)
    }

    /// The next piece of an answer.
    pub(crate) async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<impl AsRef<[u8]> + use<>>> {
        response
            .chunk()
            .await
            .map_err(|error| self.unreachable(error))
    }

    /// One request; a challenge is answered once, also when a token has expired in the middle of a pull.
    async fn get(&self, path: &str, accept: &str) -> Result<Response> {
        let url = self.base.join(path).map_err(|error| {
            Error::new(
                Kind::Invalid,
                format!("'{path}' is not an address: {error}"),
            )
        })?;
        let mut answered = false;
        loop {
            let token = self.token.borrow().clone();
            // The digest is that of the bytes as they are stored: nobody may compress them on the way.
            let mut request = self
                .client
                .get(url.clone())
                .header(ACCEPT, accept)
                .header(ACCEPT_ENCODING, "identity");
            if let Some(token) = &token {
                request = request.header(AUTHORIZATION, token.header.clone());
            }
            let response = request
                .send()
                .await
                .map_err(|error| self.unreachable(error))?;
            // Another server, to which we were redirected, has no say in where our tokens come from.
            let ours = response.url().origin() == self.base.origin();
            if response.status() != StatusCode::UNAUTHORIZED || answered || !ours {
                return Ok(response);
            }
            self.authorize(response.headers()).await?;
            answered = true;
        }
    }

    /// Answers a challenge with an anonymous token.
    async fn authorize(&self, headers: &HeaderMap) -> Result<()> {
        let values = headers
            .get_all(WWW_AUTHENTICATE)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        let bearer = values
            .flat_map(challenge::parse)
            .find(|challenge| challenge::is(challenge, "bearer"))
            .ok_or_else(|| self.wants_login())?;
        let parameter = |name| challenge::get(&bearer, name);
        let realm = parameter("realm").and_then(|realm| Url::parse(&realm).ok());
        let Some(mut address) = realm.filter(|realm| matches!(realm.scheme(), "http" | "https"))
        else {
            return Err(self.says("asks for a token without saying where from"));
        };
        let usual = format!("repository:{}:pull", self.reference.path());
        let scope = parameter("scope")
            .filter(|scope| !scope.is_empty())
            .unwrap_or(usual);
        {
            let mut query = address.query_pairs_mut();
            if let Some(service) = parameter("service") {
                query.append_pair("service", &service);
            }
            for scope in scope.split_ascii_whitespace() {
                query.append_pair("scope", scope);
            }
        }
        let response = self
            .client
            .get(address.clone())
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        if matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            return Err(self.wants_login());
        }
        let response = self.accepted(response).await?;
        let bytes = self.read(response, TOKEN_MAX, "token").await?;
        let unusable = || self.says("sent a token that is none");
        let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| unusable())?;
        let filled = |token: &String| !token.is_empty();
        let token = answer
            .token
            .filter(filled)
            .or(answer.access_token.filter(filled))
            .ok_or_else(unusable)?;
        let mut header =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| unusable())?;
        header.set_sensitive(true);
        *self.token.borrow_mut() = Some(Token { header, address });
        Ok(())
    }

    /// Passes a good answer on and turns any other into the error that it means.
    async fn accepted(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let later = header(response.headers(), &RETRY_AFTER);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.wants_login()),
            StatusCode::TOO_MANY_REQUESTS => {
                let error = self.says("has been asked too often (429)");
                Err(match later.parse::<u64>() {
                    Ok(seconds) => error.hint(format!("try again in {seconds} seconds")),
                    Err(_) => error.hint("try again later"),
                })
            }
            _ => {
                // An error's body is a courtesy: one that cannot be read leaves the status.
                let body = self
                    .read(response, ERROR_MAX, "error")
                    .await
                    .unwrap_or_default();
                Err(self.says(&format!("answered {}{}", status.as_u16(), words(&body))))
            }
        }
    }

    /// Reads a whole answer of at most `max` bytes.
    async fn read(&self, mut response: Response, max: u64, what: &str) -> Result<Vec<u8>> {
        let too_large = || self.says(&format!("sent a {what} of more than {max} bytes"));
        if response.content_length().is_some_and(|length| length > max) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            bytes.extend_from_slice(chunk.as_ref());
            if bytes.len() as u64 > max {
                return Err(too_large());
            }
        }
        Ok(bytes)
    }

    /// An error that a registry is to blame for.
    pub(crate) fn says(&self, what: &str) -> Error {
        Error::new(
            Kind::Remote,
            format!("the registry {} {what}", self.reference.domain()),
        )
    }

    fn wants_login(&self) -> Error {
        let name = self.reference.familiar();
        Error::new(
            Kind::Remote,
            format!(
                "the registry {} does not give '{name}' to everybody",
                self.reference.domain()
            ),
        )
        .hint("check the name; logging in is not supported yet")
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        // The address of a redirect may hold a signature that is a secret.
        let error = error.without_url();
        let domain = self.reference.domain();
        let failed = Error::new(
            Kind::Remote,
            format!(
                "cannot fetch from the registry {domain}: {}",
                root_cause(&error)
            ),
        );
        match tls_error(&error) {
            Some(rustls::Error::InvalidMessage(_)) => {
                failed.hint("if it speaks plain HTTP, say --plain-http")
            }
            Some(rustls::Error::InvalidCertificate(_)) => {
                failed.hint("SSL_CERT_FILE names the certificates to trust instead of the system's")
            }
            _ => failed,
        }
    }
}

/// The image is not there, in the original's words.
fn missing(reference: &Reference) -> Error {
    Error::new(
        Kind::NotFound,
        format!("No image named '{}' exists", reference.familiar()),
    )
}

/// `localhost`, 127.0.0.0/8 or ::1, as written: what a name resolves to is somebody else's word.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn header(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> String {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

/// What a registry says about an error, if it says something readable.
fn words(body: &[u8]) -> String {
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else {
        return String::new();
    };
    let said = refusal
        .errors
        .iter()
        .flat_map(|error| error.message.as_deref().or(error.code.as_deref()));
    let said: String = said
        .collect::<Vec<_>>()
        .join(", ")
        .chars()
        .take(WORDS_MAX)
        .collect();
    if said.is_empty() {
        said
    } else {
        format!(": {said}")
    }
}

/// The innermost reason, which is the one that helps: "Connection refused", not "error sending request".
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(_) if error.is_timeout() => "it does not answer".to_owned(),
        Some(_) => error.to_string(),
        None => cause.to_string(),
    }
}

/// What TLS had to say, if it is to blame. An I/O error hides what it wraps from `source`.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match (error.downcast_ref(), wrapped) {
        (Some(found), _) => Some(found),
        (None, Some(wrapped)) => tls_error(wrapped),
        (None, None) => error.source().and_then(tls_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_literal_loopback_is_spoken_to_in_the_clear() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example.com",
            "example.com:5000",
            "128.0.0.1",
            "[::2]",
            "10.0.0.1:127",
            "127.0.0.1.example.com",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn the_words_of_a_registry_are_shown_shortened_and_anything_else_is_not() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no"},{"code":"UNKNOWN"},{}]}"#;
        assert_eq!(words(body), ": no, UNKNOWN");
        assert_eq!(words(b"<html>"), "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(10_000));
        assert_eq!(words(long.as_bytes()).len(), WORDS_MAX + 2);
    }
}
