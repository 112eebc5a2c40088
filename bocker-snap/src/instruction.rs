//! `--change`: instructions of a Dockerfile that alter how an image is run and make no layer
//! (<https://docs.docker.com/reference/dockerfile/>).
//!
//! Not the crate `parse-dockerfile`: it divides a file into instructions, which here come one by one, and leaves the arguments of
//! ENV, LABEL, EXPOSE and the others as the text that they are; quotes, variables and pairs are what there is to do.

use std::time::Duration;

use bocker_pipe::{Error, Kind, Result};
use serde_json::{Map, Value, json};

/// What runs the shell form of a command, unless the image says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// The protocols of ports.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
/// Signals have names, and numbers up to this one (signal(7), SIGRTMAX).
const LAST_SIGNAL: u8 = 64;
/// Not allowed in an ONBUILD, which itself cannot be one.
const NO_TRIGGERS: [&str; 3] = ["ONBUILD", "FROM", "MAINTAINER"];

/// What is wrong with an instruction.
type Parsed<T> = std::result::Result<T, String>;

/// Applies instructions to the `config` of an image. Fails with [`Kind::Invalid`] when one is malformed, or is none of those
/// that make no layer; `config` is of no use then.
pub(crate) fn apply(config: &mut Value, changes: &[String]) -> Result<()> {
    if !config.is_object() {
        *config = json!({});
    }
    let mut command_given = false;
    for change in changes {
        let (keyword, arguments) = split(change);
        let keyword = keyword.to_ascii_uppercase();
        command_given |= keyword == "CMD";
        apply_one(config, &keyword, arguments).map_err(|why| {
            Error::new(
                Kind::Invalid,
                format!("the change '{change}' is no good: {why}"),
            )
        })?;
        // Its words were meant for the former entry point.
        if keyword == "ENTRYPOINT" && !command_given {
            remove(config, "Cmd");
        }
    }
    Ok(())
}

fn apply_one(config: &mut Value, keyword: &str, arguments: &str) -> Parsed<()> {
    if arguments.is_empty() {
        return Err("it has no argument".into());
    }
    match keyword {
        "CMD" => config["Cmd"] = command(config, arguments),
        "ENTRYPOINT" => match command(config, arguments) {
            Value::Array(words) if words.is_empty() => remove(config, "Entrypoint"),
            words => config["Entrypoint"] = words,
        },
        "ENV" => {
            for (name, value) in pairs(config, arguments)? {
                set_variable(config, &name, &value);
            }
        }
        "LABEL" => {
            for (name, value) in pairs(config, arguments)? {
                member(config, "Labels").insert(name, value.into());
            }
        }
        "EXPOSE" => {
            for word in words(config, arguments)? {
                for port in ports(&word)? {
                    member(config, "ExposedPorts").insert(port, json!({}));
                }
            }
        }
        "VOLUME" => {
            let paths = match json_words(arguments) {
                Some(paths) => paths,
                None => words(config, arguments)?,
            };
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err("a volume has no path".into());
            }
            for path in paths {
                member(config, "Volumes").insert(path, json!({}));
            }
        }
        "USER" => config["User"] = one(config, arguments)?.into(),
        "WORKDIR" => {
            let path = one(config, arguments)?;
            let before = config["WorkingDir"].as_str().unwrap_or_default();
            config["WorkingDir"] = join(before, &path).into();
        }
        "STOPSIGNAL" => {
            let signal = one(config, arguments)?;
            if !is_signal(&signal) {
                return Err(format!("{signal} is no signal"));
            }
            config["StopSignal"] = signal.into();
        }
        "ONBUILD" => {
            let (trigger, _) = split(arguments);
            let trigger = trigger.to_ascii_uppercase();
            if NO_TRIGGERS.contains(&trigger.as_str()) {
                return Err(format!("{trigger} cannot be a trigger"));
            }
            match &mut config["OnBuild"] {
                Value::Array(triggers) => triggers.push(arguments.into()),
                none => *none = json!([arguments]),
            }
        }
        "HEALTHCHECK" => config["Healthcheck"] = health_check(arguments)?,
        _ => {
            return Err(
                "it is none of CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR"
                    .into(),
            );
        }
    }
    Ok(())
}

