//! The verbs `login` and `logout`: credentials that a registry has accepted, kept where docker keeps them. The password comes from
//! stdin, or is asked for at the terminal.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};

use bocker_pipe::reference::Reference;
use bocker_pipe::step::quote;
use bocker_pipe::{Arg, Call, Doing, Error, Kind, Result, Step};
use reqwest::Method;
use tokio::runtime;

use crate::auth::Auth;
use crate::credentials::{Credential, Source, Store, to_write};
use crate::download::patiently;
use crate::endpoint::{Endpoint, Options, is_loopback};
use crate::mirrors;
use crate::progress::{Progress, Style};
use crate::prompt;

/// The registry that is meant when none is named.
const DEFAULT: &str = "docker.io";
/// The longest password that is read.
const SECRET_MAX: u64 = 64 << 10;

/// What the step needs, and what it has found before it.
struct Login {
    registry: String,
    store: Store,
    credential: Credential,
    before: Option<Credential>,
}

/// `login [REGISTRY] [-u USER] [--password-stdin]`.
pub(crate) fn login(call: &mut Call) -> Result<()> {
    let (mut registry, mut user, mut piped) = (None, None, false);
    let mut options = Options::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => match option.as_str() {
                "-u" | "--username" => user = Some(call.text()?),
                "--password-stdin" => piped = true,
                other if options.take(call, other)? => {}
                _ => return Err(call.unknown(&option)),
            },
            Arg::Value(word) if registry.is_none() => registry = Some(word),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let registry = name(registry)?;
    let is_asked = !piped && io::stdin().is_terminal();
    if is_asked {
        call.catch_signals();
    }
    let user = match user {
        None if is_asked => prompt::ask("Username", false)?,
        Some(user) if is_asked || piped => user,
        _ => {
            return Err(Error::new(
                Kind::Usage,
                "without a terminal to ask at, a login needs -u USER and --password-stdin",
            )
            .hint("the password is read from stdin, so that it stands in no list of processes"));
        }
    };
    if user.is_empty() || user.contains(':') {
        return Err(Error::new(
            Kind::Usage,
            "a user's name is not empty and has no ':' in it",
        ));
    }
    let secret = match is_asked {
        true => prompt::ask("Password", true)?,
        false => password()?,
    };
    if secret.is_empty() {
        return Err(Error::new(Kind::Usage, "the password is empty"));
    }
    let credential = Credential::Password { user, secret };
    let store = Store::at(to_write()?);
    let credential = match call.dry_run() {
        true => credential,
        false => check(&registry, credential, options)?,
    };
    let mut login = Login {
        registry,
        store,
        credential,
        before: None,
    };
    call.run_steps(&mut login, vec![keep()])?;
    match call.dry_run() {
        true => Ok(()),
        false => say("Login Succeeded"),
    }
}

/// `logout [REGISTRY]`.
pub(crate) fn logout(call: &mut Call) -> Result<()> {
    let mut registry = None;
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) if registry.is_none() => registry = Some(word),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let registry = name(registry)?;
    let store = Store::at(to_write()?);
    let Some(credential) = store.read()?.own(&registry)? else {
        return say(&format!("Not logged in to {registry}"));
    };
    let said = format!("Removing login credentials for {registry}");
    let mut logout = Login {
        registry,
        store,
        credential,
        before: None,
    };
    call.run_steps(&mut logout, vec![forget()])?;
    match call.dry_run() {
        true => Ok(()),
        false => say(&said),
    }
}

/// A registry as it is named before the first slash of a reference, or an address of it.
fn name(word: Option<OsString>) -> Result<String> {
    let Some(word) = word else {
        return Ok(DEFAULT.to_owned());
    };
    let wrong = |text: &str| {
        Error::new(Kind::Invalid, format!("'{text}' is not a registry"))
            .hint("name it as HOST[:PORT]")
    };
    let text = word
        .to_str()
        .ok_or_else(|| wrong(&word.to_string_lossy()))?;
    let rest = text
        .strip_prefix("https://")
        .or(text.strip_prefix("http://"));
    let host = rest.unwrap_or(text).split('/').next().unwrap_or_default();
    // The grammar of a registry's name is that of the first part of a reference.
    match Reference::parse(&format!("{host}/x")) {
        Ok(reference) if reference.domain() == host || host == "index.docker.io" => {
            Ok(reference.domain().to_owned())
        }
        _ => Err(wrong(text)),
    }
}

