//! `run`: a whole container as one pipeline.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;

use bocker_pipe::{Error, Kind, Result, containers, files};
use serde_json::{Map, Value, json};

use crate::image;
use crate::limits::Limits;
use crate::pipeline::{Pipeline, STDIN, STDOUT, Stage};
use crate::session::Session;
use crate::tools::Piece;
use crate::verbs::{cleanup, stop};

/// How many processes a container may have unless told otherwise, as podman's default.
const PIDS_LIMIT: &str = "2048";
/// What a shell does more with than pass it on as a word.
const METACHARACTERS: &[u8] = b"|&;<>()$`\\\"'*?[]#~={}!";

/// Run a command in a new container
#[derive(Debug, Default, clap::Args)]
#[command(
    override_usage = "bocker run [OPTIONS] IMAGE [COMMAND [ARG]...]\n       bocker run [OPTIONS] --rootfs DIR [COMMAND [ARG]...]"
)]
pub(crate) struct Args {
    /// Call the container so, beside its id (default: two words)
    #[arg(long)]
    name: Option<String>,
    /// Leave it running, and print its id
    #[arg(short, long)]
    detach: bool,
    /// Stay with this stream only: stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM", conflicts_with = "detach")]
    attach: Vec<Stream>,
    #[command(flatten)]
    leaving: Leaving,
    /// Hand stdin to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable, as NAME=VALUE, or NAME to hand on the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Set the variables of a file, a NAME=VALUE each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<OsString>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// The user, as USER[:GROUP], by name or number
    #[arg(short, long)]
    user: Option<String>,
    /// What asks it to end (default: what the image names, else TERM)
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Process 1 is a small init, which starts the command, passes signals on to it and reaps orphans
    #[arg(long)]
    init: bool,
    /// Seconds that it has to end in before it is killed, -1 for ever (default: 10)
    #[arg(long, value_name = "SECONDS", value_parser = stop::seconds(), allow_negative_numbers = true)]
    stop_timeout: Option<i64>,
    /// Begin it again when it has ended: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Look with this line, or JSON list of words, whether it is well
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// How long to wait between two looks, as 30s or 1m30s (default: 30s)
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// How long a look may take (default: 30s)
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// How many failures in a row are too many (default: 3)
    #[arg(long, value_name = "N")]
    health_retries: Option<u64>,
    /// How long failures do not count after the start (default: 0s)
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// Do not look (that of an image is never run)
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
    /// End each of its runs after so long
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Keep a log of what it writes: k8s-file (default), or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Limit the log, as max-size=10m and max-file=3
    #[arg(long, value_name = "OPTION=VALUE")]
    log_opt: Vec<String>,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Publish a port or a range, as [IP:][HOSTPORT:]PORT[/udp]
    #[arg(short, long)]
    publish: Vec<String>,
    /// Publish all ports that the image exposes
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Mount a directory, a named volume, or, without SOURCE, a volume of its own, as [SOURCE:]TARGET[:ro]
    #[arg(short, long)]
    volume: Vec<OsString>,
    /// Mount, as type=bind|volume|tmpfs,source=...,target=...[,readonly]
    #[arg(long)]
    mount: Vec<OsString>,
    /// Mount an empty directory in memory, as TARGET[:size=64m,mode=1777,exec]
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    tmpfs: Vec<OsString>,
    /// Mount what another container has mounted, running or not
    #[arg(long, value_name = "CONTAINER[:ro]")]
    volumes_from: Vec<OsString>,
    /// Limit what is written to the root, as size=10g (on btrfs)
    #[arg(long, value_name = "size=SIZE")]
    storage_opt: Vec<OsString>,
    /// bridge (default), a network's name, none, host, container:NAME, ns:PATH or cni:NAME; a name may be given several times, and as
    /// name=NAME,ip=ADDRESS,ip6=ADDRESS,mac=ADDRESS,ifname=NAME,alias=NAME
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// The address on the only or first network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// The same for IPv6
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// The hardware address on the only or first network
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Another name by which others on the only or first network know it
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// The host name (default: the id)
    #[arg(short = 'h', long)]
    pub(crate) hostname: Option<String>,
    /// A name that the container knows, as NAME:ADDRESS, or NAME:host-gateway for the host
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Ask this name server (default: the host's)
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Look for short names in this domain (default: the host's; . for none)
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Set an option of resolv.conf (default: the host's)
    #[arg(long, value_name = "OPTION", visible_alias = "dns-opt")]
    dns_option: Vec<String>,
    /// Instead of the image's entrypoint; empty for none
    #[arg(long)]
    entrypoint: Option<String>,
    /// Make the root read-only
    #[arg(long)]
    read_only: bool,
    /// Memory: 512m, 1g (powers of 1024), or 512MB, 1GB (of 1000)
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// CPU time: 0.5 is half a CPU
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Weight against other containers
    #[arg(long, value_name = "N")]
    cpu_shares: Option<String>,
    /// At most so many processes and threads, -1 for any number
    #[arg(long, value_name = "N", default_value = PIDS_LIMIT, allow_hyphen_values = true)]
    pids_limit: String,
    /// Set a label, as NAME=VALUE
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Set the labels of a file, a NAME=VALUE each line
    #[arg(long, value_name = "FILE")]
    label_file: Vec<OsString>,
    /// Write the id to a file that must not be there yet
    #[arg(long, value_name = "FILE")]
    cidfile: Option<OsString>,
    /// Keep the number of process 1 in a file while it runs
    #[arg(long, value_name = "FILE")]
    pidfile: Option<OsString>,
    /// When to pull the image: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pull,
    /// Show no progress of a pull
    #[arg(short, long)]
    quiet: bool,
    /// Use a view of this directory instead of an image
    #[arg(long, value_name = "DIR")]
    rootfs: Option<OsString>,
    /// The image (pulled if it is not there), the command, and its own arguments
    #[arg(trailing_var_arg = true, value_name = "IMAGE")]
    pub(crate) words: Vec<OsString>,
}

/// When an image is pulled before a container is made of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pull {
    Always,
    #[default]
    Missing,
    Never,
}

/// What the container is made from.
enum Root<'a> {
    Image(&'a str),
    Directory(&'a OsStr),
}

pub(crate) fn run(session: &Session, args: &Args, line: &[OsString]) -> Result<u8> {
    let plan = args.plan(session, line, "run")?;
    let way = Way {
        detach: args.detach,
        interactive: args.interactive,
        tty: args.tty,
        attach: &args.attach,
        leaving: &args.leaving,
        rm: args.rm,
        restarts: args.restarts(),
    };
    let mut pipeline = way.pipeline(session, plan.stages, plan.spawn, &plan.words)?;
    pipeline.document = Some(plan.document);
    session.run(&pipeline)
}

/// What the options of `run` and `create` come to.
pub(crate) struct Plan {
    /// The first document: what no stage knows by itself.
    pub(crate) document: String,
    /// Those that make what the container runs in.
    pub(crate) stages: Vec<Stage>,
    /// The verb of bocker-spawn, without the command.
    pub(crate) spawn: Stage,
    /// The command.
    pub(crate) words: Vec<OsString>,
}

impl Args {
    /// Whether nobody waits for the container's end.
    pub(crate) fn is_detached(&self) -> bool {
        self.detach
    }

    /// Checks what can be checked here, sees to it that the image is there, and says what the stages are to do.
    pub(crate) fn plan(&self, session: &Session, line: &[OsString], verb: &str) -> Result<Plan> {
        let (root, words) = self.root()?;
        refuse_half_a_terminal(self.interactive && !self.detach && verb == "run", self.tty)?;
        if self.rm && self.restarts() {
            let what = "--rm removes what --restart is to begin again";
            return Err(Error::new(Kind::Usage, what).hint("give one of the two"));
        }
        let labels = labels(&self.label, &self.label_file)?;
        let is_name = |name: &&String| !containers::is_name(name);
        if let Some(name) = self.name.as_ref().filter(is_name) {
            return Err(Error::new(
                Kind::Invalid,
                format!("'{name}' is no name for a container"),
            )
            .hint("use two or more of a-z, A-Z, 0-9, _ . -, the first a letter or digit"));
        }
        if let Root::Image(name) = root {
            image::provide(session, name, self.pull, self.quiet)?;
        }
        let words = match words {
            [line] if is_shell_line(line) && !self.has_entrypoint(&root)? => {
                vec!["/bin/sh".into(), "-c".into(), line.clone()]
            }
            words => words.to_vec(),
        };
        Ok(Plan {
            document: self.document(session.limits, labels, line, verb),
            stages: self.stages(session, &root)?,
            spawn: self.spawn(session, verb)?,
            words,
        })
    }

    /// The image or directory, and the words of the command.
    fn root(&self) -> Result<(Root<'_>, &[OsString])> {
        if let Some(directory) = &self.rootfs {
            return Ok((Root::Directory(directory), &self.words));
        }
        let Some((image, words)) = self.words.split_first() else {
            return Err(Error::new(Kind::Usage, "no image is named")
                .hint("name one, or give --rootfs DIR; see 'bocker help run'"));
        };
        let Some(name) = image.to_str() else {
            return Err(image::missing(&image.to_string_lossy()));
        };
        Ok((Root::Image(name), words))
    }

    /// Whether an entrypoint takes the words: then a line for a shell is none.
    fn has_entrypoint(&self, root: &Root<'_>) -> Result<bool> {
        match (&self.entrypoint, root) {
            (Some(entrypoint), _) => Ok(!entrypoint.is_empty()),
            (None, Root::Directory(_)) => Ok(false),
            (None, Root::Image(name)) => match image::find(name)? {
                Some(image) => image::has_entrypoint(&image),
                // What a dry run would have to pull first is not there to be asked.
                None => Ok(false),
            },
        }
    }

    /// Root, network and cgroup.
    fn stages(&self, session: &Session, root: &Root<'_>) -> Result<Vec<Stage>> {
        let snap = session
            .stage(Piece::Snap, "create")?
            .flag("--read-only", self.read_only)
            // What goes with the container need not reach the disk.
            .flag("--volatile", self.rm)
            .options("--volume", &self.volume)
            .options("--mount", &self.mount)
            .options("--tmpfs", &self.tmpfs)
            .options("--volumes-from", &self.volumes_from)
            .options("--storage-opt", &self.storage_opt)
            .flag("--generate-name", self.name.is_none())
            .option("--cidfile", self.cidfile.as_ref())
            .arg("-");
        let snap = match root {
            Root::Image(name) => snap.arg(name),
            Root::Directory(directory) => snap.arg("--rootfs").arg(directory),
        };
        let net = session
            .stage(Piece::Net, "create")?
            .options("--network", &self.network)
            .option("--ip", self.ip.as_ref())
            .option("--ip6", self.ip6.as_ref())
            .option("--mac-address", self.mac_address.as_ref())
            .options("--network-alias", &self.network_alias)
            .option("--hostname", self.hostname.as_ref())
            .options("--publish", &self.publish)
            .flag("--publish-all", self.publish_all)
            .options("--add-host", &self.add_host)
            .options("--dns", &self.dns)
            .options("--dns-search", &self.dns_search)
            .options("--dns-option", &self.dns_option);
        Ok(vec![snap, net, self.cg(session)?])
    }

    fn spawn(&self, session: &Session, verb: &str) -> Result<Stage> {
        Ok(session
            .stage(Piece::Spawn, verb)?
            .flag("--tty", self.tty)
            .flag("--interactive", self.interactive && verb == "create")
            .options("--env-file", &self.env_file)
            .options("--env", &self.env)
            .option("--workdir", self.workdir.as_ref())
            .option("--user", self.user.as_ref())
            .option("--entrypoint", self.entrypoint.as_ref())
            .flag("--init", self.init)
            .option("--stop-signal", self.stop_signal.as_ref())
            .option("--stop-timeout", self.stop_timeout.map(|n| n.to_string()))
            .option("--pidfile", self.pidfile.as_ref())
            .option("--restart", self.restart.as_ref())
            .option("--timeout", self.timeout.map(|n| n.to_string()))
            .option("--log-driver", self.log_driver.as_ref())
            .options("--log-opt", &self.log_opt)
            .option("--health-cmd", self.health_cmd.as_ref())
            .option("--health-interval", self.health_interval.as_ref())
            .option("--health-timeout", self.health_timeout.as_ref())
            .option(
                "--health-retries",
                self.health_retries.map(|n| n.to_string()),
            )
            .option("--health-start-period", self.health_start_period.as_ref()))
    }

    fn restarts(&self) -> bool {
        self.restart.as_deref().is_some_and(|policy| policy != "no")
    }

    fn cg(&self, session: &Session) -> Result<Stage> {
        let limits = session.limits;
        let shares = self
            .cpu_shares
            .clone()
            .unwrap_or_else(|| limits.cpu_shares());
        let (option, value) = match &self.memory {
            Some(memory) => ("--memory", memory.clone()),
            None => limits.memory(),
        };
        Ok(session
            .stage(Piece::Cg, "create")?
            .option("--cpus", self.cpus.as_ref())
            .args([
                "--cpu-shares",
                &shares,
                option,
                &value,
                "--pids-limit",
                &self.pids_limit,
            ]))
    }

    fn document(
        &self,
        limits: Limits,
        labels: Map<String, Value>,
        line: &[OsString],
        verb: &str,
    ) -> String {
        let mut bocker = Map::new();
        bocker.insert("version".into(), bocker_pipe::document::VERSION.into());
        if let Some(name) = &self.name {
            bocker.insert("name".into(), name.as_str().into());
        }
        if !labels.is_empty() {
            bocker.insert("labels".into(), labels.into());
        }
        if self.rm {
            bocker.insert(bocker_pipe::document::RM.into(), true.into());
        }
        bocker.insert("command".into(), as_typed(limits, line, verb).into());
        json!({ "bocker": bocker }).to_string()
    }
}

/// One of a command's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// What one who stays with a container can do beside typing.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Leaving {
    /// The keys that leave a container's terminal and let it go on (default: ctrl-p,ctrl-q; empty for none)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Pass signals on to the command; without, they end this program and let the container go on
    #[arg(long, value_name = "true|false", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
}

impl Default for Leaving {
    fn default() -> Leaving {
        Leaving {
            detach_keys: None,
            sig_proxy: true,
        }
    }
}

impl Leaving {
    /// The same for a verb of bocker-spawn.
    pub(crate) fn of(&self, stage: Stage) -> Stage {
        stage
            .option("--detach-keys", self.detach_keys.as_ref())
            .flag("--sig-proxy=false", !self.sig_proxy)
    }
}

/// How a container is started, and what becomes of it at its end.
pub(crate) struct Way<'a> {
    pub(crate) detach: bool,
    pub(crate) interactive: bool,
    /// It has a terminal of its own.
    pub(crate) tty: bool,
    /// The streams that are attached; all if none is named.
    pub(crate) attach: &'a [Stream],
    pub(crate) leaving: &'a Leaving,
    pub(crate) rm: bool,
    /// There is more than one run to stay for.
    pub(crate) restarts: bool,
}

impl Way<'_> {
    /// Whether the container has a supervisor beside the pipeline, be it that somebody is attached to it or not: nobody stays,
    /// or whoever does may leave it.
    fn is_supervised(&self) -> bool {
        self.detach
            || self.tty
            || self.restarts
            || !self.leaving.sig_proxy
            || !self.attach.is_empty()
    }