/// The first word, and what comes after it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn remove(config: &mut Value, key: &str) {
    if let Some(members) = config.as_object_mut() {
        members.shift_remove(key);
    }
}

/// A member that is an object, made at need.
fn member<'a>(config: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let slot = &mut config[key];
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(members) => members,
        _ => unreachable!("an object was put there"),
    }
}

/// The exec form, if it is one: a JSON array of strings.
fn json_words(arguments: &str) -> Option<Vec<String>> {
    serde_json::from_str(arguments).ok()
}

/// The words of a command in either form.
fn command(config: &Value, arguments: &str) -> Value {
    if let Some(words) = json_words(arguments) {
        return json!(words);
    }
    let own: Option<Vec<String>> = serde_json::from_value(config["Shell"].clone()).ok();
    let mut words = own.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec());
    words.push(arguments.to_owned());
    json!(words)
}

/// `NAME=VALUE...`, or `NAME VALUE` with a value up to the end.
fn pairs(config: &Value, arguments: &str) -> Parsed<Vec<(String, String)>> {
    let (first, rest) = split(arguments);
    if !first.contains('=') {
        if rest.is_empty() {
            return Err(format!("'{first}' has no value"));
        }
        return Ok(vec![(first.to_owned(), expand(config, rest)?)]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("'{word}' is not NAME=VALUE")),
    };
    words(config, arguments)?.into_iter().map(pair).collect()
}

fn set_variable(config: &mut Value, name: &str, value: &str) {
    let line = Value::from(format!("{name}={value}"));
    let is_it = |other: &Value| {
        let text = other.as_str().unwrap_or_default();
        text.split('=').next() == Some(name)
    };
    match &mut config["Env"] {
        Value::Array(lines) => match lines.iter_mut().find(|line| is_it(line)) {
            Some(former) => *former = line,
            None => lines.push(line),
        },
        none => *none = json!([line]),
    }
}

fn variable<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let lines = config["Env"].as_array()?.iter();
    let mut lines = lines.filter_map(|line| line.as_str()?.split_once('='));
    lines
        .find(|(other, _)| *other == name)
        .map(|(_, value)| value)
}

/// `80`, `80/udp`, `8000-8010`.
fn ports(word: &str) -> Parsed<Vec<String>> {
    let wrong = || format!("'{word}' is no port");
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last && PROTOCOLS.contains(&protocol.as_str()) => {
            Ok((first..=last)
                .map(|port| format!("{port}/{protocol}"))
                .collect())
        }
        _ => Err(wrong()),
    }
}

fn is_signal(text: &str) -> bool {
    match text.parse::<u8>() {
        Ok(number) => (1..=LAST_SIGNAL).contains(&number),
        Err(_) => {
            let name = text.strip_prefix("SIG").unwrap_or(text);
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || b"0123456789+-".contains(&byte))
        }
    }
}

/// A path that may be relative to another, without `.` and `..`.
fn join(before: &str, path: &str) -> String {
    let from = if path.starts_with('/') { "" } else { before };
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `NONE`, or `[OPTION...] CMD COMMAND`; durations are kept in nanoseconds.
fn health_check(arguments: &str) -> Parsed<Value> {
    let mut check = json!({});
    let mut left = arguments;
    loop {
        let (word, rest) = split(left);
        left = rest;
        let Some(option) = word.strip_prefix("--") else {
            let test = match (word.to_ascii_uppercase().as_str(), json_words(rest)) {
                ("NONE", _) if rest.is_empty() => json!(["NONE"]),
                ("CMD", Some(words)) => {
                    json!([vec!["CMD".to_owned()], words].concat())
                }
                ("CMD", None) if !rest.is_empty() => json!(["CMD-SHELL", rest]),
                _ => return Err("after the options comes NONE, or CMD and a command".into()),
            };
            check["Test"] = test;
            return Ok(check);
        };
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("'--{option}' has no value"))?;
        let wrong = || format!("'{value}' is no value for --{name}");
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => {
                check["Retries"] = value.parse::<u32>().map_err(|_| wrong())?.into();
                continue;
            }
            _ => return Err(format!("'--{name}' is unknown")),
        };
        let duration: Duration = humantime::parse_duration(value).map_err(|_| wrong())?;
        check[key] = u64::try_from(duration.as_nanos())
            .map_err(|_| wrong())?
            .into();
    }
}

