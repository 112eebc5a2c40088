//! Answers to challenges: Bearer tokens, anonymous or for credentials
//! (<https://distribution.github.io/distribution/spec/auth/token/>, `.../oauth/`), and Basic
//! (<https://www.rfc-editor.org/rfc/rfc7617>). Credentials are looked for when a challenge comes, not before.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bocker_pipe::step::quote;
use bocker_pipe::{Error, Kind, Result};
use futures_util::lock::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::challenge;
use crate::credentials::{Credential, Found, Source};
use crate::endpoint::{Body, Endpoint};

/// Who we are to a token server.
const CLIENT_ID: &str = "bocker";
const FORM: &str = "application/x-www-form-urlencoded";
const TOKEN_MAX: u64 = 1 << 20;
/// How long a token lives if its server does not say, and at least.
const LIFE: u64 = 60;
/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(10);

/// What is known about how to be let in at one server.
pub(crate) struct Auth {
    source: Source,
    credential: OnceCell<Option<Found>>,
    /// What is to be done there: `repository:team/app:pull`.
    scopes: RefCell<Vec<Scope>>,
    /// As the last challenge had it.
    scheme: RefCell<Option<Scheme>>,
    tokens: RefCell<BTreeMap<Grant, Token>>,
    /// One request at a time answers a challenge; those that were challenged with it find the answer.
    turn: Mutex<()>,
    /// Whether a token is asked for that can be kept, as at a login.
    offline: Cell<bool>,
    identity_token: RefCell<Option<String>>,
}

#[derive(Debug, Clone)]
enum Scheme {
    Basic(HeaderValue),
    Bearer { realm: Url, service: Option<String> },
}

/// What a token is asked for, and where: the key under which it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
}

#[derive(Debug, Clone)]
struct Token {
    header: HeaderValue,
    until: Option<Instant>,
}

/// What may be done to something: `repository:team/app:pull,push`. A name may hold a port, so the last colon divides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    resource: String,
    actions: Vec<String>,
}

/// The answer of a token server: either name is in use.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Value,
}

impl Auth {
    /// With credentials from there.
    pub(crate) fn new(source: Source) -> Auth {
        Auth {
            source,
            credential: OnceCell::new(),
            scopes: RefCell::default(),
            scheme: RefCell::new(None),
            tokens: RefCell::default(),
            turn: Mutex::new(()),
            offline: Cell::new(false),
            identity_token: RefCell::new(None),
        }
    }

    /// The same, asking for a token that can be kept in place of the password.
    pub(crate) fn offline(source: Source) -> Auth {
        let auth = Auth::new(source);
        auth.offline.set(true);
        auth
    }

    /// The token in place of the password, if the server gave one.
    pub(crate) fn identity_token(&self) -> Option<String> {
        self.identity_token.borrow().clone()
    }

    /// Whether a challenge has been answered.
    pub(crate) fn was_challenged(&self) -> bool {
        self.scheme.borrow().is_some()
    }

    fn credential(&self) -> Result<Option<&Found>> {
        if self.credential.get().is_none() {
            let found = self.source.find()?;
            let _ = self.credential.set(found);
        }
        Ok(self.credential.get().and_then(Option::as_ref))
    }

    fn grant(&self, realm: &Url, service: Option<&str>) -> Grant {
        let scopes = self.scopes.borrow();
        Grant {
            realm: realm.clone(),
            service: service.map(str::to_owned),
            scopes: scopes.iter().map(Scope::to_string).collect(),
        }
    }

    /// The header that is in use, be it worth anything or not.
    fn current(&self) -> Option<HeaderValue> {
        match self.scheme.borrow().as_ref()? {
            Scheme::Basic(header) => Some(header.clone()),
            Scheme::Bearer { realm, service } => {
                let grant = self.grant(realm, service.as_deref());
                let tokens = self.tokens.borrow();
                tokens.get(&grant).map(|token| token.header.clone())
            }
        }
    }

    fn want(&self, scope: Scope) {
        let mut scopes = self.scopes.borrow_mut();
        let known = scopes
            .iter_mut()
            .find(|known| known.resource == scope.resource);
        match known {
            Some(known) => {
                for action in scope.actions {
                    if !known.actions.contains(&action) {
                        known.actions.push(action);
                    }
                }
            }
            None => scopes.push(scope),
        }
    }
}

impl Endpoint {
    /// Adds something that is to be done here, before a challenge asks for it: `repository:other/app:pull`.
    pub(crate) fn want(&self, scope: &str) {
        self.auth.want(Scope::parse(scope));
    }

    /// What a request has to bring along, as far as is known.
    pub(crate) async fn authorization(&self) -> Result<Option<HeaderValue>> {
        let scheme = self.auth.scheme.borrow().clone();
        let (realm, service) = match scheme {
            None => return Ok(None),
            Some(Scheme::Basic(header)) => return Ok(Some(header)),
            Some(Scheme::Bearer { realm, service }) => (realm, service),
        };
        let _turn = self.auth.turn.lock().await;
        let grant = self.auth.grant(&realm, service.as_deref());
        let known = self.auth.tokens.borrow().get(&grant).cloned();
        let fresh = |token: &Token| token.until.is_none_or(|until| Instant::now() < until);
        if let Some(token) = known.filter(fresh) {
            return Ok(Some(token.header));
        }
        self.obtain(grant).await.map(Some)
    }

