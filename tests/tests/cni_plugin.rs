//! CNI the other way round: bocker-net as a plugin, called by hand, by podman and by itself.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use bocker_tests::net::{HOST_OUTSIDE, OUTSIDE, inside, outside, talk};
use bocker_tests::{Call, Host, Output, Struck, need};
use serde_json::{Value, json};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// As long as those of containerd and podman are.
const CONTAINER: &str = "d39f2916fa4042a27103bb677f01ddce732e73ee30c678c173c9cf7c04ef3aa5";

/// What a runtime has: a namespace of a container's, and the protocol.
struct Runtime<'a> {
    host: &'a Host,
    netns: PathBuf,
}

impl<'a> Runtime<'a> {
    fn new(host: &'a Host) -> Runtime<'a> {
        let netns = host.scratch().join("netns");
        let name = netns.display();
        host.sh(&format!("touch {name}; unshare --net={name} true"))
            .ok();
        Runtime { host, netns }
    }

    fn end(&self) {
        let name = self.netns.display();
        self.host.sh(&format!("umount -l {name}; rm {name}")).ok();
    }

    fn call(&self, command: &str, config: &Value) -> Call {
        let call = self.host.call(&["bocker-net"]).stdin(config.to_string());
        call.env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", CONTAINER)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth5")
            .env("CNI_PATH", "/usr/lib/cni")
    }

    fn run(&self, command: &str, config: &Value) -> Output {
        self.call(command, config).run()
    }

    /// What it says that fails: its code, and its message.
    #[track_caller]
    fn refused(output: Output) -> (u64, String) {
        let said = output.exits(1).json();
        let text = said["msg"].as_str().expect("a message").to_owned();
        (said["code"].as_u64().expect("a code"), text)
    }

    fn enter(&self, command: &str) -> String {
        let script = format!("nsenter --net={} {command}", self.netns.display());
        self.host.sh(&script).ok().stdout
    }
}

fn config(version: &str, members: Value) -> Value {
    let mut config = json!({"cniVersion": version, "name": "lab", "type": "bocker-net"});
    for (name, value) in members.as_object().expect("members") {
        config[name] = value.clone();
    }
    config
}

fn ports() -> Value {
    json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]})
}

fn host_local(host: &Host) -> Value {
    let leases = host.scratch().join("leases");
    json!({"type": "host-local", "dataDir": leases, "ranges": [[{"subnet": "10.199.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.77.0.0/16", "gw": "10.199.0.9"}]})
}

/// How many addresses host-local has given.
fn leases(host: &Host) -> usize {
    let entries = fs::read_dir(host.scratch().join("leases/lab"));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    names
        .filter(|name| {
            name.to_str()
                .is_some_and(|name| name.parse::<Ipv4Addr>().is_ok())
        })
        .count()
}

fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    text.split('/')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("IPv4")
}

#[test]
fn a_runtime_gets_an_interface_and_a_published_port_and_gives_them_back() {
    let host = Host::new();
    let outside = outside(&host);
    host.run(&["bocker-net", "setup"]).ok();
    let runtime = Runtime::new(&host);
    let before = host.fingerprint();
    for version in VERSIONS {
        let config = config(
            version,
            json!({"runtimeConfig": ports(), "dns": {"nameservers": ["192.0.2.53"]}}),
        );
        let result = runtime.run("ADD", &config).ok().json();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][2]["name"], "eth5");
        assert_eq!(
            result["interfaces"][2]["sandbox"],
            runtime.netns.display().to_string()
        );
        assert_eq!(result["ips"][0]["interface"], 2);
        let family = result["ips"][0].get("version");
        assert_eq!(family.is_some(), version < "1.0.0", "{result}");
        assert_eq!(result["dns"]["nameservers"], json!(["192.0.2.53"]));

        let server = inside(&runtime.netns, || TcpListener::bind(("0.0.0.0", 80))).expect("listen");
        assert_eq!(talk(&server, Some(&outside), HOST_OUTSIDE, 8080), OUTSIDE);
        talk(&server, None, Ipv4Addr::LOCALHOST, 8080);
        let world = inside(&outside, || TcpListener::bind(("0.0.0.0", 99))).expect("listen");
        assert_eq!(
            talk(&world, Some(&runtime.netns), OUTSIDE, 99),
            IpAddr::from(HOST_OUTSIDE)
        );
        drop((server, world));

        let (code, words) = Runtime::refused(runtime.run("ADD", &config));
        assert_eq!(
            (code, words.as_str()),
            (102, "there is an interface eth5 already")
        );
        let mut checked = config.clone();
        checked["prevResult"] = result;
        if version > "0.3.1" {
            assert_eq!(runtime.run("CHECK", &checked).ok().stdout, "");
            runtime.enter("ip address flush dev eth5");
            let (code, words) = Runtime::refused(runtime.run("CHECK", &checked));
            assert!(
                code == 103 && words.contains("has not the address"),
                "{words}"
            );
        }
        assert_eq!(runtime.run("DEL", &checked).ok().stdout, "");
        host.assert_same(&before);
        runtime.run("DEL", &config).ok();
    }
}

