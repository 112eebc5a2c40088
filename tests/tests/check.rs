//! What `bocker-net inspect` and `check` say of a network, and of one that somebody has broken by hand.

use std::fs::File;

use bocker_tests::net::{Net, create};
use bocker_tests::{Host, Output, Session};
use serde_json::{Value, json};

const OPTIONS: [&str; 4] = ["-p", "8080:80", "--hostname", "web"];

fn check(host: &Host, net: &Net) -> Output {
    host.call(&["bocker-net", "check", "-"])
        .stdin(net.document.to_string())
        .run()
}

/// Each difference as `object name: property`.
fn named(output: &Output) -> Vec<String> {
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    let lines = output.json_lines();
    let name = |line: &Value| {
        let [object, name, property] = ["object", "name", "property"].map(|key| word(line, key));
        format!("{object} {name}: {property}")
    };
    lines.iter().map(name).collect()
}

#[test]
fn whatever_somebody_breaks_is_named() {
    let host = Host::new();
    // What is done to a container ID with the address ADDRESS, what is named, and how the harm is undone.
    let inside = "nsenter --net=/run/bocker/ID/netns";
    let harms = [
        (
            "ip link set veth0_ID nomaster",
            &["interface veth0_ID: bridge", "interface veth0_ID: hairpin"][..],
            "ip link set veth0_ID master bridge0; ip link set veth0_ID type bridge_slave hairpin on",
        ),
        (
            "ip link set veth0_ID down",
            &["interface veth0_ID: is"],
            "ip link set veth0_ID up",
        ),
        (
            "ip link set veth0_ID address 06:00:00:00:00:01",
            &["interface veth0_ID: mac"],
            "ip link set veth0_ID address 06:42:MAC",
        ),
        (
            "ip link property del dev veth0_ID altname bocker-ADDRESS",
            &["alternative name bocker-ADDRESS: interface"],
            "ip link property add dev veth0_ID altname bocker-ADDRESS",
        ),
        (
            "IN ip link set eth0 address 02:00:00:00:00:01",
            &["interface eth0: mac"],
            "IN ip link set eth0 address 02:42:MAC",
        ),
        (
            "nft delete element inet bocker published_any '{ tcp . 8080 }'
             nft add element inet bocker published_any '{ tcp . 8080 comment \"ID\" : 10.0.0.99 . 80 }'",
            &["port 8080/tcp: leads to"],
            "nft delete element inet bocker published_any '{ tcp . 8080 }'
             nft add element inet bocker published_any '{ tcp . 8080 comment \"ID\" : ADDRESS . 80 }'",
        ),
        (
            "nft delete element inet bocker published_any '{ tcp . 8080 }'",
            &["port 8080/tcp: leads to"],
            "nft add element inet bocker published_any '{ tcp . 8080 comment \"ID\" : ADDRESS . 80 }'",
        ),
        (
            "IN ip link set lo down",
            &["interface lo: is"],
            "IN ip link set lo up",
        ),
        (
            "IN ip route del default",
            &["route 0.0.0.0/0: by"],
            "IN ip route add default via 10.0.0.1",
        ),
        (
            "IN ip route add 192.0.2.0/24 via 10.0.0.1",
            &["route 192.0.2.0/24: by"],
            "IN ip route del 192.0.2.0/24",
        ),
        (
            "IN ip address add 10.0.0.77/16 dev eth0",
            &["address 10.0.0.77/16: interface"],
            "IN ip address del 10.0.0.77/16 dev eth0",
        ),
        (
            "rm /run/bocker/net/bridge0/ADDRESS",
            &["lease ADDRESS: container"],
            "ln -s ../../ID /run/bocker/net/bridge0/ADDRESS",
        ),
        (
            "ln -s ../../ID /run/bocker/net/bridge0/10.0.0.78",
            &["lease 10.0.0.78: container"],
            "rm /run/bocker/net/bridge0/10.0.0.78",
        ),
        (
            "rm /run/bocker/ID/resolv.conf",
            &["file /run/bocker/ID/resolv.conf: is"],
            "touch /run/bocker/ID/resolv.conf",
        ),
        (
            "sed 's/web/bew/' /run/bocker/ID/hosts >x; cat x >/run/bocker/ID/hosts",
            &["own address ADDRESS: name in hosts"],
            "sed 's/bew/web/' /run/bocker/ID/hosts >x; cat x >/run/bocker/ID/hosts",
        ),
        (
            "sysctl -qw net.ipv4.ip_forward=0",
            &["shared net.forward: is"],
            "sysctl -qw net.ipv4.ip_forward=1",
        ),
        (
            "sysctl -qw net.ipv4.conf.bridge0.route_localnet=0",
            &["shared net.localhost: is"],
            "sysctl -qw net.ipv4.conf.bridge0.route_localnet=1",
        ),
        (
            "ip link set bridge0 down",
            &["shared net.bridge: is"],
            "ip link set bridge0 up; IN ip route add default via 10.0.0.1 || true",
        ),
    ];
    let net = Net::new(&host, &OPTIONS);
    let octets = net.address().octets().map(|octet| format!("{octet:02x}"));
    let fill = |text: &str| {
        let text = text
            .replace("IN ", &format!("{inside} "))
            .replace("ID", net.id());
        text.replace("MAC", &octets.join(":"))
            .replace("ADDRESS", &net.address().to_string())
    };
    assert_eq!(check(&host, &net).ok().stdout, "");
    for (harm, names, cure) in harms {
        let harm = fill(harm);
        host.sh(&format!("cd {}; {harm}", host.scratch().display()))
            .ok();
        let names: Vec<String> = names.iter().map(|name| fill(name)).collect();
        assert_eq!(named(&check(&host, &net).exits(1)), names, "{harm}");
        host.sh(&format!("cd {}; {}", host.scratch().display(), fill(cure)))
            .ok();
        assert_eq!(check(&host, &net).exits(0).stdout, "", "after {harm}");
    }
}

