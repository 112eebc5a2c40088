//! One repository at one address, the registry's or a mirror's: requests over HTTP with whatever authorization they need,
//! redirects, tries again, and what the answers mean (<https://github.com/opencontainers/distribution-spec>).
//!
//! Redirects are followed here and not by the HTTP library, so that it can be seen at one place who gets to know a secret:
//! the origin that a request was made for, and nobody else.

use std::cell::{Cell, OnceCell, RefCell};
use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bocker_pipe::reference::Reference;
use bocker_pipe::{Call, Error, Kind, Result};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{self, Instant};

use crate::auth::Auth;
use crate::credentials::Source;
use crate::dns::{Dns, Unresolved};
use crate::limits::{self, Limit};
use crate::notices::Notices;
use crate::retry::{self, Again, Failure, RETRIES, Retries};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may send next to nothing, unless the user says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What is next to nothing: fewer bytes than this in a second, over all of that time.
const SLOWEST: u64 = 1024;
/// How many redirects lead to an answer at most.
const REDIRECTS_MAX: usize = 10;
/// How much of an error's body is looked at.
const ERROR_MAX: u64 = 64 << 10;
/// How much of a registry's own words is shown.
const WORDS_MAX: usize = 300;

/// What the user said about how to speak to registries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Without TLS, whatever the address.
    pub(crate) plain_http: bool,
    /// How long a server may be silent, or next to it.
    pub(crate) timeout: Duration,
    /// How often a request is tried again.
    pub(crate) retries: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            plain_http: false,
            timeout: TIMEOUT,
            retries: RETRIES,
        }
    }
}