#[test]
fn an_address_and_a_hardware_address_are_those_that_are_asked_for_and_the_network_is_any_of_ours() {
    let host = Host::new();
    host.run(&[
        "bocker-net",
        "network",
        "create",
        "web",
        "--subnet",
        "10.44.0.0/24",
        "--mtu",
        "1400",
    ])
    .ok();
    let runtime = Runtime::new(&host);
    let asked = json!({"ips": ["10.44.0.77/24"], "mac": "02:42:00:00:00:77"});
    let config = config("1.0.0", json!({"network": "web", "runtimeConfig": asked}));
    let result = runtime.run("ADD", &config).ok().json();
    assert_eq!(address(&result), Ipv4Addr::new(10, 44, 0, 77));
    let link = runtime.enter("ip link show eth5");
    assert!(
        link.contains("02:42:00:00:00:77") && link.contains("mtu 1400"),
        "{link}"
    );
    // A container of ours does not get it.
    let taken = [
        "bocker-net",
        "create",
        "--new",
        "--network",
        "web",
        "--ip",
        "10.44.0.77",
    ];
    host.run(&taken)
        .exits(125)
        .says("10.44.0.77 is the address of ps_");
    host.run(&["bocker-net", "network", "remove", "web"])
        .exits(125);
    // After another plugin, what that one made comes first.
    runtime.run("DEL", &config).ok();
    let mut second = config.clone();
    second["prevResult"] = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.9.9.9/24", "interface": 0}]});
    let result = runtime.run("ADD", &second).ok().json();
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(4));
    assert_eq!(result["ips"][0]["address"], "10.9.9.9/24");
    assert_eq!(
        (&result["ips"][1]["address"], &result["ips"][1]["interface"]),
        (&json!("10.44.0.77/24"), &json!(3))
    );
    runtime.run("DEL", &config).ok();
}

#[test]
fn addresses_may_come_from_an_ipam_plugin_which_gets_them_back_whatever_happens() {
    if !need("/usr/lib/cni/host-local") {
        return;
    }
    let host = Host::new();
    let runtime = Runtime::new(&host);
    let members = json!({"bridge": "cni7", "isGateway": true, "ipMasq": true, "mtu": 1400, "ipam": host_local(&host), "runtimeConfig": ports()});
    let config = config("1.0.0", members);
    let result = runtime.run("ADD", &config).ok().json();
    assert_eq!(address(&result), Ipv4Addr::new(10, 199, 0, 2));
    assert_eq!(result["interfaces"][0]["name"], "cni7");
    let routes = runtime.enter("ip route");
    for route in ["default via 10.199.0.1", "10.77.0.0/16 via 10.199.0.9"] {
        assert!(routes.contains(route), "{routes}");
    }
    let server = inside(&runtime.netns, || TcpListener::bind(("0.0.0.0", 80))).expect("listen");
    talk(&server, None, Ipv4Addr::LOCALHOST, 8080);
    drop(server);
    let table = || {
        host.run(&["nft", "list", "set", "inet", "bocker", "containers"])
            .ok()
            .stdout
    };
    assert!(table().contains("10.199.0.0/24"), "{}", table());
    // What is in use is not removed.
    host.run(&["bocker-net", "reset"])
        .exits(125)
        .says("in use by ps_");
    let mut checked = config.clone();
    checked["prevResult"] = result;
    runtime.run("CHECK", &checked).ok();
    let before_end = host.fingerprint();
    runtime.run("DEL", &config).ok();
    assert_eq!(leases(&host), 0);
    assert_ne!(host.fingerprint().diff(&before_end), "");

    // A port is taken: the address that was given by then goes back.
    let before = host.fingerprint();
    let busy = TcpListener::bind(("0.0.0.0", 8080)).expect("listen");
    let (code, words) = Runtime::refused(runtime.run("ADD", &config));
    assert!(
        code == 101 && words.contains("uses that port"),
        "{code} {words}"
    );
    drop(busy);
    assert_eq!(leases(&host), 0);
    host.assert_same(&before);

    // The namespace is gone before DEL comes.
    runtime.run("ADD", &config).ok();
    assert_eq!(leases(&host), 1);
    runtime.end();
    let call = runtime.call("DEL", &config).env("CNI_NETNS", "");
    call.run().ok();
    assert_eq!(leases(&host), 0);
    host.run(&["bocker-net", "reset"]).ok();
    let left = host
        .run(&["ip", "-br", "link", "show", "type", "bridge"])
        .ok()
        .stdout;
    assert_eq!(left, "");
}