    /// Answers the challenge in an answer to a request that was made with `used`. `false` when another request has done it
    /// meanwhile.
    pub(crate) async fn answer(
        &self,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<bool> {
        let _turn = self.auth.turn.lock().await;
        let current = self.auth.current();
        if current.is_some() && current.as_ref() != used {
            return Ok(false);
        }
        let values = headers.get_all(WWW_AUTHENTICATE).into_iter();
        let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let challenges: Vec<_> = values
            .iter()
            .flat_map(|value| challenge::parse(value))
            .collect();
        let of = |scheme| challenges.iter().find(|one| challenge::is(one, scheme));
        let (bearer, basic) = (of("bearer"), of("basic"));
        let realm = bearer.and_then(|bearer| realm(challenge::get(bearer, "realm")?));
        let (Some(bearer), Some(realm)) = (bearer, realm) else {
            return match (bearer, basic, challenges.first()) {
                (_, Some(_), _) => self.basic(used).map(|()| true),
                (Some(_), None, _) => Err(self.says("asks for a token without saying where from")),
                (None, None, Some(other)) => {
                    let scheme = other.scheme;
                    let what = format!("wants to be logged in to by '{scheme}'");
                    Err(Error::new(
                        Kind::Unsupported,
                        self.says(&what).message().to_owned(),
                    ))
                }
                (None, None, None) => Err(self.denied()),
            };
        };
        let scopes = challenge::get(bearer, "scope").unwrap_or_default();
        for scope in scopes.split_ascii_whitespace() {
            self.want(scope);
        }
        let service = challenge::get(bearer, "service");
        let grant = self.auth.grant(&realm, service.as_deref());
        *self.auth.scheme.borrow_mut() = Some(Scheme::Bearer { realm, service });
        let header = self.obtain(grant).await?;
        match used == Some(&header) {
            true => Err(self.denied()),
            false => Ok(true),
        }
    }

    fn basic(&self, used: Option<&HeaderValue>) -> Result<()> {
        let Some(Found {
            credential: Credential::Password { user, secret },
            ..
        }) = self.auth.credential()?
        else {
            return Err(self.denied());
        };
        let header = basic(user, secret).ok_or_else(|| self.denied())?;
        if used == Some(&header) {
            return Err(self.denied());
        }
        *self.auth.scheme.borrow_mut() = Some(Scheme::Basic(header));
        Ok(())
    }

    /// Gets a token and keeps it.
    async fn obtain(&self, grant: Grant) -> Result<HeaderValue> {
        let found = self.auth.credential()?;
        // A password in plain text would be everybody's: then rather what everybody gets.
        let found = found.filter(|_| self.may_carry_secrets(&grant.realm));
        let unusable = || self.says("sent a token that is none");
        let (token, life) = match found.map(|found| &found.credential) {
            Some(Credential::RegistryToken(token)) => (token.clone(), None),
            credential => {
                let response = self.ask(&grant, credential).await?;
                if matches!(
                    response.status(),
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                ) {
                    return Err(self.denied());
                }
                let response = self.accepted(response).await?;
                let bytes = Body::new(self, response).all(TOKEN_MAX, "token").await?;
                let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| unusable())?;
                let filled = |token: &String| !token.is_empty();
                if self.auth.offline.get() {
                    *self.auth.identity_token.borrow_mut() = answer.refresh_token.filter(filled);
                }
                let token = answer.token.filter(filled);
                let token = token.or(answer.access_token.filter(filled));
                let life = answer.expires_in.as_u64().unwrap_or_default().max(LIFE);
                (token.ok_or_else(unusable)?, Some(life))
            }
        };
        let mut header =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| unusable())?;
        header.set_sensitive(true);
        let until = life.and_then(|life| {
            Instant::now().checked_add(Duration::from_secs(life).saturating_sub(MARGIN))
        });
        let token = Token {
            header: header.clone(),
            until,
        };
        self.auth.tokens.borrow_mut().insert(grant, token);
        Ok(header)
    }

    /// Asks a token server.
    async fn ask(&self, grant: &Grant, credential: Option<&Credential>) -> Result<Response> {
        let header = match credential {
            Some(Credential::IdentityToken(token)) => {
                return self
                    .post(
                        grant,
                        &[("grant_type", "refresh_token"), ("refresh_token", token)],
                    )
                    .await;
            }
            Some(Credential::Password { user, secret }) => {
                Some(basic(user, secret).ok_or_else(|| self.denied())?)
            }
            _ => None,
        };
        let mut address = grant.address();
        if self.auth.offline.get() {
            let mut query = address.query_pairs_mut();
            query.append_pair("offline_token", "true");
            query.append_pair("client_id", CLIENT_ID);
        }
        let response = self
            .exchange(&Method::GET, &address, header.as_ref(), &|request| request)
            .await?;
        match (response.status(), credential) {
            // Some speak OAuth2 only.
            (
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED,
                Some(Credential::Password { user, secret }),
            ) => {
                let mut form = vec![
                    ("grant_type", "password"),
                    ("username", user),
                    ("password", secret),
                ];
                if self.auth.offline.get() {
                    form.push(("access_type", "offline"));
                }
                self.post(grant, &form).await
            }
            _ => Ok(response),
        }
    }

    /// Asks a token server by OAuth2. A form is never sent on to where a redirect leads.
    async fn post(&self, grant: &Grant, form: &[(&str, &str)]) -> Result<Response> {
        let mut encoded = grant.realm.clone();
        {
            let mut pairs = encoded.query_pairs_mut();
            pairs.clear().extend_pairs(form);
            pairs.append_pair("client_id", CLIENT_ID);
            if let Some(service) = &grant.service {
                pairs.append_pair("service", service);
            }
            if !grant.scopes.is_empty() {
                pairs.append_pair("scope", &grant.scopes.join(" "));
            }
        }
        let body = encoded.query().unwrap_or_default().to_owned();
        self.exchange(&Method::POST, &grant.realm, None, &|request| {
            request.header(CONTENT_TYPE, FORM).body(body.clone())
        })
        .await
    }

    /// An error for what is not given to us.
    pub(crate) fn denied(&self) -> Error {
        let Endpoint {
            subject, domain, ..
        } = self;
        if let Source::Given(credential) = &self.auth.source {
            let user = credential.user().unwrap_or_default();
            return self
                .says(&format!("does not accept the password of '{user}'"))
                .hint("many registries want an access token in its place");
        }
        let (user, hint) = match self.auth.credential.get().and_then(Option::as_ref) {
            Some(Found { credential, origin }) => (
                credential.user().unwrap_or("you").to_owned(),
                format!("the credentials are from {origin}; 'bocker login {domain}' replaces them"),
            ),
            None => (
                "everybody".to_owned(),
                format!("check the name, or log in: bocker login {domain}"),
            ),
        };
        self.says(&format!("does not give '{subject}' to {user}"))
            .hint(hint)
    }

    /// How `curl` would be let in: the line that gets a token, and the option to use it or a password.
    pub(crate) fn shown_authorization(&self) -> (Option<String>, String) {
        let user = match self.auth.credential.get().and_then(Option::as_ref) {
            Some(found) => found.credential.user().map(quote),
            None => None,
        };
        let user = user.map(|user| format!(" -u {user}")).unwrap_or_default();
        match self.auth.scheme.borrow().as_ref() {
            None => (None, String::new()),
            Some(Scheme::Basic(_)) => (None, user),
            Some(Scheme::Bearer { realm, service }) => {
                let address = self.auth.grant(realm, service.as_deref()).address();
                let line = format!(
                    "TOKEN=$(curl -fsS{user} {} | jq -r '.token // .access_token')",
                    quote(address.as_str())
                );
                (
                    Some(line),
                    r#" -H "Authorization: Bearer $TOKEN""#.to_owned(),
                )
            }
        }
    }
}