impl Options {
    /// Takes an option, if it is one of these. Fails with [`Kind::Usage`] when its value is none.
    pub(crate) fn take(&mut self, call: &mut Call, option: &str) -> Result<bool> {
        match option {
            "--plain-http" => self.plain_http = true,
            "--retries" => self.retries = call.number()?,
            "--timeout" => match call.number()? {
                0 => return Err(Error::new(Kind::Usage, "--timeout is at least 1")),
                seconds => self.timeout = Duration::from_secs(seconds),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// One repository.
pub(crate) struct Endpoint {
    /// Made at the first request: reading the system's certificates takes a while, and a mirror may never be asked.
    client: OnceCell<Client>,
    base: Url,
    /// For errors: `the registry docker.io`.
    title: String,
    /// For errors: what is asked for, as people write it, and the registry's name as they log in to it.
    pub(crate) subject: String,
    pub(crate) domain: String,
    plain: bool,
    loopback: bool,
    options: Options,
    pub(crate) auth: Auth,
    pub(crate) notices: Rc<Notices>,
    /// Whether it has ever answered anything.
    answered: Cell<bool>,
    limit: RefCell<Option<Limit>>,
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

impl Endpoint {
    /// The repository of a reference at its own registry, to do `actions` there: `pull` or `pull,push`. No request is made
    /// yet. Loopback is spoken to without TLS, all else with it unless the user said otherwise.
    pub(crate) fn upstream(
        reference: &Reference,
        actions: &str,
        options: Options,
        notices: &Rc<Notices>,
    ) -> Result<Endpoint> {
        let host = reference.host();
        let plain = options.plain_http || is_loopback(host);
        let scheme = if plain { "http" } else { "https" };
        let address = format!("{scheme}://{host}/v2/{}/", reference.path());
        let mut endpoint = Endpoint::at(&address, reference.domain(), "registry", options)?;
        endpoint.subject = reference.familiar();
        endpoint.notices = Rc::clone(notices);
        endpoint.auth = Auth::new(Source::of(reference.repository()));
        endpoint.want(&format!("repository:{}:{actions}", reference.path()));
        Ok(endpoint)
    }

    /// Anything of the registry protocol at an address that ends with a slash. Without TLS if the address says so.
    pub(crate) fn at(
        address: &str,
        domain: &str,
        role: &str,
        options: Options,
    ) -> Result<Endpoint> {
        let title = format!("the {role} {domain}");
        let base = Url::parse(address).map_err(|error| {
            Error::new(Kind::Invalid, format!("{title} is not a host: {error}"))
        })?;
        Ok(Endpoint {
            client: OnceCell::new(),
            plain: base.scheme() == "http",
            loopback: base.host_str().is_some_and(is_loopback),
            base,
            title,
            subject: domain.to_owned(),
            domain: domain.to_owned(),
            options,
            auth: Auth::new(Source::Nobody),
            notices: Rc::default(),
            answered: Cell::new(false),
            limit: RefCell::new(None),
        })
    }

    /// The address of something in the repository: `blobs/sha256:...`.
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        self.base.join(path).map_err(|error| {
            Error::new(
                Kind::Invalid,
                format!("'{path}' is not an address: {error}"),
            )
        })
    }

    /// The same for people.
    pub(crate) fn shown(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Where an answer says to go on, if it does.
    pub(crate) fn location(response: &Response) -> Option<Url> {
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        response.url().join(location).ok()
    }

    /// How often a request is tried again.
    pub(crate) fn retries(&self) -> Retries {
        Retries::new(self.options.retries)
    }

    /// Makes a request that may need authorization: its challenge is answered once, also when a token has expired meanwhile.
    /// `shape` adds headers and the body, anew for each try. The answer may be of any status, see [`Endpoint::accepted`].
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let mut challenged = false;
        loop {
            let authorization = match self.is_ours(url) {
                true => self.authorization().await?,
                false => None,
            };
            let response = self
                .exchange(&method, url, authorization.as_ref(), &shape)
                .await?;
            // Another server, to which we were redirected, has no say in where our secrets go.
            let asked =
                response.status() == StatusCode::UNAUTHORIZED && self.is_ours(response.url());
            if !asked || challenged {
                return Ok(response);
            }
            challenged = self
                .answer(response.headers(), authorization.as_ref())
                .await?;
        }
    }

    /// Makes a request as it is, again when that is worth it.
    pub(crate) async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        authorization: Option<&HeaderValue>,
        shape: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response> {
        let mut retries = self.retries();
        loop {
            let outcome = self.follow(method, url, authorization, shape).await;
            let again = match &outcome {
                Ok(response) => retry::of_answer(
                    response.status(),
                    response.headers(),
                    method.is_idempotent(),
                ),
                Err(failure) if method.is_idempotent() => failure.again,
                Err(_) => Again::Never,
            };
            if !retries.allow(again) {
                return outcome.map_err(Error::from);
            }
            match &outcome {
                Ok(response) => {
                    let status = response.status().as_u16();
                    self.note(&format!("answered {status}, it is asked again"));
                }
                Err(failure) => self.again(failure),
            }
            drop(outcome);
            retries.wait(again).await;
        }
    }

    /// Makes one request and goes where it is sent. What identifies us does not go to another scheme, host or port.
    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        mut authorization: Option<&HeaderValue>,
        shape: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failure> {
        let client = self.client()?;
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = shape(client.request(method.clone(), at.clone()))
                // The digest is that of the bytes as they are stored: nobody may compress them on the way.
                .header(ACCEPT_ENCODING, "identity");
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let response = self.patiently(method, request).await?;
            self.answered.set(true);
            self.hear(response.headers());
            let moved = response.status().is_redirection()
                && response.status() != StatusCode::NOT_MODIFIED
                && matches!(*method, Method::GET | Method::HEAD);
            let next = match Endpoint::location(&response).filter(|_| moved) {
                Some(next) => next,
                None => return Ok(response),
            };
            let downgrade = at.scheme() == "https" && next.scheme() != "https";
            if downgrade || !matches!(next.scheme(), "http" | "https") {
                let what = format!("redirects from {} to {}", at.scheme(), next.scheme());
                return Err(self.says(&what).into());
            }
            if next.origin() != url.origin() {
                authorization = None;
            }
            at = next;
        }
        Err(self
            .says(&format!("redirects more than {REDIRECTS_MAX} times"))
            .into())
    }

    /// Waits for the head of an answer. A request with a body may take as long as the connection lives.
    async fn patiently(
        &self,
        method: &Method,
        request: RequestBuilder,
    ) -> Result<Response, Failure> {
        let sent = request.send();
        let sent = match *method {
            Method::PUT | Method::PATCH => sent.await,
            _ => time::timeout(self.options.timeout, sent)
                .await
                .map_err(|_| self.silent())?,
        };
        sent.map_err(|error| self.unreachable(error))
    }

    /// Passes a good answer on and turns any other into the error that it means.
    pub(crate) async fn accepted(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied()),
            StatusCode::TOO_MANY_REQUESTS => {
                let limit = limits::of(response.headers());
                let limit = limit.map(|limit| format!(": {limit}"));
                let error = self.says(&format!(
                    "has been asked too often (429){}",
                    limit.unwrap_or_default()
                ));
                Err(match retry::after(response.headers()) {
                    Some(pause) => error.hint(format!("try again in {} seconds", pause.as_secs())),
                    None => error.hint("try again later"),
                })
            }
            _ => {
                // An error's body is a courtesy: one that cannot be read leaves the status.
                let body = Body::new(self, response).all(ERROR_MAX, "error").await;
                let words = body.map(|body| words(&body)).unwrap_or_default();
                Err(self.says(&format!("answered {}{words}", status.as_u16())))
            }
        }
    }

    /// An error that the other side is to blame for.
    pub(crate) fn says(&self, what: &str) -> Error {
        Error::new(Kind::Remote, format!("{} {what}", self.title))
    }

    /// A line to show about the other side.
    pub(crate) fn note(&self, what: &str) {
        self.notices.add(&format!("{} {what}", self.title));
    }

    /// Notes a failure that is not the end.
    pub(crate) fn again(&self, failure: &Failure) {
        let message = failure.error.message();
        self.notices.add(&format!("{message}; trying again"));
    }

    /// Whether an address belongs to the server that the repository is on.
    pub(crate) fn is_ours(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Whether a secret may be sent to an address: where it cannot be overheard, or where the user wanted it so.
    pub(crate) fn may_carry_secrets(&self, url: &Url) -> bool {
        url.scheme() == "https" || url.host_str().is_some_and(is_loopback) || self.is_ours(url)
    }

    /// Notes what every answer may say beside what was asked.
    fn hear(&self, headers: &HeaderMap) {
        for warning in limits::warnings(headers) {
            self.note(&format!("says: {warning}"));
        }
        if let Some(limit) = limits::of(headers) {
            if limit.is_low() {
                self.note(&format!("limits how much is pulled: {limit}"));
            }
            *self.limit.borrow_mut() = Some(limit);
        }
    }

    /// How much more may be pulled, if the other side has said so.
    pub(crate) fn limit(&self) -> Option<Limit> {
        self.limit.borrow().clone()
    }

    fn silent(&self) -> Failure {
        let seconds = self.options.timeout.as_secs();
        Failure::passing(
            self.says(&format!("has sent next to nothing for {seconds} s"))
                .hint("--timeout SECONDS waits longer"),
        )
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // A second provider is refused, the first one stays: either way there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("bocker-pull/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT.min(self.options.timeout))
                // Ends a connection to a machine that is gone, also while we only send.
                .tcp_user_timeout(self.options.timeout)
                .dns_resolver(Dns::default())
                .referer(false)
                .redirect(Policy::none())
                // Nor may a token server take us from TLS to plain text.
                .https_only(!self.plain);
            if self.loopback {
                builder.no_proxy()
            } else {
                builder
            }
        };
        let client = match builder().build() {
            // A machine without certificates can still use what needs none.
            Err(_) if self.plain => builder().tls_certs_only([]).build(),
            result => result,
        };
        let client = client.map_err(|error| {
            Error::new(
                Kind::Unsupported,
                format!("cannot set up TLS: {}", root_cause(&error)),
            )
            .hint("install the certificates of the authorities: ca-certificates on most systems")
        })?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Of a request that got no answer, or only the beginning of one.
    fn unreachable(&self, error: reqwest::Error) -> Failure {
        // The address of a redirect may hold a signature that is a secret.
        let error = error.without_url();
        let failed = Error::new(
            Kind::Remote,
            format!("cannot talk to {}: {}", self.title, root_cause(&error)),
        );
        match find::<rustls::Error>(&error) {
            Some(rustls::Error::InvalidMessage(_)) => {
                return failed
                    .hint("if it speaks plain HTTP, say --plain-http")
                    .into();
            }
            Some(rustls::Error::InvalidCertificate(_)) => {
                return failed
                    .hint("SSL_CERT_FILE names the certificates to trust instead of the system's")
                    .into();
            }
            _ => {}
        }
        // Where nobody has answered yet, most likely nobody is: the name or the port is wrong.
        let hopeless = error.is_builder() || find::<Unresolved>(&error).is_some();
        match hopeless || !self.answered.get() {
            true => failed
                .hint("check name and port; where the way leads through a proxy, http_proxy and https_proxy name it")
                .into(),
            false => Failure::passing(failed),
        }
    }
}

/// The body of an answer, which has to come at a minimum of speed.
pub(crate) struct Body<'a> {
    endpoint: &'a Endpoint,
    response: Response,
    /// Since the last look at the speed: how long was waited, and what came.
    waited: Duration,
    came: u64,
}

impl<'a> Body<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint, response: Response) -> Body<'a> {
        Body {
            endpoint,
            response,
            waited: Duration::ZERO,
            came: 0,
        }
    }