/// Exactly one word, however it is written.
fn one(config: &Value, arguments: &str) -> Parsed<String> {
    match expand(config, arguments)? {
        word if word.trim().is_empty() => Err("its argument is empty".into()),
        word => Ok(word),
    }
}

fn expand(config: &Value, text: &str) -> Parsed<String> {
    Ok(lex(config, text, false)?
        .into_iter()
        .next()
        .unwrap_or_default())
}

fn words(config: &Value, text: &str) -> Parsed<Vec<String>> {
    lex(config, text, true)
}

/// Takes quotes and backslashes away and puts the image's variables in, as a shell would. With `divides`, blanks outside quotes
/// divide words.
fn lex(config: &Value, text: &str, divides: bool) -> Parsed<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if quote.is_none() && divides && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let here = word.get_or_insert_default();
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (Some('\''), c) => here.push(c),
            (None, '\\') => here.extend(rest.next()),
            (Some(_), '\\') => match rest.next_if(|next| "\"\\$".contains(*next)) {
                Some(next) => here.push(next),
                None => here.push('\\'),
            },
            (_, '$') => {
                let mut name = String::new();
                if rest.next_if_eq(&'{').is_some() {
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err("a '${' has no end".into()),
                        }
                    }
                    here.push_str(&parameter(config, &name)?);
                    continue;
                }
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                match name.is_empty() {
                    true => here.push('$'),
                    false => here.push_str(variable(config, &name).unwrap_or_default()),
                }
            }
            (_, c) => here.push(c),
        }
    }
    match quote {
        Some(quote) => Err(format!("a {quote} has no end")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

/// What stands between `${` and `}`: a name, perhaps with what is put in its place when it is set or not.
fn parameter(config: &Value, text: &str) -> Parsed<String> {
    let (name, otherwise) = match text.split_once(':') {
        Some((name, otherwise)) => (name, Some(otherwise)),
        None => (text, None),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(format!("'${{{text}}}' names no variable"));
    }
    let value = variable(config, name).filter(|value| !value.is_empty());
    match otherwise.map(|otherwise| (otherwise.chars().next(), otherwise.get(1..))) {
        None => Ok(value.unwrap_or_default().to_owned()),
        Some((Some('-'), Some(word))) => Ok(value.unwrap_or(word).to_owned()),
        Some((Some('+'), Some(word))) => Ok(value.map_or("", |_| word).to_owned()),
        Some(_) => Err(format!("'${{{text}}}' is not understood")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(before: Value, changes: &[&str]) -> Value {
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        let mut config = before;
        apply(&mut config, &changes).unwrap();
        config
    }

    #[test]
    fn commands_have_a_shell_form_and_an_exec_form() {
        let config = changed(
            Value::Null,
            &["CMD echo $HOME", r#"entrypoint ["/a", "b c"]"#],
        );
        assert_eq!(
            config,
            json!({"Cmd": ["/bin/sh", "-c", "echo $HOME"], "Entrypoint": ["/a", "b c"]})
        );
        let own = json!({"Shell": ["/bin/bash", "-ec"]});
        assert_eq!(
            changed(own, &["CMD x"])["Cmd"],
            json!(["/bin/bash", "-ec", "x"])
        );
        assert_eq!(
            changed(json!({}), &["CMD [not json"])["Cmd"],
            json!(["/bin/sh", "-c", "[not json"])
        );
    }

    #[test]
    fn a_new_entry_point_takes_the_former_ones_words_away() {
        let before = json!({"Entrypoint": ["old"], "Cmd": ["for", "old"]});
        assert_eq!(
            changed(before.clone(), &[r#"ENTRYPOINT ["new"]"#]),
            json!({"Entrypoint": ["new"]})
        );
        let both = changed(before.clone(), &[r#"CMD ["x"]"#, r#"ENTRYPOINT ["new"]"#]);
        assert_eq!(both["Cmd"], json!(["x"]));
        assert_eq!(changed(before, &["ENTRYPOINT []"]), json!({}));
    }

    #[test]
    fn variables_are_replaced_where_they_stand_and_may_use_others() {
        let before = json!({"Env": ["PATH=/bin", "A=1"]});
        let changes = [
            r#"ENV A=2 B="x y" C='$A' D=$A E=${NONE:-d}/${A:+set}"#,
            "ENV PATH=/new:$PATH",
            r"ENV F=\$A G=a\ b",
            "ENV H with several  words",
        ];
        assert_eq!(
            changed(before, &changes)["Env"],
            json!([
                "PATH=/new:/bin",
                "A=2",
                "B=x y",
                "C=$A",
                "D=1",
                "E=d/set",
                "F=$A",
                "G=a b",
                "H=with several  words"
            ])
        );
    }

    #[test]
    fn labels_ports_volumes_and_the_rest_are_docker_s() {
        let changes = [
            r#"LABEL a=b "with space"="x=y""#,
            "EXPOSE 80 53/udp 8000-8002/TCP",
            r#"VOLUME ["/data", "/with space"]"#,
            "VOLUME /a /b",
            "USER 1000:users",
            "WORKDIR /srv/./x",
            "WORKDIR ../www",
            "STOPSIGNAL SIGRTMIN+3",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f http://localhost",
        ];
        assert_eq!(
            changed(json!({}), &changes),
            json!({
                "Labels": {"a": "b", "with space": "x=y"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
                "Volumes": {"/data": {}, "/with space": {}, "/a": {}, "/b": {}},
                "User": "1000:users",
                "WorkingDir": "/srv/www",
                "StopSignal": "SIGRTMIN+3",
                "OnBuild": ["RUN make"],
                "Healthcheck": {
                    "Interval": 90_000_000_000_u64,
                    "Retries": 3,
                    "Test": ["CMD-SHELL", "curl -f http://localhost"],
                },
            })
        );
        assert_eq!(
            changed(json!({}), &["HEALTHCHECK NONE"])["Healthcheck"],
            json!({"Test": ["NONE"]})
        );
        let exec = changed(json!({}), &[r#"HEALTHCHECK CMD ["a", "b"]"#]);
        assert_eq!(exec["Healthcheck"]["Test"], json!(["CMD", "a", "b"]));
    }

    #[test]
    fn what_is_malformed_or_makes_a_layer_is_refused() {
        for change in [
            "",
            "CMD",
            "RUN make",
            "COPY a b",
            "FROM x",
            "FROB x",
            "ENV A",
            "ENV =x",
            "ENV A=1 B",
            "ENV A='x",
            "ENV A=${B",
            "ENV A=${B:?x}",
            "ENV A=${}",
            "LABEL a",
            "EXPOSE 0",
            "EXPOSE 65536",
            "EXPOSE 80/icmp",
            "EXPOSE 9-8",
            "EXPOSE x",
            r#"VOLUME [""]"#,
            "USER ''",
            "WORKDIR $NOTHING",
            "STOPSIGNAL 0",
            "STOPSIGNAL 65",
            "STOPSIGNAL term!",
            "ONBUILD FROM x",
            "ONBUILD ONBUILD RUN x",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=x CMD y",
            "HEALTHCHECK --frob=1 CMD y",
            "HEALTHCHECK NONE x",
        ] {
            let error = apply(&mut json!({}), &[change.to_owned()]).unwrap_err();
            assert_eq!(error.kind(), &Kind::Invalid, "{change:?}");
        }
    }
}