#[test]
fn a_firewall_that_was_emptied_or_edited_is_named() {
    let host = Host::new();
    let net = Net::new(&host, &OPTIONS);
    host.sh("nft flush chain inet bocker forward").ok();
    assert_eq!(
        named(&check(&host, &net).exits(1)),
        ["chain forward: rules"]
    );
    host.sh("nft flush ruleset").ok();
    let names = named(&check(&host, &net).exits(1));
    for name in [
        "port 8080/tcp: leads to",
        "shared net.table: is",
        "chain raw: rules",
    ] {
        assert!(names.iter().any(|one| one == name), "{name} in {names:?}");
    }
}

#[test]
fn a_network_that_is_gone_and_one_that_should_be_are_named_whole() {
    let host = Host::new();
    let net = Net::new(&host, &OPTIONS);
    net.delete(&host).ok();
    let names = named(&check(&host, &net).exits(1));
    assert!(
        names.contains(&format!("namespace /run/bocker/{}/netns: is", net.id())),
        "{names:?}"
    );
    assert!(
        names.contains(&"interface eth0: is".to_owned()),
        "{names:?}"
    );
    for words in [&["--network", "none"][..], &["--network", "host"]] {
        let net = Net::new(&host, words);
        assert_eq!(check(&host, &net).ok().stdout, "", "{words:?}");
    }
    let made = create(&host, &[]).ok().json();
    let id = made["bocker"]["id"].as_str().expect("an id");
    host.run(&["bocker-net", "check", id])
        .exits(125)
        .says("no document that tells of its network");
    host.run(&["bocker-net", "check", "nobody"])
        .exits(125)
        .says("No container named 'nobody'");
}

