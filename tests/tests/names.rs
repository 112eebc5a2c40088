//! The names that a container knows: its files, asked by real resolvers and answered by a real name server.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bocker_tests::{Host, Output, Session};
use serde_json::{Value, json};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PATIENCE: Duration = Duration::from_secs(5);

/// A network alone.
struct Net {
    document: Value,
}

impl Net {
    fn new(host: &Host, options: &[&str]) -> Net {
        Net {
            document: create(host, options).ok().json(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        let id = self.document["bocker"]["id"].as_str().expect("an id");
        Path::new("/run/bocker").join(id).join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).expect(name)
    }
}

fn create(host: &Host, options: &[&str]) -> Output {
    host.run(&[&["bocker-net", "create", "--new"], options].concat())
}

/// A file of the host with another text, for this test alone and until it is dropped.
struct Replaced<'a> {
    host: &'a Host,
    file: &'a str,
}

fn replace<'a>(host: &'a Host, file: &'a str, text: &str) -> Replaced<'a> {
    let own = host.scratch().join(file.replace('/', "-"));
    fs::write(&own, text).expect("write");
    host.run(&["mount", "--bind", &own.display().to_string(), file])
        .ok();
    Replaced { host, file }
}

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.host.run(&["umount", self.file]).ok();
        }
    }
}

/// A name server that knows one name, and tells what it was asked.
fn name_server(known: &'static str, address: Ipv4Addr) -> mpsc::Receiver<String> {
    let socket = UdpSocket::bind((GATEWAY, 53)).expect("bind");
    let (tell, asked) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let question = &buffer[..length];
            let (name, kind) = asked_for(question);
            let address = (kind == A).then_some(address);
            let answer = answer(question, name == known, address);
            _ = socket.send_to(&answer, client);
            if tell.send(name).is_err() {
                return;
            }
        }
    });
    asked
}

/// RFC 1035, 3.2.2.
const A: u16 = 1;
const HEADER: usize = 12;

/// The name and type of a question (RFC 1035, 4.1.2).
fn asked_for(question: &[u8]) -> (String, u16) {
    let mut labels = Vec::new();
    let mut rest = &question[HEADER..];
    while let [length, more @ ..] = rest
        && *length != 0
    {
        let (label, after) = more.split_at(usize::from(*length));
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = after;
    }
    (labels.join("."), u16::from_be_bytes([rest[1], rest[2]]))
}

/// The question again, with the answer if there is one of this type, or that there is no such name.
fn answer(question: &[u8], is_known: bool, address: Option<Ipv4Addr>) -> Vec<u8> {
    let mut bytes = question.to_vec();
    let address = address.filter(|_| is_known);
    bytes[2..4].copy_from_slice(&[0x81, if is_known { 0x80 } else { 0x83 }]);
    bytes[7] = u8::from(address.is_some());
    if let Some(address) = address {
        // The name of the question, type A, class IN, ten seconds, four bytes.
        bytes.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4]);
        bytes.extend(address.octets());
    }
    bytes
}

#[test]
fn a_container_asks_the_name_server_and_in_the_domain_that_it_was_told() {
    let session = Session::new();
    session.bocker(&["system", "setup"]).ok();
    let asked = name_server("db.example.org", Ipv4Addr::new(192, 0, 2, 7));
    let options = "--rm --dns 10.0.0.1 --dns-search example.org --dns-opt ndots:2";
    let options: Vec<&str> = options.split(' ').collect();
    let said = session.run(&options, &["nslookup", "db"]).ok().text();
    assert!(said.contains("192.0.2.7"), "{said}");
    let first = asked.recv_timeout(PATIENCE).expect("a question");
    assert_eq!(first, "db.example.org");
}