#[test]
fn an_address_that_is_not_taken_back_stays_known_until_it_is() {
    let host = Host::new();
    let runtime = Runtime::new(&host);
    let stuck = host.scratch().join("stuck");
    let script = format!(
        r#"#!/bin/sh
        cat >/dev/null
        case $CNI_COMMAND in
        ADD) echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.199.0.2/24"}}]}}';;
        DEL) [ ! -e {} ] || {{ echo '{{"code":123,"msg":"stuck"}}'; exit 1; }};;
        esac"#,
        stuck.display()
    );
    let _ = host.script("ipam", &script);
    let config = config("1.0.0", json!({"bridge": "cni7", "ipam": {"type": "ipam"}}));
    let call = |command| {
        runtime
            .call(command, &config)
            .env("CNI_PATH", host.scratch())
            .run()
    };
    call("ADD").ok();
    fs::write(&stuck, "").expect("a file");
    let (_, words) = Runtime::refused(call("DEL"));
    assert!(words.contains("refuses DEL (code 123): stuck"), "{words}");
    let listed = host.run(&["bocker-net", "list"]).ok().json();
    assert_eq!(listed["attachment"]["container"], CONTAINER);
    assert_eq!(listed.get("links"), None);
    fs::remove_file(&stuck).expect("unlink");
    call("DEL").ok();
    assert_eq!(host.run(&["bocker-net", "list"]).ok().stdout, "");
}

#[test]
fn without_ip_masq_what_leaves_keeps_its_address() {
    if !need("/usr/lib/cni/host-local") {
        return;
    }
    let host = Host::new();
    let outside = outside(&host);
    host.sh(&format!(
        "nsenter --net={} ip route add 10.199.0.0/24 via {HOST_OUTSIDE}",
        outside.display()
    ))
    .ok();
    let runtime = Runtime::new(&host);
    let config = config(
        "1.0.0",
        json!({"bridge": "cni7", "ipam": host_local(&host)}),
    );
    let result = runtime.run("ADD", &config).ok().json();
    let world = inside(&outside, || TcpListener::bind(("0.0.0.0", 99))).expect("listen");
    assert_eq!(
        talk(&world, Some(&runtime.netns), OUTSIDE, 99),
        IpAddr::from(address(&result))
    );
    runtime.run("DEL", &config).ok();
}

#[test]
fn what_cannot_be_done_has_the_protocols_codes_and_makes_nothing() {
    let host = Host::new();
    host.run(&["bocker-net", "setup"]).ok();
    let runtime = Runtime::new(&host);
    let good = config("1.1.0", json!({}));
    let before = host.fingerprint();
    let code = |call: Call| Runtime::refused(call.run()).0;
    for (name, value) in [
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_IFNAME", "lo"),
        ("CNI_NETNS", ""),
    ] {
        assert_eq!(
            code(runtime.call("ADD", &good).env(name, value)),
            4,
            "{name}={value}"
        );
    }
    for path in ["/no/such", "/etc/passwd", "/proc/self/ns/mnt"] {
        assert_eq!(
            code(runtime.call("ADD", &good).env("CNI_NETNS", path)),
            4,
            "{path}"
        );
    }
    assert_eq!(code(runtime.call("FROB", &good)), 4);
    assert_eq!(code(runtime.call("ADD", &good).stdin("{")), 6);
    assert_eq!(code(runtime.call("ADD", &config("0.2.0", json!({})))), 1);
    for command in ["GC", "STATUS"] {
        assert_eq!(code(runtime.call(command, &config("1.0.0", json!({})))), 1);
    }
    let elsewhere = config("1.1.0", json!({"network": "no-such"}));
    assert_eq!(code(runtime.call("ADD", &elsewhere)), 7);
    assert_eq!(code(runtime.call("STATUS", &elsewhere)), 50);
    runtime.run("STATUS", &good).ok();
    host.run(&["ip", "link", "add", "br9", "type", "bridge"])
        .ok();
    let before_br9 = host.fingerprint();
    if need("/usr/lib/cni/host-local") {
        let other = config("1.0.0", json!({"bridge": "br9", "ipam": host_local(&host)}));
        let (code, words) = Runtime::refused(runtime.run("ADD", &other));
        assert!(code == 7 && words.contains("br9 is not of ours"), "{words}");
        assert_eq!(leases(&host), 0);
    }
    host.assert_same(&before_br9);
    host.run(&["ip", "link", "delete", "br9"]).ok();
    host.assert_same(&before);
    for asked in ["1.0.0", "0.2.0", "9.9.9"] {
        let said = runtime
            .run("VERSION", &json!({"cniVersion": asked}))
            .ok()
            .json();
        assert_eq!(said["supportedVersions"], json!(VERSIONS));
    }
}