    /// The next piece.
    pub(crate) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, Failure> {
        let patience = self.endpoint.options.timeout;
        loop {
            let began = Instant::now();
            let left = patience.saturating_sub(self.waited);
            let chunk = time::timeout(left, self.response.chunk()).await;
            // Only the waiting counts: that our own disk is slow is not the other side's fault.
            self.waited += began.elapsed();
            if let Ok(Ok(Some(chunk))) = &chunk {
                self.came += chunk.len() as u64;
            }
            if self.waited >= patience && !matches!(chunk, Ok(Ok(None))) {
                if self.came < SLOWEST.saturating_mul(patience.as_secs()) {
                    return Err(self.endpoint.silent());
                }
                (self.waited, self.came) = (Duration::ZERO, 0);
            }
            // Otherwise time is up, but enough has come before.
            if let Ok(chunk) = chunk {
                return chunk.map_err(|error| self.endpoint.unreachable(error));
            }
        }
    }

    /// All of it, at most `max` bytes.
    pub(crate) async fn all(mut self, max: u64, what: &str) -> Result<Vec<u8>, Failure> {
        let endpoint = self.endpoint;
        let too_large = || endpoint.says(&format!("sent a {what} of more than {max} bytes"));
        if self
            .response
            .content_length()
            .is_some_and(|length| length > max)
        {
            return Err(too_large().into());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(chunk.as_ref());
            if bytes.len() as u64 > max {
                return Err(too_large().into());
            }
        }
        Ok(bytes)
    }
}