#[test]
fn a_host_that_was_added_is_found_and_host_gateway_is_the_host() {
    let session = Session::new();
    let add = "--add-host here:host-gateway --add-host db=[2001:db8::7] --rm";
    let options: Vec<&str> = add.split(' ').collect();
    let script = ["sh", "-c", "ping -c 1 here; grep db /etc/hosts"];
    let said = session.run(&options, &script).ok().text();
    assert!(said.contains("(10.0.0.1)"), "{said}");
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert!(said.contains("2001:db8::7\tdb\n"), "{said}");

    let on_host = [&["--network", "host"], &options[..]].concat();
    let said = session.run(&on_host, &["cat", "/etc/hosts"]).ok().text();
    let own = fs::read_to_string("/etc/hosts").expect("hosts");
    let added = "127.0.0.1\there\n2001:db8::7\tdb\n";
    assert_eq!(said, format!("{}\n{added}", own.trim_end()));
}

#[test]
fn what_was_asked_for_is_made_again_at_every_start() {
    let session = Session::new();
    let options =
        "--add-host db:192.0.2.7 --dns 2001:db8::53 --dns-search . --dns-option use-vc --name web";
    let options: Vec<&str> = options.split(' ').collect();
    let script = ["sh", "-c", "cat /etc/resolv.conf; grep db /etc/hosts"];
    let first = session.run(&options, &script).ok().text();
    assert_eq!(
        first,
        "nameserver 2001:db8::53\noptions use-vc\n192.0.2.7\tdb\n"
    );
    assert_eq!(session.bocker(&["start", "-a", "web"]).ok().text(), first);
}

#[test]
fn resolv_conf_follows_the_hosts_but_for_servers_that_a_container_cannot_reach() {
    let host = Host::new();
    host.sh("mkdir -p /run/systemd; mount -t tmpfs tmpfs /run/systemd; mkdir /run/systemd/resolve")
        .ok();
    let upstreams = "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch lan\n";
    fs::write("/run/systemd/resolve/resolv.conf", upstreams).expect("write");
    for (of_host, expected) in [
        (
            "nameserver 192.0.2.7\noptions ndots:3\n",
            "nameserver 192.0.2.7\noptions ndots:3\n",
        ),
        (
            "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch stub\n",
            "nameserver 192.0.2.1\nsearch lan\n",
        ),
        ("", "nameserver 192.0.2.1\nsearch lan\n"),
    ] {
        let file = replace(&host, "/etc/resolv.conf", of_host);
        assert_eq!(Net::new(&host, &[]).text("resolv.conf"), expected);
        let on_host = Net::new(&host, &["--network", "host"]);
        assert_eq!(on_host.text("resolv.conf"), of_host);
        let on_host = Net::new(&host, &["--network", "host", "--dns-search", "mine"]);
        let servers = of_host
            .lines()
            .filter(|line| line.starts_with("nameserver"));
        let text = on_host.text("resolv.conf");
        assert!(text.contains("search mine\n"), "{text}");
        assert!(
            servers.into_iter().all(|line| text.contains(line)),
            "{text}"
        );
        drop(file);
    }
}

#[test]
fn an_odd_resolv_conf_of_the_host_is_refused_or_made_harmless() {
    let host = Host::new();
    {
        let _file = replace(&host, "/etc/resolv.conf", &"options x\n".repeat(10_000));
        let before = host.fingerprint();
        create(&host, &[]).exits(125).says("larger than");
        host.assert_same(&before);
        create(&host, &["--network", "host"])
            .exits(125)
            .says("larger than");
        let all = "--dns 192.0.2.53 --dns-search lan --dns-option ndots:2";
        let all: Vec<&str> = all.split(' ').collect();
        Net::new(&host, &all);
    }
    let pipe = host.scratch().join("pipe").display().to_string();
    host.run(&["mkfifo", &pipe]).ok();
    host.run(&["mount", "--bind", &pipe, "/etc/resolv.conf"])
        .ok();
    create(&host, &[])
        .exits(125)
        .says("/etc/resolv.conf is no file");
    host.run(&["umount", "/etc/resolv.conf"]).ok();
    let odd = "nameserver\nnameserver x\nnameserver 192.0.2.7\u{0}\nsearch a\u{7}b \u{fffd} ok\noptions\n#search z\n";
    let _file = replace(&host, "/etc/resolv.conf", odd);
    let text = Net::new(&host, &["--dns", "192.0.2.53"]).text("resolv.conf");
    assert_eq!(text, "nameserver 192.0.2.53\nsearch ok\n");
}