    fn has(&self, stream: Stream) -> bool {
        self.attach.is_empty() || self.attach.contains(&stream)
    }

    /// The pipeline of the stages that make the container, bocker-spawn, and those that tear it down, be it by a supervisor.
    pub(crate) fn pipeline(
        &self,
        session: &Session,
        mut stages: Vec<Stage>,
        spawn: Stage,
        words: &[OsString],
    ) -> Result<Pipeline> {
        let carries_stdin = self.interactive && !self.detach && self.has(Stream::Stdin);
        let spawn = spawn
            .flag("--interactive", self.interactive && !carries_stdin)
            .option("--stdin", carries_stdin.then_some(STDIN.to_string()))
            .option("--stdout", (!self.detach).then_some(STDOUT.to_string()));
        let mut pipeline = match self.is_supervised() {
            true => {
                // The last of them makes the cgroups.
                let cg = stages.pop().map(|cg| cg.arg("--supervisor"));
                stages.extend(cg);
                let mut on_exit = session.tools.own_elsewhere().into_iter();
                let spawn = self
                    .attached(spawn.arg("--detach"))
                    .option("--on-exit", on_exit.next())
                    .options("--on-arg", on_exit)
                    .options("--on-arg", ["cleanup"])
                    .options("--on-arg", self.rm.then_some("--rm"));
                stages.push(with_command(spawn, words));
                let cleanup = session.own_stage("cleanup").arg("--unless-running");
                stages.push(cleanup.flag("--status", !self.detach));
                Pipeline::new(stages)
            }
            false => {
                stages.push(with_command(spawn, words));
                stages.extend(cleanup::teardown(session, self.rm)?.stages);
                Pipeline::new(stages).discarded()
            }
        };
        pipeline.carries_stdin = carries_stdin;
        pipeline.carries_stdout = !self.detach;
        Ok(pipeline)
    }