/// The password: all of stdin, without the end of its line.
fn password() -> Result<String> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            "stdin is a terminal, and the password is read from it",
        )
        .hint("pipe it in"));
    }
    let mut secret = String::new();
    stdin
        .take(SECRET_MAX)
        .read_to_string(&mut secret)
        .doing(|| "read the password".into())?;
    let secret = secret.strip_suffix('\n').unwrap_or(&secret);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    Ok(secret.to_owned())
}

/// Asks the registry whether it accepts them. What is to be kept is answered: a token in their place, if it gives one.
fn check(registry: &str, credential: Credential, mut options: Options) -> Result<Credential> {
    let known = mirrors::of(registry)?;
    options.plain_http |= known.plain_http;
    let reference = Reference::parse(&format!("{registry}/x"))?;
    let host = reference.host();
    let scheme = match options.plain_http || is_loopback(host) {
        true => "http",
        false => "https",
    };
    let base = format!("{scheme}://{host}/v2/");
    let mut endpoint = Endpoint::at(&base, registry, "registry", options)?;
    endpoint.auth = Auth::offline(Source::Given(credential.clone()));
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "prepare for network traffic".into())?;
    let url = endpoint.url("")?;
    let asked = async {
        let response = endpoint.send(Method::GET, &url, |request| request).await?;
        endpoint.accepted(response).await
    };
    patiently(
        &runtime,
        &Progress::waiting(Style::Plain),
        &endpoint.notices,
        asked,
    )??;
    if !endpoint.auth.was_challenged() {
        say(&format!(
            "{registry} asks nobody to log in: the password was not checked"
        ))?;
    }
    Ok(match endpoint.auth.identity_token() {
        Some(token) => Credential::IdentityToken(token),
        None => credential,
    })
}

fn keep() -> Step<Login> {
    Step::new(
        "pull.login",
        "the credentials that the registry has accepted, where docker and podman find them too",
    )
    .command(|login: &Login| {
        let user = login.credential.user().unwrap_or("<token>");
        vec![format!(
            "docker login -u {} --password-stdin {}",
            quote(user),
            quote(&login.registry)
        )]
    })
    .look(look)
    .apply(|login| {
        login.before = login.store.put(&login.registry, &login.credential)?;
        Ok(())
    })
    .undo(|login| match &login.before {
        Some(before) => login.store.put(&login.registry, before).map(drop),
        None => login.store.remove(&login.registry).map(drop),
    })
}

fn forget() -> Step<Login> {
    Step::new("pull.logout", "the registry is nobody's any more")
        .command(|login: &Login| vec![format!("docker logout {}", quote(&login.registry))])
        .look(look)
        .apply(|login| {
            login.before = login.store.remove(&login.registry)?;
            Ok(())
        })
        .undo(|login| match &login.before {
            Some(before) => login.store.put(&login.registry, before).map(drop),
            None => Ok(()),
        })
}

fn look(login: &Login) -> String {
    let path = login.store.path().display().to_string();
    format!("jq '.auths | keys' {}", quote(&path))
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").doing(|| "write to stdout".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_named_as_people_do() {
        for (word, expected) in [
            (None, "docker.io"),
            (Some("docker.io"), "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("r.example:5000"), "r.example:5000"),
            (Some("localhost"), "localhost"),
            (Some("http://[::1]:5000/"), "[::1]:5000"),
        ] {
            let named = name(word.map(OsString::from)).unwrap();
            assert_eq!(named, expected, "{word:?}");
        }
        for word in ["", "team", "a b", "r.example/../x:", "-"] {
            if let Ok(named) = name(Some(word.into())) {
                assert_eq!((word, named.as_str()), ("r.example/../x:", "r.example"));
            }
        }
    }
}