#[test]
fn odd_names_are_refused_before_anything_is_made() {
    let host = Host::new();
    let before = host.fingerprint();
    for (options, says) in [
        (["--add-host", "a b:192.0.2.7"], "not a host name"),
        (["--add-host", "a\nb:192.0.2.7"], "not a host name"),
        (["--add-host", "db:192.0.2"], "not an address"),
        (["--add-host", "db"], "the address is missing"),
        (
            ["--dns", "192.0.2.53 x"],
            "not the address of a name server",
        ),
        (["--dns-search", "a\nnameserver 192.0.2.53"], "not a domain"),
        (["--dns-option", "a b"], "not an option"),
        (["--hostname", "a\u{1b}[2Jb"], "not a host name"),
        (["--network-alias", "a b"], "cannot be another name"),
        (["--network-alias", "ps_abc123"], "cannot be another name"),
        (
            ["--network", "name=bridge,alias=a\nb"],
            "cannot be another name",
        ),
    ] {
        let refused = create(&host, &options).exits(125).says(says);
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        assert!(!refused.stderr.contains('\u{1b}'), "{refused}");
    }
    let gateway = ["--network", "none", "--add-host", "here:host-gateway"];
    create(&host, &gateway)
        .exits(125)
        .says("no network with the host in it");
    let net = json!({"mode": "bridge", "extraHosts": ["db:192.0.2.7\n192.0.2.8 bank"]});
    let document = json!({"bocker": {"version": 1, "net": net}});
    let call = host.call(&["bocker-net", "create", "--new", "-"]);
    call.stdin(document.to_string())
        .run()
        .exits(125)
        .says("not an address");
    host.assert_same(&before);
}

/// A machine with networks that somebody made.
struct Networks {
    session: Session,
}

impl Networks {
    fn new(networks: &[&str]) -> Networks {
        let session = Session::new();
        for words in networks {
            let words: Vec<&str> = ["network", "create"]
                .into_iter()
                .chain(words.split(' '))
                .collect();
            session.bocker(&words).ok();
        }
        Networks { session }
    }

    /// Leaves a container in the background, and gives its id.
    fn sleeping(&self, options: &str) -> String {
        let options: Vec<&str> = ["-d"].into_iter().chain(options.split(' ')).collect();
        let made = self.session.run(&options, &["sleep", "1000"]);
        made.text().trim().to_owned()
    }

    fn sh(&self, container: &str, script: &str) -> Output {
        self.session
            .bocker(&["exec", container, "sh", "-c", script])
    }

    #[track_caller]
    fn reaches(&self, container: &str, name: &str) {
        let said = self
            .sh(container, &format!("ping -c 1 -W 2 {name}"))
            .ok()
            .stdout;
        assert!(said.contains(" 0% packet loss"), "{said}");
    }

    #[track_caller]
    fn knows_not(&self, container: &str, name: &str) {
        let script = format!("! grep -w {name} /etc/hosts");
        self.sh(container, &script).ok();
    }

    fn remove(&self, names: &[&str]) {
        self.session.bocker(&[&["rm", "-f"], names].concat()).ok();
    }
}