    /// With the options of one who stays.
    fn attached(&self, spawn: Stage) -> Stage {
        if self.detach {
            return spawn;
        }
        self.leaving
            .of(spawn.arg("--attach"))
            .flag("--no-stdout", !self.has(Stream::Stdout))
            .flag("--no-stderr", !self.has(Stream::Stderr))
    }
}

/// A stage of bocker-spawn, with the container's command.
pub(crate) fn with_command(spawn: Stage, words: &[OsString]) -> Stage {
    match words.is_empty() {
        true => spawn,
        false => spawn.arg("--").args(words),
    }
}

/// The command line from the verb on, with the limits that it depends on.
fn as_typed(limits: Limits, line: &[OsString], verb: &str) -> Vec<String> {
    let from_verb = line.iter().skip(1).skip_while(|word| *word != verb);
    let words = from_verb.map(|word| word.to_string_lossy().into_owned());
    std::iter::once("bocker".to_owned())
        .chain(limits.as_options())
        .chain(words)
        .collect()
}

/// As docker: a terminal whose input is a pipe or a file would never see that input end.
pub(crate) fn refuse_half_a_terminal(interactive: bool, tty: bool) -> Result<()> {
    if interactive && tty && !std::io::stdin().is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            "with -i and -t stdin must be a terminal, and it is none",
        )
        .hint("leave out -t to pipe something in"));
    }
    Ok(())
}

