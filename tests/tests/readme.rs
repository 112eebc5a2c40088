//! The README's sessions, typed as they stand: every ```` ```console ```` block is replayed, in order, on one machine, with a
//! registry on loopback in the place of Docker Hub, and another as one's own.
//!
//! In the expected output, a line `...` stands for any lines, `…` within a line for any text. Ids are bound where they
//! first appear, so that a later command names the container that this run made.

use std::collections::BTreeMap;
use std::fs;

use bocker_tests::{Host, Hub, Registry, need};

const README: &str = include_str!("../../README.md");

struct Command {
    line: usize,
    words: String,
    expected: Vec<String>,
}

/// The commands of all console blocks: `$ ` begins one, `> ` continues it.
fn commands() -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut inside = false;
    for (number, line) in README.lines().enumerate() {
        if let Some(fence) = line.strip_prefix("```") {
            inside = !inside && fence == "console";
        } else if !inside {
            continue;
        } else if let Some(words) = line.strip_prefix("$ ") {
            commands.push(Command {
                line: number + 1,
                words: words.into(),
                expected: Vec::new(),
            });
        } else if let Some(last) = commands.last_mut() {
            match line.strip_prefix("> ") {
                Some(more) if last.expected.is_empty() => {
                    last.words.push('\n');
                    last.words.push_str(more);
                }
                _ => last.expected.push(line.into()),
            }
        }
    }
    commands
}

/// Ids of the README and what they are in this run.
#[derive(Default)]
struct Ids(BTreeMap<String, String>);

impl Ids {
    /// The ids in a text, in order.
    fn find(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for prefix in ["ps_", "img_"] {
            for (at, _) in text.match_indices(prefix) {
                let end = at + prefix.len() + 6;
                if let Some(id) = text.get(at..end)
                    && id[prefix.len()..]
                        .bytes()
                        .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
                {
                    found.push(id);
                }
            }
        }
        found
    }

    fn translate(&self, text: &str) -> String {
        // By way of marks, so that no replacement is replaced again.
        let mut text = text.to_owned();
        for (number, ours) in self.0.keys().enumerate() {
            text = text.replace(ours.as_str(), &format!("\u{1}{number}\u{2}"));
        }
        for (number, theirs) in self.0.values().enumerate() {
            text = text.replace(&format!("\u{1}{number}\u{2}"), theirs);
        }
        text
    }

    /// Whether a line is as expected, binding ids that appear for the first time.
    fn matches(&mut self, expected: &str, line: &str) -> bool {
        let unbound: Vec<&str> = Ids::find(expected)
            .into_iter()
            .filter(|id| !self.0.contains_key(*id))
            .collect();
        if !unbound.is_empty() {
            let known: Vec<&String> = self.0.values().collect();
            let new: Vec<&str> = Ids::find(line)
                .into_iter()
                .filter(|id| !known.iter().any(|k| k == id))
                .collect();
            for (ours, theirs) in unbound.iter().zip(new) {
                self.0.insert((*ours).into(), theirs.into());
            }
        }
        glob(&self.translate(expected), line)
    }
}

/// `…` matches any text.
fn glob(pattern: &str, line: &str) -> bool {
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else {
        return pattern.trim_end() == line.trim_end();
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn check(ids: &mut Ids, expected: &[String], lines: &[&str]) -> Result<(), String> {
    match expected.split_first() {
        None if lines.is_empty() => Ok(()),
        None => Err(format!("more than expected: {:?}", lines[0])),
        Some((any, rest)) if any.trim() == "..." => (0..=lines.len())
            .find_map(|skip| check(ids, rest, &lines[skip..]).ok())
            .ok_or(format!("nothing matches {rest:?}")),
        Some((want, rest)) => match lines.split_first() {
            Some((line, lines)) if ids.matches(want, line) => check(ids, rest, lines),
            Some((line, _)) => Err(format!(
                "expected {:?}\n     got {line:?}",
                ids.translate(want)
            )),
            None => Err(format!("expected {want:?}, got the end")),
        },
    }
}

#[test]
fn the_sessions_of_the_readme_go_as_it_says() {
    if !need("jq runc skopeo docker-registry openssl curl") {
        return;
    }
    let host = Host::new();
    let hub = Hub::start(&host);
    let _own = Registry::with_password(&host, 5000);
    let commands = commands();
    assert!(commands.len() > 15, "the README has sessions");
    let mut ids = Ids::default();
    let home = host.scratch().join("session");
    fs::create_dir(&home).unwrap_or_else(|e| panic!("{e}"));
    for command in &commands {
        let words = ids.translate(&command.words);
        let script = format!("cd {} && {{ {words}\n}} 2>&1", home.display());
        let output = hub.trust(host.call(&["sh", "-c", &script])).run();
        let lines: Vec<&str> = output.stdout.lines().collect();
        if let Err(why) = check(&mut ids, &command.expected, &lines) {
            panic!(
                "README.md:{}: $ {words}\n{why}\n--- all of it (exit {}):\n{}",
                command.line, output.code, output.stdout
            );
        }
    }
}

#[test]
fn every_tools_help_fits_a_screen_and_its_page_has_the_same_sections() {
    let host = Host::new();
    for tool in [
        "bocker-pull",
        "bocker-snap",
        "bocker-net",
        "bocker-cg",
        "bocker-spawn",
    ] {
        let help = host.run(&[tool, "--help"]).text();
        assert!(
            help.lines().count() <= 40,
            "{tool} --help has {} lines",
            help.lines().count()
        );
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
        let version = host.run(&[tool, "--version"]).text();
        assert_eq!(version, format!("{tool} {}\n", env!("CARGO_PKG_VERSION")));
        let page = fs::read_to_string(format!(
            "{}/../{tool}/README.md",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap_or_else(|e| panic!("{tool}: {e}"));
        for section in ["Interface", "Options", "Steps", "Exit codes", "Examples"] {
            assert!(
                page.contains(&format!("## {section}")),
                "{tool}/README.md has no section {section}"
            );
        }
        let _ = host.run(&[tool, "list"]).ok().json_lines();
        host.run(&[tool, "gc", "--dry-run"]).ok();
    }
}

#[test]
fn every_program_is_static() {
    let host = Host::new();
    for program in [
        "bocker",
        "bocker-pull",
        "bocker-snap",
        "bocker-net",
        "bocker-cg",
        "bocker-spawn",
    ] {
        let path = host.bins().join(program);
        let output = host.run(&["ldd".as_ref(), path.as_os_str()]);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(
            said.contains("statically linked") || said.contains("not a dynamic executable"),
            "{output}"
        );
    }
}