#[test]
fn containers_on_a_network_find_each_other_by_name_id_and_alias_as_long_as_they_run() {
    let networks = Networks::new(&["lan"]);
    let db = networks.sleeping("--name db --network lan --network-alias store --network-alias DB");
    let web = networks.sleeping("--name web.front --network name=lan,alias=www");
    for name in ["db", "store", &db] {
        networks.reaches("web.front", name);
    }
    for name in ["web.front", "www", &web, "db"] {
        networks.reaches("db", name);
    }
    networks
        .session
        .bocker(&["stop", "-t", "0", "web.front"])
        .ok();
    for name in ["www", &web] {
        networks.knows_not("db", name);
    }
    networks.session.bocker(&["start", "web.front"]).ok();
    networks.reaches("db", "www");
    networks.session.host.run(&["bocker-net", "check"]).ok();
    networks.remove(&["db", "web.front"]);
    networks.session.bocker(&["network", "rm", "lan"]).ok();
}

#[test]
fn a_container_that_is_renamed_is_found_by_its_new_name_and_no_more_by_the_former() {
    let networks = Networks::new(&["lan", "other"]);
    let db = networks
        .sleeping("--name db --network name=lan,alias=store --network name=other,alias=archive");
    networks.sleeping("--name web --network lan");
    networks.sleeping("--name far --network other");
    let rename = |from: &str, to: &str| {
        let words = ["rename", from, to];
        networks.session.bocker(&words).ok();
        networks.session.host.run(&["bocker-net", "check"]).ok();
    };
    rename("db", "base");
    for (asks, alias) in [("web", "store"), ("far", "archive"), ("base", "store")] {
        for name in ["base", alias, &db] {
            networks.reaches(asks, name);
        }
        networks.knows_not(asks, "db");
    }
    networks.knows_not("far", "store");
    // A name that is an alias too stays that when it is the name no more.
    rename("base", "store");
    rename(&db, "db");
    networks.reaches("web", "store");
    networks.knows_not("web", "base");
    networks.session.bocker(&["restart", "-t", "0", "db"]).ok();
    networks.reaches("web", "db");
    networks.remove(&["db", "web", "far"]);
    networks.session.run(&["--name", "db"], &["true"]).ok();
    rename("db", "ended");
    networks.remove(&["ended"]);
}

#[test]
fn a_neighbour_is_known_by_the_addresses_that_are_reachable_and_by_nobody_elsewhere() {
    let networks = Networks::new(&["one --subnet 10.101.0.0/24", "two --subnet 10.102.0.0/24"]);
    networks.sleeping("--name a1 --network one");
    networks.sleeping("--name both --network one --network two");
    networks.sleeping("--name c2 --network two");
    let default = networks.sleeping("--name plain");
    networks.reaches("a1", "both");
    networks.reaches("c2", "both");
    networks.reaches("both", "a1");
    networks.reaches("both", "c2");
    networks.knows_not("a1", "c2");
    networks.sh("a1", "! grep 10.102 /etc/hosts").ok();
    networks.sh("c2", "! grep 10.101 /etc/hosts").ok();
    let lines = networks.sh("both", "grep -cw both /etc/hosts").ok();
    assert_eq!(lines.stdout.trim(), "2", "itself, on each network");
    networks
        .sh("plain", "! grep -e a1 -e both -e c2 /etc/hosts")
        .ok();
    networks.knows_not("a1", &default);
    networks.remove(&["a1", "both", "c2", "plain"]);
}

#[test]
fn containers_with_one_alias_are_both_found_by_it_over_ipv6_too() {
    let networks = Networks::new(&["lan --ipv6"]);
    networks.sleeping("--name a1 --network lan --network-alias pool");
    networks.sleeping("--name b2 --network lan --network-alias pool");
    networks.sleeping("--name asks --network lan");
    let hosts = networks.sh("asks", "grep -w pool /etc/hosts").ok().stdout;
    let addresses: Vec<&str> = hosts
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(addresses.len(), 4, "{hosts}");
    for address in addresses {
        networks.reaches("asks", address);
    }
    networks.remove(&["a1", "b2", "asks"]);
}

