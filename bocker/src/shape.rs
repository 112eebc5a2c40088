//! A container as docker's `inspect` tells it, beside its document: what templates and scripts are written for. What is not known is
//! left out, or what docker says of nothing.

use bocker_pipe::Document;
use bocker_pipe::document::ExitMember;
use serde_json::{Map, Value, json};

use crate::container::Container;
use crate::ports;

/// What docker says where there was no such moment yet.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Seconds that a container has to end in, unless it was said otherwise.
const STOP_TIMEOUT: i64 = 10;

/// The document with docker's members after its own. The state in it is the one that the kernel shows, not the one that was last
/// written.
pub(crate) fn of(container: &Container) -> Value {
    let mut document = container.document.clone();
    document.set_member("state", &container.state);
    for note in ["health", "lost"] {
        if let Some(value) = container.line.get(note) {
            document.set(&format!("/bocker/spawn/{note}"), value);
        }
    }
    let shape = Shape {
        container,
        document: &container.document,
    };
    let (path, args) = match shape.words("/process/args") {
        [] => (json!(""), &[][..]),
        [path, args @ ..] => (path.clone(), args),
    };
    let members = json!({
        "Id": container.id,
        "Created": container.created,
        "Path": path,
        "Args": args,
        "State": shape.state(),
        "Image": shape.value("/bocker/image/digest"),
        "Name": format!("/{}", container.name()),
        "RestartCount": shape.number("/bocker/spawn/restarts"),
        "Driver": shape.text("/bocker/snap/driver"),
        "Platform": "linux",
        "LogPath": shape.text("/bocker/spawn/log"),
        "HostConfig": shape.host_config(),
        "Mounts": shape.mounts(),
        "Config": shape.config(),
        "NetworkSettings": shape.network_settings(),
    });
    for (name, value) in members.as_object().into_iter().flatten() {
        document.set(&format!("/{name}"), value);
    }
    document.tree().clone()
}

struct Shape<'a> {
    container: &'a Container,
    document: &'a Document,
}