/// Whether a word is a line that was meant for a shell.
fn is_shell_line(word: &OsStr) -> bool {
    word.as_bytes()
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || METACHARACTERS.contains(byte))
}

/// The labels of the files, then those of the options, each as NAME=VALUE or NAME: a later one wins.
fn labels(options: &[String], of_files: &[OsString]) -> Result<Map<String, Value>> {
    let mut lines = Vec::new();
    for file in of_files {
        lines.extend(files::lines(file.as_ref())?);
    }
    let mut labels = Map::new();
    for line in lines
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .chain(options.iter().map(Into::into))
    {
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        if name.trim().is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                format!("'{line}' is no label: its name is missing"),
            ));
        }
        labels.insert(name.to_owned(), value.into());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_word_that_is_a_line_is_told_from_a_name() {
        for line in [
            "sleep 5 && ps aux",
            "echo foo",
            "a;b",
            "echo\t$HOME",
            "ls>x",
            "(a)",
        ] {
            assert!(is_shell_line(line.as_ref()), "{line}");
        }
        for name in ["true", "/bin/true", "a-b_c.d/e", "ls", "@x%y+z:1,2"] {
            assert!(!is_shell_line(name.as_ref()), "{name}");
        }
    }

    #[test]
    fn the_command_is_kept_from_the_verb_on() {
        let line = words(&[
            "/usr/bin/bocker",
            "-x",
            "--with",
            "net=/a",
            "run",
            "--rm",
            "img",
            "run",
        ]);
        assert_eq!(
            as_typed(Limits::default(), &line, "run"),
            ["bocker", "run", "--rm", "img", "run"]
        );
    }

    #[test]
    fn a_label_has_a_name_and_perhaps_a_value() {
        let given = ["a=b=c", "d", "a=e"].map(str::to_owned);
        assert_eq!(
            Value::from(labels(&given, &[]).unwrap()),
            json!({"a": "e", "d": ""})
        );
        for nameless in ["", "=x", " =x"] {
            assert!(labels(&[nameless.to_owned()], &[]).is_err(), "{nameless:?}");
        }
    }
}