#[test]
fn what_a_container_wrote_into_its_hosts_file_stays_whoever_comes_and_goes() {
    let networks = Networks::new(&["lan"]);
    networks.sleeping("--name db --network lan");
    // A file that is open sees the changes: it is written in place.
    networks
        .sh(
            "db",
            "(sleep 1000 </etc/hosts) & echo 192.0.2.7 mine >>/etc/hosts",
        )
        .ok();
    networks.sleeping("--name web --network lan");
    networks
        .sh("db", "printf '192.0.2.8 late' >>/etc/hosts")
        .ok();
    networks.remove(&["web"]);
    networks.sleeping("--name web --network lan");
    let hosts = networks.sh("db", "cat /etc/hosts").ok().stdout;
    for line in ["192.0.2.7 mine", "192.0.2.8 late"] {
        assert_eq!(
            hosts.lines().filter(|one| *one == line).count(),
            1,
            "{hosts}"
        );
    }
    networks.reaches("db", "web");
    // And one that has emptied it is told again.
    networks.sh("db", ": >/etc/hosts").ok();
    networks.remove(&["web"]);
    networks.sleeping("--name web --network lan");
    networks.reaches("db", "web");
    networks.remove(&["db", "web"]);
}

#[test]
fn many_that_come_and_go_at_once_are_all_known_in_the_end() {
    let host = Host::new();
    host.run(&["bocker-net", "network", "create", "lan"]).ok();
    let before = host.fingerprint();
    let made = host
        .sh("for n in $(seq 12); do bocker-net create --new --network lan --network-alias c$n & done; wait")
        .ok();
    let documents: Vec<String> = made.stdout.lines().map(str::to_owned).collect();
    let ids = documents.iter().map(|text| {
        let document: Value = serde_json::from_str(text).expect("a document");
        document["bocker"]["id"].as_str().expect("an id").to_owned()
    });
    for id in ids {
        let hosts = fs::read_to_string(format!("/run/bocker/{id}/hosts")).expect("hosts");
        for n in 1..=12 {
            let count = hosts
                .split_whitespace()
                .filter(|word| **word == format!("c{n}"));
            assert_eq!(count.count(), 1, "c{n} for {id}: {hosts}");
        }
    }
    let file = host.scratch().join("documents");
    fs::write(&file, documents.join("\n") + "\n").expect("write");
    let script = "while read -r one; do printf '%s\n' \"$one\" | bocker-net delete >/dev/null & done <documents; wait";
    host.sh(&format!("cd {}; {script}", host.scratch().display()))
        .ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.run(&["bocker-net", "setup"]).ok();
    let leases = |picture: &bocker_tests::Fingerprint| picture.section("leases").to_vec();
    assert!(
        !leases(&host.fingerprint())
            .iter()
            .any(|line| line.contains("names")),
        "{before}"
    );
}

#[test]
fn names_that_somebody_damaged_are_named_by_check_and_mended_by_the_next_who_comes() {
    let networks = Networks::new(&["lan"]);
    let id = networks.sleeping("--name db --network lan");
    let host = &networks.session.host;
    let check = || host.run(&["bocker-net", "check", "db"]);
    check().ok();
    let hosts = Path::new("/run/bocker").join(&id).join("hosts");
    let text = fs::read_to_string(&hosts).expect("hosts");
    fs::write(&hosts, text.replace("db", "other")).expect("write");
    let named = check().exits(1);
    assert!(named.stdout.contains(r#""object":"neighbour""#), "{named}");
    networks.sleeping("--name web --network lan");
    check().ok();
    networks.reaches("web", "db");
    networks.remove(&["web"]);
    // A table of which half is gone, in the midst of a line, and with a line of somebody's.
    host.sh(
        "for table in /run/bocker/net/names/*; do printf '10.1.0.9\tnobody\n10.' >$table; done",
    )
    .ok();
    let named = check().exits(1);
    assert!(named.stdout.contains(r#""object":"names""#), "{named}");
    networks.sleeping("--name web --network lan");
    networks.knows_not("web", "nobody");
    networks.remove(&["db", "web"]);
}