#[test]
fn what_a_runtime_has_forgotten_goes_when_it_says_so_and_what_it_uses_stays() {
    let host = Host::new();
    host.run(&["bocker-net", "setup"]).ok();
    let empty = host.fingerprint();
    let runtime = Runtime::new(&host);
    let before = host.fingerprint();
    let config = config("1.1.0", json!({}));
    runtime.run("ADD", &config).ok();
    let used = host.fingerprint();
    // Not even our own collection knows better than the runtime.
    host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
    host.assert_same(&used);
    let naming = |containers: &[&str]| {
        let valid: Vec<Value> = containers
            .iter()
            .map(|id| json!({"containerID": id, "ifname": "eth5"}))
            .collect();
        let mut config = config.clone();
        config["cni.dev/valid-attachments"] = valid.into();
        config
    };
    runtime.run("GC", &naming(&[CONTAINER, "other"])).ok();
    host.assert_same(&used);
    runtime.run("GC", &naming(&["other"])).ok();
    host.assert_same(&before);

    // Its namespace is gone, and nobody called DEL.
    runtime.run("ADD", &config).ok();
    runtime.end();
    host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
    host.assert_same(&empty);
    runtime.call("DEL", &config).env("CNI_NETNS", "").run().ok();
}

#[test]
fn many_at_once_on_a_fresh_machine_have_addresses_of_their_own() {
    let host = Host::new();
    let mut configs = vec![config("1.0.0", json!({}))];
    if need("/usr/lib/cni/host-local") {
        let members = json!({"bridge": "cni7", "ipMasq": true, "ipam": host_local(&host)});
        configs.push(config("1.0.0", members));
    }
    let namespaces: Vec<String> = (0..8)
        .map(|number| {
            host.scratch()
                .join(format!("netns{number}"))
                .display()
                .to_string()
        })
        .collect();
    for name in &namespaces {
        host.sh(&format!("touch {name}; unshare --net={name} true"))
            .ok();
    }
    let runtime = Runtime::new(&host);
    for config in &configs {
        let at_once = |command: &str| {
            let calls = namespaces.iter().enumerate().map(|(number, netns)| {
                let call = runtime.call(command, config).env("CNI_NETNS", netns);
                call.env("CNI_CONTAINERID", format!("container{number}"))
                    .spawn()
            });
            let running: Vec<_> = calls.collect();
            running
                .into_iter()
                .map(|one| one.wait().ok())
                .collect::<Vec<Output>>()
        };
        let mut given: Vec<Ipv4Addr> = at_once("ADD")
            .iter()
            .map(|said| address(&said.json()))
            .collect();
        given.sort();
        given.dedup();
        assert_eq!(given.len(), namespaces.len());
        at_once("DEL");
        assert_eq!(host.run(&["bocker-net", "list"]).ok().stdout, "");
        assert_eq!(leases(&host), 0);
    }
}

#[test]
fn killed_anywhere_it_leaves_nothing_that_del_and_a_collection_do_not_remove() {
    let host = Host::new();
    host.run(&["bocker-net", "setup"]).ok();
    let runtime = Runtime::new(&host);
    let before = host.fingerprint();
    let config = config("1.0.0", json!({"runtimeConfig": ports()}));
    for command in ["ADD", "DEL"] {
        for count in 1.. {
            if command == "DEL" {
                runtime.run("ADD", &config).ok();
            }
            let struck = runtime.call(command, &config).kill_after_change(count);
            runtime.run("DEL", &config).ok();
            if let Struck::Ended(output) = struck {
                output.ok();
                assert!(count > 10, "{command} has only {count} changes");
                break;
            }
        }
        // An id that was claimed for nothing yet is not of any attachment.
        host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
        host.assert_same(&before);
    }
}