/// `localhost`, 127.0.0.0/8 or ::1, as written, with or without a port: what a name resolves to is somebody else's word.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A header as text; empty when there is none that can be read.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    let value = headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
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
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        Some(_) if error.is_timeout() => "it does not answer".to_owned(),
        Some(_) => error.to_string(),
        None => {
            let text = cause.to_string();
            // The number says no more than the words before it.
            let words = text.split_once(" (os error ").map(|(words, _)| words);
            words.unwrap_or(&text).to_owned()
        }
    }
}

/// An error of one kind among the causes of another. An I/O error hides what it wraps from `source`.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match (error.downcast_ref(), wrapped) {
        (Some(found), _) => Some(found),
        (None, Some(wrapped)) => find(wrapped),
        (None, None) => error.source().and_then(find),
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
    fn a_secret_goes_where_nobody_listens_or_where_the_user_wants_it() {
        let options = Options::default();
        let endpoint = |address| Endpoint::at(address, "r", "registry", options).unwrap();
        let may =
            |endpoint: &Endpoint, url: &str| endpoint.may_carry_secrets(&Url::parse(url).unwrap());
        let tls = endpoint("https://r.example/v2/x/");
        assert!(may(&tls, "https://elsewhere.example/token"));
        assert!(may(&tls, "http://127.0.0.1:5001/token"));
        assert!(may(&tls, "http://[::1]/token"));
        assert!(!may(&tls, "http://r.example/token"));
        assert!(!may(&tls, "http://elsewhere.example/token"));
        let plain = endpoint("http://r.example:5000/v2/x/");
        assert!(may(&plain, "http://r.example:5000/token"));
        assert!(!may(&plain, "http://r.example:5001/token"));
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
