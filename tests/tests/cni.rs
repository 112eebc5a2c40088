//! CNI: bocker-net as the runtime of other people's plugins, the stock ones and such as lie.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use bocker_tests::net::{HOST_OUTSIDE, OUTSIDE, inside, outside, talk};
use bocker_tests::{Host, Output, Run, Session, need, step_names};
use serde_json::{Value, json};

/// Debian's containernetworking-plugins.
const STOCK: &str = "/usr/lib/cni";
/// Its CHECK crashes where it has nothing to limit.
const BANDWIDTH: &str = r#"bandwidth={"ingressRate":800000000,"ingressBurst":8000000,"egressRate":800000000,"egressBurst":8000000}"#;

/// Whether the stock plugins are there, and the program that they execute.
fn has_stock_plugins() -> bool {
    need("iptables /usr/lib/cni/bridge")
}

/// A folder of plugins made by the test, which say what they are called with, and lists that name them.
struct Plugins<'a> {
    host: &'a Host,
    folder: PathBuf,
}

impl<'a> Plugins<'a> {
    fn new(host: &'a Host) -> Plugins<'a> {
        let folder = host.scratch().join("plugins");
        fs::create_dir(&folder).expect("a folder of plugins");
        Plugins { host, folder }
    }

    fn log(&self) -> PathBuf {
        self.host.scratch().join("log")
    }

    /// A plugin that does this when it is called to add, and succeeds at everything else.
    fn plugin(&self, name: &str, add: &str) {
        self.script(name, &format!("case $CNI_COMMAND in ADD) {add};; esac"));
    }

    fn script(&self, name: &str, text: &str) {
        let versions =
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
        let script = format!(
            "#!/bin/sh\ninput=$(cat)\nprintf '%s %s %s\\n' \"$CNI_COMMAND\" {name} \"$input\" >>{}\n\
             if [ \"$CNI_COMMAND\" = VERSION ]; then echo '{versions}'; fi\n{text}\n",
            self.log().display()
        );
        let path = self.host.script(name, &script);
        fs::rename(path, self.folder.join(name)).expect("a plugin");
    }

    /// What an ADD that gives an address prints.
    fn result(version: &str) -> String {
        format!(
            "echo '{}'",
            json!({"cniVersion": version, "ips": [{"address": "10.9.9.9/24"}]})
        )
    }

    /// A configuration list in a file.
    fn list(&self, version: &str, plugins: Value) -> String {
        let list = json!({"cniVersion": version, "name": "lab", "plugins": plugins});
        let path = self.host.scratch().join("lab.conflist");
        fs::write(&path, list.to_string()).expect("a list");
        path.display().to_string()
    }

    fn create(&self, options: &[&str]) -> Output {
        let path = format!("{}:{STOCK}", self.folder.display());
        let call = self
            .host
            .call(&[&["bocker-net", "create", "--new"], options].concat());
        call.env("CNI_PATH", path).run()
    }

    fn delete(&self, document: &Value) -> Output {
        let call = self.host.call(&["bocker-net", "delete"]);
        call.stdin(document.to_string()).run()
    }

    /// Verb, plugin, and what it had on its stdin, of each call since the last time.
    fn calls(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        _ = fs::remove_file(self.log());
        let call = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let called = format!("{} {}", words.next()?, words.next()?);
            Some((called, serde_json::from_str(words.next()?).ok()?))
        };
        text.lines()
            .map(|line| call(line).expect("a call"))
            .collect()
    }

    fn called(&self) -> Vec<String> {
        self.calls().into_iter().map(|(called, _)| called).collect()
    }
}