impl<'a> Shape<'a> {
    fn value(&self, pointer: &str) -> &'a Value {
        self.document.value(pointer).unwrap_or(&Value::Null)
    }

    fn text(&self, pointer: &str) -> &'a str {
        self.value(pointer).as_str().unwrap_or_default()
    }

    fn number(&self, pointer: &str) -> i64 {
        self.value(pointer).as_i64().unwrap_or_default()
    }

    fn words(&self, pointer: &str) -> &'a [Value] {
        self.value(pointer).as_array().map_or(&[], Vec::as_slice)
    }

    fn is(&self, pointer: &str) -> bool {
        self.value(pointer) == true
    }

    fn state(&self) -> Value {
        let state = self.container.state.as_str();
        // Docker knows no other words; it would have ended such a one.
        let status = if state == "orphaned" { "dead" } else { state };
        let runs = matches!(state, "running" | "paused");
        let exit: ExitMember = match (runs, self.document.exit()) {
            (false, Ok(Some(exit))) => exit,
            _ => ExitMember::default(),
        };
        let started = match self.text("/bocker/spawn/started") {
            "" => exit.started.as_deref().unwrap_or(NEVER),
            started => started,
        };
        let mut shape = json!({
            "Status": status,
            // As docker: what waits to be begun again counts as running.
            "Running": runs || state == "restarting",
            "Paused": state == "paused",
            "Restarting": state == "restarting",
            "OOMKilled": exit.oom,
            "Dead": status == "dead",
            "Pid": self.container.line["pid"].as_i64().unwrap_or_default(),
            "ExitCode": exit.code,
            "Error": exit.error.as_deref().unwrap_or_default(),
            "StartedAt": started,
            "FinishedAt": exit.finished.as_deref().unwrap_or(NEVER),
        });
        if let Some(health) = self.health() {
            shape["Health"] = health;
        }
        shape
    }

    fn health(&self) -> Option<Value> {
        let health = self.container.line.get("health")?;
        let log = health["log"].as_array().into_iter().flatten();
        let log = log.map(|one| {
            json!({
                "Start": one["start"],
                "End": one["end"],
                "ExitCode": one["exitCode"],
                "Output": one["output"],
            })
        });
        Some(json!({
            "Status": health["status"],
            "FailingStreak": health["failingStreak"],
            "Log": log.collect::<Vec<_>>(),
        }))
    }

    fn host_config(&self) -> Value {
        let period = self.number("/linux/resources/cpu/period");
        let nano = match self.number("/linux/resources/cpu/quota") {
            quota if quota > 0 && period > 0 => {
                i64::try_from(i128::from(quota) * 1_000_000_000 / i128::from(period))
                    .unwrap_or_default()
            }
            _ => 0,
        };
        let restart = self.value("/bocker/spawn/request/restart");
        let binds = self.words("/bocker/snap/volumes").iter();
        let binds = binds.filter(|request| request["type"] != "tmpfs");
        let bind = |request: &Value| {
            let text = |key: &str| request[key].as_str().unwrap_or_default();
            let mode = if request["readonly"] == true {
                ":ro"
            } else {
                ""
            };
            format!("{}:{}{mode}", text("source"), text("destination"))
        };
        let mut asked = Map::new();
        for attachment in self.words("/bocker/net/attachments") {
            for port in ports::requested(attachment) {
                for (inner, outer) in port.each_as_docker() {
                    push(&mut asked, &inner, outer);
                }
            }
        }
        json!({
            "Binds": binds.map(bind).collect::<Vec<_>>(),
            "NetworkMode": self.network_mode(),
            "PortBindings": asked,
            "RestartPolicy": {
                "Name": restart["policy"].as_str().unwrap_or("no"),
                "MaximumRetryCount": restart["retries"].as_u64().unwrap_or_default(),
            },
            "AutoRemove": self.document.is_removed_at_its_end(),
            "Memory": self.number("/linux/resources/memory/limit"),
            "MemorySwap": self.number("/linux/resources/memory/swap"),
            "NanoCpus": nano,
            "CpuShares": self.number("/linux/resources/cpu/shares"),
            "PidsLimit": self.number("/linux/resources/pids/limit"),
            "ReadonlyRootfs": self.is("/root/readonly"),
            "Init": self.is("/bocker/spawn/request/init"),
            "Dns": self.words("/bocker/net/dns"),
            "ExtraHosts": self.words("/bocker/net/extraHosts"),
            "LogConfig": {
                "Type": "k8s-file",
                "Config": self.value("/bocker/spawn/request/log"),
            },
        })
    }

    /// The first network, or what stands in its place: `host`, `none`, `container:ID`.
    fn network_mode(&self) -> &'a str {
        match self.words("/bocker/net/attachments") {
            [first, ..] => first["network"].as_str().unwrap_or_default(),
            [] => self.text("/bocker/net/mode"),
        }
    }

    fn config(&self) -> Value {
        let image = |key: &str| self.value(&format!("/bocker/image/config/{key}"));
        let args = self.words("/process/args");
        let entrypoint = image("Entrypoint")
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let (entrypoint, cmd) = match args.strip_prefix(entrypoint) {
            Some(cmd) if !entrypoint.is_empty() => (json!(entrypoint), cmd),
            _ => (Value::Null, args),
        };
        let user = |key: &str| self.number(&format!("/process/user/{key}"));
        let user = match (user("uid"), user("gid")) {
            (0, 0) => String::new(),
            (uid, gid) => format!("{uid}:{gid}"),
        };
        let requested = |key: &str| self.value(&format!("/bocker/spawn/request/{key}"));
        let signal = match (
            requested("stop_signal").as_str(),
            self.text("/bocker/spawn/stop_signal"),
        ) {
            (Some(signal), _) => signal,
            (None, "") => "SIGTERM",
            (None, signal) => signal,
        };
        json!({
            "Hostname": self.text("/hostname"),
            "Domainname": self.text("/domainname"),
            "User": user,
            "Tty": self.is("/process/terminal"),
            "OpenStdin": self.is("/bocker/spawn/request/interactive"),
            "Env": self.words("/process/env"),
            "Cmd": cmd,
            "Image": self.container.image(),
            "Volumes": image("Volumes"),
            "WorkingDir": self.text("/process/cwd"),
            "Entrypoint": entrypoint,
            "Labels": self.container.labels().cloned().unwrap_or_else(|| json!({})),
            "ExposedPorts": image("ExposedPorts"),
            "StopSignal": signal,
            "StopTimeout": requested("stop_timeout").as_i64().unwrap_or(STOP_TIMEOUT),
            // As podman has it.
            "CreateCommand": self.words("/bocker/command"),
        })
    }

    fn network_settings(&self) -> Value {
        let is_over = self.container.is_over();
        let attachments = self.words("/bocker/net/attachments");
        let networks: Map<String, Value> = attachments
            .iter()
            .map(|one| {
                let name = one["network"].as_str().unwrap_or_default();
                let result = if is_over {
                    &Value::Null
                } else {
                    &one["result"]
                };
                let mut shape = addresses(result, one["ifname"].as_str().unwrap_or_default());
                shape["NetworkID"] = one["bridge"].clone();
                shape["Aliases"] = one["request"]["aliases"].clone();
                (name.to_owned(), shape)
            })
            .collect();
        let mut shape = match networks.values().next() {
            Some(first) => first.clone(),
            None => addresses(&Value::Null, ""),
        };
        let mut published = Map::new();
        if !is_over {
            let exposed = self.value("/bocker/image/config/ExposedPorts").as_object();
            for (port, _) in exposed.into_iter().flatten() {
                published.insert(port.clone(), Value::Null);
            }
            for port in ports::of(self.document) {
                for (inner, outer) in port.each_as_docker() {
                    push(&mut published, &inner, outer);
                }
            }
        }
        if let Some(members) = shape.as_object_mut() {
            for name in ["NetworkID", "Aliases"] {
                members.shift_remove(name);
            }
        }
        shape["Ports"] = published.into();
        shape["SandboxKey"] = self.text("/bocker/net/netns/path").into();
        shape["Networks"] = networks.into();
        shape
    }

    /// The volumes, paths and filesystems in memory that were asked for.
    fn mounts(&self) -> Vec<Value> {
        let shape = |request: &Value| {
            let text = |key: &str| request[key].as_str().unwrap_or_default();
            let (kind, destination) = (text("type"), text("destination"));
            let readonly = request["readonly"] == true;
            let mut shape = json!({
                "Type": kind,
                "Source": text("source"),
                "Destination": destination,
                "Mode": if readonly { "ro" } else { "" },
                "RW": !readonly,
                "Propagation": match (kind, text("propagation")) {
                    ("bind", "") => "rprivate",
                    (_, propagation) => propagation,
                },
            });
            if kind == "volume" {
                let mut mounts = self.words("/mounts").iter();
                let mount = mounts.find(|mount| mount["destination"] == destination);
                shape["Name"] = shape["Source"].take();
                shape["Driver"] = json!("local");
                shape["Source"] = mount.map_or(Value::Null, |mount| mount["source"].clone());
            }
            shape
        };
        self.words("/bocker/snap/volumes")
            .iter()
            .map(shape)
            .collect()
    }
}