#[test]
fn both_ways_at_once_it_calls_itself() {
    let host = Host::new();
    host.run(&["bocker-net", "setup"]).ok();
    let before = host.fingerprint();
    let list = json!({"cniVersion": "1.1.0", "name": "own", "plugins": [
        {"type": "bocker-net", "capabilities": {"portMappings": true, "ips": true}}]});
    let path = host.scratch().join("own.conflist");
    fs::write(&path, list.to_string()).expect("a list");
    let words = [
        "bocker-net",
        "create",
        "--new",
        "--cni",
        &path.display().to_string(),
        "-p",
        "8080:80",
        "--ip",
        "10.0.0.99",
    ];
    let document = host
        .call(&words)
        .env("CNI_PATH", host.bins())
        .run()
        .ok()
        .json();
    let result = &document["bocker"]["net"]["attachments"][0]["result"];
    assert_eq!(address(result), Ipv4Addr::new(10, 0, 0, 99));
    let netns = document["bocker"]["net"]["netns"]["path"]
        .as_str()
        .expect("a path");
    let server = inside(Path::new(netns), || TcpListener::bind(("0.0.0.0", 80))).expect("listen");
    talk(&server, None, Ipv4Addr::LOCALHOST, 8080);
    drop(server);
    host.call(&["bocker-net", "delete"])
        .stdin(document.to_string())
        .run()
        .ok();
    host.assert_same(&before);
}

#[test]
fn podman_runs_its_containers_on_our_network() {
    if !need("podman runc") {
        return;
    }
    let host = Host::new();
    let outside = outside(&host);
    host.run(&["bocker-net", "setup"]).ok();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let folder = host.scratch().join("podman");
    let lists = folder.join("net.d");
    for name in ["net.d", "upper", "work"] {
        fs::create_dir_all(folder.join(name)).expect("a folder");
    }
    // The library for CNI that it has keeps results there, wherever podman itself is told to keep things.
    let layer = folder.display();
    host.sh(&format!(
        "mount -t overlay overlay -o lowerdir=/var/lib,upperdir={layer}/upper,workdir={layer}/work /var/lib"
    ))
    .ok();
    let list = json!({"cniVersion": "0.4.0", "name": "lab", "plugins": [
        {"type": "bocker-net", "capabilities": {"portMappings": true, "ips": true, "mac": true}}]});
    fs::write(lists.join("lab.conflist"), list.to_string()).expect("a list");
    let settings = folder.join("containers.conf");
    let text = format!(
        "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\"]\nnetwork_config_dir = \"{}\"\ndefault_network = \"lab\"\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"file\"\nlock_type = \"file\"\n",
        host.bins().display(),
        lists.display()
    );
    fs::write(&settings, text).expect("settings");
    let podman = |words: &[&str]| {
        let mut line = vec!["podman".to_owned()];
        for (option, name) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            line.extend([option.to_owned(), folder.join(name).display().to_string()]);
        }
        line.extend([
            "--network-config-dir".to_owned(),
            lists.display().to_string(),
        ]);
        line.extend(words.iter().map(|word| (*word).to_owned()));
        host.call(&line).env("CONTAINERS_CONF", &settings).run()
    };
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "lab",
        "-p",
        "8080:80",
        "--ip",
        "10.0.0.77",
    ];
    let serve = [
        "--rootfs",
        &rootfs,
        "/bin/sh",
        "-c",
        "echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp",
    ];
    podman(&[&run[..], &serve].concat()).ok();
    let listed = host.run(&["bocker-net", "list"]).ok().json();
    assert_eq!(listed["leases"], json!(["10.0.0.77"]));
    assert_eq!(listed["attachment"]["network"], "lab");
    let ask = format!(
        "nsenter --net={} curl -s --retry 20 --retry-connrefused --retry-delay 0 http://{HOST_OUTSIDE}:8080/",
        outside.display()
    );
    assert_eq!(host.sh(&ask).ok().stdout, "hello\n");
    let seen = podman(&["exec", "web", "ip", "-4", "addr", "show", "eth0"])
        .ok()
        .stdout;
    assert!(seen.contains("10.0.0.77/16"), "{seen}");
    podman(&["rm", "-f", "-t", "0", "web"]).ok();
    assert_eq!(host.run(&["bocker-net", "list"]).ok().stdout, "");
    let ports = host
        .run(&["nft", "list", "table", "inet", "bocker"])
        .ok()
        .stdout;
    assert!(!ports.contains("8080"), "{ports}");
}