/// A list of the stock plugins. What host-local keeps lies in the test's own folder.
fn stock(host: &Host, version: &str) -> String {
    let leases = host.scratch().join("leases");
    let ipam = json!({"type": "host-local", "dataDir": leases, "ranges": [[{"subnet": "10.199.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}]});
    let mut list = json!({"cniVersion": version, "name": "lab", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam,
         "capabilities": {"mac": true, "ips": true}, "dns": {"nameservers": ["192.0.2.53"], "search": ["lab.test"]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall"},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]});
    if version < "0.4.0" {
        // The last two speak nothing older.
        list["plugins"].as_array_mut().expect("plugins").truncate(2);
    }
    let path = host.scratch().join(format!("{version}.conflist"));
    fs::write(&path, list.to_string()).expect("a list");
    path.display().to_string()
}

/// The addresses that host-local has given, and to whom.
fn leases(host: &Host) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(host.scratch().join("leases/lab")) else {
        return Vec::new();
    };
    let lease = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.parse::<Ipv4Addr>().ok()?;
        let text = fs::read_to_string(entry.path()).ok()?;
        Some((name, text.lines().next()?.to_owned()))
    };
    entries.flatten().filter_map(lease).collect()
}

fn attachment(document: &Value) -> &Value {
    &document["bocker"]["net"]["attachments"][0]
}

fn id(document: &Value) -> &str {
    document["bocker"]["id"].as_str().expect("an id")
}

fn namespace(document: &Value) -> PathBuf {
    let path = document["bocker"]["net"]["netns"]["path"].as_str();
    path.expect("a path").into()
}

#[test]
fn the_stock_plugins_wire_a_container_publish_its_port_and_take_it_all_back() {
    if !has_stock_plugins() {
        return;
    }
    let host = Host::new();
    let outside = outside(&host);
    let list = stock(&host, "1.0.0");
    let options = [
        "bocker-net",
        "create",
        "--new",
        "--cni",
        &list,
        "-p",
        "8080:80",
        "--cni-capability",
        BANDWIDTH,
    ];
    let create = || host.run(&options).ok().json();
    let delete = |document: &Value| {
        let call = host
            .call(&["bocker-net", "delete"])
            .stdin(document.to_string());
        call.run().ok().json()
    };
    // What plugins make for all containers stays: the bridge, their chains.
    delete(&create());
    let before = host.fingerprint();

    let document = create();
    let netns = namespace(&document);
    let result = &attachment(&document)["result"];
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(
        result["interfaces"][2]["sandbox"],
        netns.display().to_string()
    );
    let address = result["ips"][0]["address"].as_str().expect("an address");
    let address = address.strip_suffix("/24").expect("a prefix").to_owned();
    assert_eq!(leases(&host), [(address.clone(), id(&document).to_owned())]);
    let file = |name: &str| {
        let path = format!("/run/bocker/{}/{name}", id(&document));
        fs::read_to_string(path).expect("a file")
    };
    assert!(
        file("hosts").ends_with(&format!("\n{address}\t{}\n", id(&document))),
        "{}",
        file("hosts")
    );
    assert_eq!(
        file("resolv.conf"),
        "nameserver 192.0.2.53\nsearch lab.test\n"
    );

    let server = inside(&netns, || TcpListener::bind(("0.0.0.0", 80))).expect("listen");
    assert_eq!(talk(&server, Some(&outside), HOST_OUTSIDE, 8080), OUTSIDE);
    talk(&server, None, Ipv4Addr::LOCALHOST, 8080);
    let world = inside(&outside, || TcpListener::bind(("0.0.0.0", 99))).expect("listen");
    assert_eq!(talk(&world, Some(&netns), OUTSIDE, 99), HOST_OUTSIDE);
    let shaped = host.run(&["tc", "qdisc", "show"]).ok().stdout;
    assert!(
        shaped.contains("tbf") && shaped.contains("800Mbit"),
        "{shaped}"
    );
    let listed = host.run(&["bocker-net", "list"]).ok().json();
    assert_eq!(listed["cni"], json!(["lab"]));
    drop((server, world));

    assert_eq!(
        delete(&document),
        json!({"ociVersion": "1.0.2", "bocker": {"version": 1, "id": id(&document)}})
    );
    assert_eq!(leases(&host), []);
    host.assert_same(&before);
    delete(&document);
}

#[test]
fn each_version_of_the_protocol_is_spoken_and_of_several_the_highest_that_all_plugins_speak() {
    if !has_stock_plugins() {
        return;
    }
    let host = Host::new();
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let list = stock(&host, version);
        let mut options = vec!["bocker-net", "create", "--new", "--cni", &list];
        if version > "0.3.1" {
            options.extend(["--cni-capability", BANDWIDTH]);
        }
        let document = host.run(&options).ok().json();
        assert_eq!(attachment(&document)["cni"]["version"], version);
        assert_eq!(attachment(&document)["result"]["cniVersion"], "1.1.0");
        assert_eq!(
            attachment(&document)["result"]["ips"][0].get("version"),
            None
        );
        // Those of 0.3.1 cannot be asked.
        let check = || {
            let call = host.call(&["bocker-net", "check", "-"]);
            call.stdin(document.to_string()).run()
        };
        assert_eq!(check().ok().stdout, "");
        let enter = format!("--net={}", namespace(&document).display());
        host.run(&["nsenter", &enter, "ip", "address", "flush", "dev", "eth0"])
            .ok();
        if version > "0.3.1" {
            let difference = check().exits(1).json();
            let words = difference["found"].as_str().expect("words");
            assert!(words.contains("refuses CHECK"), "{difference}");
        }
        host.run(&["bocker-net", "delete", id(&document)]).ok();
        assert_eq!(leases(&host), [], "{version}");
    }
    // Debian 12's do not know 1.1.0.
    let list = stock(&host, "1.1.0");
    let refused = host
        .run(&["bocker-net", "create", "--new", "--cni", &list])
        .exits(125);
    refused.says("the CNI plugin 'bridge' refuses ADD (code 1)");
    assert!(host.run(&["bocker-net", "list"]).ok().stdout.is_empty());
    let mut text: Value =
        serde_json::from_str(&fs::read_to_string(&list).expect("a list")).expect("JSON");
    text["cniVersions"] = json!(["0.4.0", "1.0.0"]);
    fs::write(&list, text.to_string()).expect("a list");
    let document = host
        .run(&["bocker-net", "create", "--new", "--cni", &list])
        .ok()
        .json();
    assert_eq!(attachment(&document)["cni"]["version"], "1.0.0");
    host.run(&["bocker-net", "delete", id(&document)]).ok();
    assert_eq!(leases(&host), []);
}

#[test]
fn plugins_are_called_in_order_with_what_came_before_and_backwards_with_what_came_of_it() {
    let host = Host::new();
    let before = host.fingerprint();
    let plugins = Plugins::new(&host);
    plugins.plugin("first", &Plugins::result("0.4.0"));
    plugins.plugin(
        "second",
        r#"printf '%s' "$input" | sed 's/.*"prevResult"://; s/}$//'"#,
    );
    let list = |version| {
        let wants = json!({"portMappings": true});
        plugins.list(
            version,
            json!([{"type": "first", "mine": 1}, {"type": "second", "capabilities": wants}]),
        )
    };
    let document = plugins
        .create(&["--cni", &list("0.4.0"), "-p", "127.0.0.1:8080:80/udp"])
        .ok()
        .json();
    let calls = plugins.calls();
    assert_eq!(calls[0].0, "ADD first");
    assert_eq!(
        calls[0].1,
        json!({"type": "first", "mine": 1, "cniVersion": "0.4.0", "name": "lab"})
    );
    assert_eq!(calls[1].0, "ADD second");
    let ports =
        json!([{"hostIP": "127.0.0.1", "hostPort": 8080, "containerPort": 80, "protocol": "udp"}]);
    assert_eq!(calls[1].1["runtimeConfig"], json!({"portMappings": ports}));
    assert_eq!(
        calls[1].1["prevResult"]["ips"],
        json!([{"address": "10.9.9.9/24", "version": "4"}])
    );
    assert_eq!(attachment(&document)["request"]["publish"], ports);
    plugins.delete(&document).ok();
    let calls = plugins.calls();
    assert_eq!([&*calls[0].0, &*calls[1].0], ["DEL second", "DEL first"]);
    for (_, input) in &calls {
        assert_eq!(
            input["prevResult"]["ips"],
            json!([{"address": "10.9.9.9/24", "version": "4"}])
        );
    }
    // Before 0.4.0 the result was not for DEL.
    let document = plugins.create(&["--cni", &list("0.3.1")]).ok().json();
    plugins.delete(&document).ok();
    let calls = plugins.calls();
    assert_eq!(calls[2].0, "DEL second");
    assert_eq!(calls[2].1.get("prevResult"), None);
    host.assert_same(&before);
}

#[test]
fn a_plugin_that_fails_lies_or_hangs_is_named_and_those_before_it_take_back_what_they_did() {
    let host = Host::new();
    let before = host.fingerprint();
    let plugins = Plugins::new(&host);
    let good = Plugins::result("1.0.0");
    plugins.plugin("good", &good);
    let list = plugins.list("1.0.0", json!([{"type": "good"}, {"type": "bad"}]));
    // Long enough for what answers at all.
    let create = |patience: &str| {
        let options = ["--cni", &list, "--cni-timeout", patience];
        plugins.create(&options).exits(125)
    };

    create("60").says("there is no CNI plugin 'bad'");
    assert!(plugins.called().is_empty());
    fs::write(plugins.folder.join("bad"), "#!/bin/sh\n").expect("a plugin");
    create("60").says("plugins/bad is not executable");
    assert!(plugins.called().is_empty());
    // What cannot be executed has nothing to take back.
    let path = host.script("bad", "#!/no/such/interpreter\n");
    fs::rename(path, plugins.folder.join("bad")).expect("a plugin");
    create("60").says("bad: No such file or directory (ENOENT)");
    assert_eq!(plugins.called(), ["ADD good", "DEL good"]);
    host.assert_same(&before);

    let result = |members: &str| format!(r#"printf %s '{{"cniVersion":"1.0.0",{members}}}'"#);
    for (add, says) in [
        ("true".to_owned(), "'bad' answers ADD with nothing"),
        ("echo done".into(), "with what is not JSON"),
        ("echo []".into(), "with what is not a result"),
        (
            "head -c 3000000 /dev/zero".into(),
            "says more than 1 MiB, and was killed",
        ),
        (
            "sleep 1000".into(),
            "did not answer ADD within 2 s, and was killed",
        ),
        (
            r#"echo '{"code":11,"msg":"busy","details":"later"}'; exit 1"#.into(),
            "refuses ADD (code 11): busy: later",
        ),
        (
            "echo to whom it may concern >&2; exit 7".into(),
            "exited with 7 at ADD, without saying why as CNI does: to whom",
        ),
        ("kill -SEGV $$".into(), "was ended by signal 11"),
        (
            result(r#""ips":[{"address":"10.9.9.999/24"}]"#),
            "with an address '10.9.9.999/24', which is none",
        ),
        (
            result(r#""dns":{"nameservers":["1.1.1.1\nsearch x"]}"#),
            "for resolv.conf",
        ),
        (
            result(r#""interfaces":[{"name":"eth7","sandbox":"/x"}]"#),
            "made the interface eth7, and there is none",
        ),
    ] {
        plugins.plugin("bad", &add);
        create(if add.starts_with("sleep") { "2" } else { "60" }).says(says);
        let all = ["ADD good", "ADD bad", "DEL bad", "DEL good"];
        assert_eq!(plugins.called(), all, "{says}");
        host.assert_same(&before);
    }
}

#[test]
fn what_a_plugin_does_not_take_back_stays_known_until_it_does() {
    let host = Host::new();
    let before = host.fingerprint();
    let plugins = Plugins::new(&host);
    let stuck = host.scratch().join("stuck");
    let text = format!(
        r#"case $CNI_COMMAND in ADD) {};; DEL) [ ! -e {} ] || {{ echo '{{"code":100,"msg":"stuck"}}'; exit 1; }};; esac"#,
        Plugins::result("1.0.0"),
        stuck.display()
    );
    plugins.script("net", &text);
    let list = plugins.list("1.0.0", json!([{"type": "net"}]));
    let document = plugins.create(&["--cni", &list]).ok().json();
    fs::write(&stuck, "").expect("a file");
    let failed = plugins.delete(&document).exits(125);
    let failed = failed.says("refuses DEL (code 100): stuck").json();
    assert_eq!(failed["bocker"]["net"], document["bocker"]["net"]);
    host.run(&["bocker-net", "gc", "--grace", "0"])
        .exits(125)
        .says("stuck");
    fs::remove_file(&stuck).expect("unlink");
    host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
    assert_eq!(plugins.called().last().map(String::as_str), Some("DEL net"));
    host.assert_same(&before);

    // The same where a create fails.
    plugins.script("broken", "case $CNI_COMMAND in ADD) exit 1;; esac");
    let list = plugins.list("1.0.0", json!([{"type": "net"}, {"type": "broken"}]));
    fs::write(&stuck, "").expect("a file");
    let failed = plugins.create(&["--cni", &list]).exits(125);
    failed
        .says("'broken' exited with 1")
        .says("; and then the CNI plugin 'net' refuses DEL");
    fs::remove_file(&stuck).expect("unlink");
    host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
    host.assert_same(&before);
}

#[test]
fn no_document_that_comes_down_a_pipe_has_a_plugin_called() {
    let host = Host::new();
    let plugins = Plugins::new(&host);
    plugins.plugin("net", &Plugins::result("1.0.0"));
    let list = plugins.list("1.0.0", json!([{"type": "net"}]));
    let document = plugins.create(&["--cni", &list]).ok().json();
    plugins.delete(&document).ok();
    plugins.calls();
    // Deleted already; what the document says is not believed.
    plugins.delete(&document).ok();
    let mut other = document.clone();
    other["bocker"]["net"]["attachments"][0]["cni"]["boot_id"] = json!("another");
    plugins.delete(&other).ok();
    assert!(plugins.called().is_empty());
    // Nor is the file that it names.
    let again = host
        .call(&["bocker-net", "create"])
        .stdin(document.to_string())
        .run();
    again.exits(125);
    assert!(plugins.called().is_empty());
}

#[test]
fn what_no_plugin_can_do_and_what_makes_no_sense_is_refused_before_anything_is_made() {
    let host = Host::new();
    let before = host.fingerprint();
    let plugins = Plugins::new(&host);
    plugins.plugin("net", &Plugins::result("1.0.0"));
    let list = plugins.list("1.0.0", json!([{"type": "net"}]));
    let busy = TcpListener::bind(("0.0.0.0", 8081)).expect("listen");
    for (options, says) in [
        (
            &["--cni", &list, "-p", "80:80"][..],
            "no plugin of the CNI network 'lab' has the capability portMappings",
        ),
        (
            &[
                "--cni",
                &list,
                "--cni-capability",
                "mac=\"02:00:00:00:00:01\"",
            ],
            "has the capability mac",
        ),
        (
            &["--cni", &list, "--cni-capability", "mac"],
            "is not the name of a capability",
        ),
        (&["--cni", &list, "--cni", &list], "asked for twice"),
        (&["--cni", &list, "--network", "none"], "do not go together"),
        (
            &["--cni", "no-such"],
            "there is no CNI network 'no-such' in /etc/cni/net.d",
        ),
        (
            &["--network", "cni:../x"],
            "there is no CNI configuration ../x",
        ),
        (
            &["--cni", "a b"],
            "neither the name of a CNI network nor a file",
        ),
        (&["--cni", "/dev/zero"], "larger than 1 MiB"),
    ] {
        plugins.create(options).exits(125).says(says);
    }
    let wants = json!({"portMappings": true});
    let list = plugins.list("1.0.0", json!([{"type": "net", "capabilities": wants}]));
    plugins
        .create(&["--cni", &list, "-p", "8081:80"])
        .exits(125)
        .says("uses that port");
    drop(busy);
    assert!(plugins.called().is_empty());
    host.assert_same(&before);
}

#[test]
fn several_networks_of_cni_are_several_interfaces() {
    let host = Host::new();
    let before = host.fingerprint();
    let plugins = Plugins::new(&host);
    plugins.script("net", r#"case $CNI_COMMAND in ADD)
        nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type veth peer name "p$CNI_IFNAME"
        echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}]}";; esac"#);
    let file = |name: &str| {
        let path = host.scratch().join(name);
        let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "net"}]});
        fs::write(&path, list.to_string()).expect("a list");
        path.display().to_string()
    };
    let (one, other) = (file("one.conf"), file("other.conf"));
    let document = plugins
        .create(&["--network", &format!("cni:{one}"), "--cni", &other])
        .ok()
        .json();
    let attachments = document["bocker"]["net"]["attachments"]
        .as_array()
        .expect("attachments");
    let names = attachments
        .iter()
        .map(|one| (one["network"].as_str(), one["ifname"].as_str()));
    assert_eq!(
        names.collect::<Vec<_>>(),
        [
            (Some("one.conf"), Some("eth0")),
            (Some("other.conf"), Some("eth1"))
        ]
    );
    let enter = format!("--net={}", namespace(&document).display());
    host.run(&["nsenter", &enter, "ip", "link", "show", "eth1"])
        .ok();
    plugins.delete(&document).ok();
    assert_eq!(
        plugins.called(),
        ["ADD net", "ADD net", "DEL net", "DEL net"]
    );
    host.assert_same(&before);
}

#[test]
fn a_failure_after_any_step_has_all_plugins_take_back_what_they_did() {
    let host = Host::new();
    let before = host.fingerprint();
    let plugins = Plugins::new(&host);
    plugins.plugin("net", &Plugins::result("1.0.0"));
    let list = plugins.list("1.0.0", json!([{"type": "net"}]));
    let explained = plugins
        .create(&["--cni", &list, "--dry-run", "--explain"])
        .ok();
    assert!(plugins.called().is_empty());
    let steps = step_names(&explained.stderr);
    assert_eq!(
        steps,
        [
            "net.claim",
            "net.netns",
            "net.up",
            "net.record",
            "net.cni",
            "net.files"
        ]
    );
    for step in steps {
        let called = ["ADD net", "DEL net"];
        let count = if ["net.cni", "net.files"].contains(&&*step) {
            2
        } else {
            0
        };
        for fail_at in [step.clone(), format!("kill:{step}")] {
            let path = plugins.folder.display().to_string();
            let call = host.call(&["bocker-net", "create", "--new", "--cni", &list]);
            let failed = call
                .env("CNI_PATH", path)
                .env("BOCKER_FAIL_AT", &fail_at)
                .run();
            if fail_at != step {
                host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
            }
            assert_ne!(failed.code, 0, "{fail_at}");
            host.assert_same(&before);
            let mut seen = plugins.called();
            // Whether a plugin was called at all, a collection cannot know.
            if fail_at == "kill:net.record" {
                assert_eq!(seen, ["DEL net"]);
                seen.clear();
            }
            assert_eq!(seen, called[..count], "{fail_at}");
        }
    }
}

#[test]
fn the_lines_that_v_prints_call_the_same_plugins_to_the_same_end() {
    if !has_stock_plugins() {
        return;
    }
    let host = Host::new();
    let list = stock(&host, "1.0.0");
    let options = [
        "bocker-net",
        "create",
        "--new",
        "-v",
        "--cni",
        &list,
        "--cni-capability",
        BANDWIDTH,
    ];
    let made = host.run(&options).ok();
    let document = made.json();
    let delete = || {
        let call = host.call(&["bocker-net", "delete"]);
        call.stdin(document.to_string()).run().ok()
    };
    delete();
    assert_eq!(leases(&host), []);
    let lines = made
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "));
    let script = format!("set -e\n{}\n", lines.collect::<Vec<_>>().join("\n"));
    host.sh(&script).ok();
    assert_eq!(leases(&host).len(), 1);
    let address = &leases(&host)[0].0;
    let enter = format!("--net={}", namespace(&document).display());
    let seen = host
        .run(&["nsenter", &enter, "ip", "-br", "address", "show", "eth0"])
        .ok()
        .stdout;
    assert!(seen.contains(&format!("{address}/24")), "{seen}");
    delete();
    assert_eq!(leases(&host), []);
}

/// Puts a layer of the test's own over the machine's `/etc`, with these lists in it.
fn administer(host: &Host, lists: &[(&str, Value)]) {
    let layer = host.scratch().join("etc");
    fs::create_dir_all(layer.join("work")).expect("a folder");
    fs::create_dir_all(layer.join("upper/cni/net.d")).expect("a folder");
    for (name, list) in lists {
        fs::write(layer.join("upper/cni/net.d").join(name), list.to_string()).expect("a list");
    }
    let folder = layer.display();
    host.sh(&format!(
        "mount -t overlay overlay -o lowerdir=/etc,upperdir={folder}/upper,workdir={folder}/work /etc"
    ))
    .ok();
}

#[test]
fn a_container_of_the_front_end_has_the_administrators_network_again_after_a_stop_and_a_restart() {
    if !has_stock_plugins() {
        return;
    }
    let session = Session::new();
    let host = &session.host;
    let list: Value =
        serde_json::from_str(&fs::read_to_string(stock(host, "1.0.0")).expect("a list"))
            .expect("JSON");
    administer(host, &[("10-lab.conflist", list)]);
    let options = [
        "-d",
        "--name",
        "web",
        "--network",
        "cni:lab",
        "-p",
        "8080:80",
    ];
    let id = session
        .run(&options, &["sleep", "1000"])
        .text()
        .trim()
        .to_owned();
    let mine = |leases: Vec<(String, String)>| {
        leases
            .into_iter()
            .filter(|(_, holder)| *holder == id)
            .count()
    };
    assert_eq!(mine(leases(host)), 1);
    let seen = session
        .bocker(&["exec", "web", "ip", "-4", "addr", "show", "eth0"])
        .ok()
        .stdout;
    assert!(seen.contains(&leases(host)[0].0), "{seen}");
    session.bocker(&["stop", "web"]).ok();
    assert_eq!(leases(host), []);
    session.bocker(&["start", "web"]).ok();
    assert_eq!(mine(leases(host)), 1);
    // host-local's leases are on disk, and outlive the machine's end.
    host.reboot(Run::Emptied);
    assert_eq!(mine(leases(host)), 1);
    session.bocker(&["start", "web"]).ok();
    assert_eq!(leases(host).len(), 1);
    session.bocker(&["rm", "-f", "web"]).ok();
    assert_eq!(leases(host), []);
}