/// One more of the host's ports for a port of the container's.
fn push(ports: &mut Map<String, Value>, inner: &str, outer: Value) {
    let list = ports.entry(inner).or_insert(Value::Null);
    match list {
        Value::Array(list) => list.push(outer),
        other => *other = json!([outer]),
    }
}

/// What a result of CNI says of the container's own interface.
fn addresses(result: &Value, ifname: &str) -> Value {
    let interfaces = result["interfaces"].as_array();
    let own = interfaces.and_then(|all| all.iter().find(|one| one["name"] == ifname));
    let ips = result["ips"].as_array();
    let find = |is_v6: bool| {
        let mut ips = ips.into_iter().flatten();
        let ip = ips.find(|ip| {
            ip["address"]
                .as_str()
                .is_some_and(|text| text.contains(':') == is_v6)
        });
        let address = ip.and_then(|ip| ip["address"].as_str()).unwrap_or_default();
        let (address, length) = address.split_once('/').unwrap_or((address, "0"));
        let gateway = ip.and_then(|ip| ip["gateway"].as_str()).unwrap_or_default();
        (
            address.to_owned(),
            length.parse::<u64>().unwrap_or_default(),
            gateway.to_owned(),
        )
    };
    let (v4, v6) = (find(false), find(true));
    json!({
        "IPAddress": v4.0,
        "IPPrefixLen": v4.1,
        "Gateway": v4.2,
        "GlobalIPv6Address": v6.0,
        "GlobalIPv6PrefixLen": v6.1,
        "IPv6Gateway": v6.2,
        "MacAddress": own.and_then(|own| own["mac"].as_str()).unwrap_or_default(),
    })
}