impl Grant {
    /// Where it is got by GET.
    fn address(&self) -> Url {
        let mut address = self.realm.clone();
        if self.service.is_some() || !self.scopes.is_empty() {
            let mut query = address.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
        }
        address
    }
}

impl Scope {
    fn parse(text: &str) -> Scope {
        let (resource, actions) = text.rsplit_once(':').unwrap_or((text, ""));
        Scope {
            resource: resource.to_owned(),
            actions: actions
                .split(',')
                .filter(|action| !action.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.resource)?;
        match self.actions.as_slice() {
            [] => Ok(()),
            actions => write!(f, ":{}", actions.join(",")),
        }
    }
}

/// Where tokens come from, if that is somewhere one can ask.
fn realm(text: String) -> Option<Url> {
    let realm = Url::parse(&text).ok()?;
    matches!(realm.scheme(), "http" | "https").then_some(realm)
}

fn basic(user: &str, secret: &str) -> Option<HeaderValue> {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{secret}"));
    let mut header = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_for_one_repository_become_one_and_the_last_colon_divides() {
        let auth = Auth::new(Source::Nobody);
        for scope in [
            "repository:host:5000/x:pull",
            "repository:host:5000/x:pull,push",
            "repository:y:pull",
            "repository:y:pull",
            "aws",
        ] {
            auth.want(Scope::parse(scope));
        }
        let realm = Url::parse("http://t/x?a=b").unwrap();
        let grant = auth.grant(&realm, Some("s"));
        assert_eq!(
            grant.scopes,
            [
                "repository:host:5000/x:pull,push",
                "repository:y:pull",
                "aws"
            ]
        );
        assert_eq!(
            grant.address().as_str(),
            "http://t/x?a=b&service=s&scope=repository%3Ahost%3A5000%2Fx%3Apull%2Cpush\
             &scope=repository%3Ay%3Apull&scope=aws"
        );
    }
}