#[test]
fn containers_are_checked_by_name_and_all_together_and_an_ended_one_has_nothing() {
    let session = Session::new();
    session
        .run(
            &["-d", "--name", "web", "-p", "8080:80"],
            &["sleep", "1000"],
        )
        .ok();
    session.run(&["--name", "over"], &["true"]).ok();
    let check = |words: &[&str]| {
        session
            .host
            .run(&[&["bocker-net", "check"], words].concat())
    };
    // The kernel takes its time to end the namespace of the one that has ended, and is given it.
    assert_eq!(check(&[]).ok().stdout, "");
    assert_eq!(check(&["web", "over"]).ok().stdout, "");
    session.host.sh("ip link set bridge0 down").ok();
    assert_eq!(named(&check(&[]).exits(1)), ["shared net.bridge: is"]);
    assert_eq!(check(&["over"]).ok().stdout, "");
    session.host.sh("ip link set bridge0 up").ok();
    let listed = session.bocker(&["inspect", "--format", "{{.bocker.id}}", "web"]);
    let id = listed.text().trim().to_owned();
    let held = File::open(format!("/run/bocker/{id}/netns")).expect("its namespace");
    session.bocker(&["stop", "-t", "0", "web"]).ok();
    let left = format!("interface veth0_{id}: is");
    assert_eq!(named(&check(&[]).exits(1)), [left]);
    drop(held);
    assert_eq!(check(&[]).ok().stdout, "");
    session.bocker(&["rm", "web", "over"]).ok();
}

#[test]
fn inspect_shows_both_ends_of_the_cable_and_counts_what_goes_through() {
    let host = Host::new();
    let net = Net::new(&host, &OPTIONS);
    let inspect = || host.run(&["bocker-net", "inspect", net.id()]).ok().json();
    let named = |view: &Value, name: &str| {
        let interfaces = view["interfaces"].as_array().cloned().unwrap_or_default();
        interfaces
            .into_iter()
            .find(|one| one["interface"] == name)
            .expect("the interface")
    };
    let view = inspect();
    let (eth0, address) = (named(&view, "eth0"), net.address().to_string());
    let result = &net.document["bocker"]["net"]["attachments"][0]["result"];
    assert_eq!(eth0["mac"], result["interfaces"][2]["mac"]);
    assert_eq!(eth0["addresses"][0], format!("{address}/16"));
    assert_eq!(eth0["peer"]["interface"], format!("veth0_{}", net.id()));
    assert_eq!(eth0["peer"]["mac"], result["interfaces"][1]["mac"]);
    assert_eq!(eth0["peer"]["bridge"], "bridge0");
    assert_eq!(
        eth0["peer"]["altnames"],
        json!([format!("bocker-{address}")])
    );
    assert_eq!(
        view["routes"],
        json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "interface": "eth0"}])
    );
    assert_eq!(view["leases"], json!([address]));
    assert_eq!(view["publish"][0]["hostPort"], 8080);
    host.run(&[
        "busybox", "ping", "-c", "3", "-i", "0.1", "-s", "1000", &address,
    ])
    .ok();
    let counted = named(&inspect(), "eth0")["counters"].clone();
    for way in ["received", "sent"] {
        let bytes = |counters: &Value| counters[way]["bytes"].as_u64().expect("a number");
        let more = bytes(&counted) - bytes(&eth0["counters"]);
        assert!(more >= 3000, "{counted}");
    }
    host.run(&["bocker-net", "inspect"])
        .exits(125)
        .says("no container is named");
    let none = Net::new(&host, &["--network", "none"]);
    let view = host.run(&["bocker-net", "inspect", none.id()]).ok().json();
    assert_eq!(view["interfaces"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_explanation_comes_in_the_order_in_which_networking_is_taught() {
    let host = Host::new();
    let made = create(&host, &["--explain", "-p", "8080:80"]).ok();
    let taught = [
        "netns",
        "bridge",
        "veth",
        "address",
        "route",
        "masquerade",
        "port",
        "files",
    ];
    let place = |name: &str| {
        let line = format!("# net.{name}: ");
        made.stderr
            .find(&line)
            .unwrap_or_else(|| panic!("{line} is missing: {made}"))
    };
    let places: Vec<usize> = taught.iter().map(|name| place(name)).collect();
    assert!(places.is_sorted(), "{made}");
}
