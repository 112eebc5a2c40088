//! Networks that people make: their bridges, who reaches whom on them, over IPv4 and IPv6, and that nothing else is touched.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

use bocker_tests::net::{
    HOST_OUTSIDE, HOST_OUTSIDE6, Net, OUTSIDE, OUTSIDE6, assert_silent, connect, create, inside,
    outside, talk,
};
use bocker_tests::{Host, Output, Session};
use serde_json::{Value, json};

fn network(host: &Host, words: &[&str]) -> Output {
    host.run(&[&["bocker-net", "network"], words].concat())
}

/// Makes a network and gives what was noted of it.
#[track_caller]
fn made(host: &Host, words: &[&str]) -> Value {
    network(host, &[&["create"], words].concat()).ok().json()
}

fn attachment(net: &Net, number: usize) -> &Value {
    &net.document["bocker"]["net"]["attachments"][number]
}

/// Its addresses on the network of that number, IPv4 first.
fn addresses(net: &Net, number: usize) -> Vec<IpAddr> {
    let ips = attachment(net, number)["result"]["ips"].as_array();
    let text = |ip: &Value| ip["address"].as_str().expect("an address").to_owned();
    let texts = ips.into_iter().flatten().map(text);
    texts
        .map(|text| {
            let address = text.split('/').next().expect("an address");
            address.parse().expect("an address")
        })
        .collect()
}

fn listen6(namespace: &Path, port: u16) -> TcpListener {
    inside(namespace, || {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
    })
    .expect("listen")
}

fn in_namespace(host: &Host, net: &Net, command: &str) -> String {
    let namespace = net.namespace().display().to_string();
    host.sh(&format!("nsenter --net={namespace} {command}"))
        .ok()
        .stdout
}

#[test]
fn a_network_is_made_used_listed_and_removed_and_the_host_is_as_before() {
    let host = Host::new();
    let empty = host.fingerprint();
    let options = ["web", "--subnet", "10.1.0.0/24", "--label", "tier=front"];
    let noted = made(&host, &options);
    let id = noted["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("net_") && id.len() == 10, "{id}");
    let path = host.root().join("networks/web.json");
    let file: Value = serde_json::from_slice(&fs::read(&path).expect("a note")).expect("JSON");
    assert_eq!(file, noted);
    // Nothing else is there yet, and nothing has to be.
    host.run(&["ip", "link", "show", &id]).exits(1);
    let net = Net::new(&host, &["--network", "web"]);
    assert!(net.address().octets().starts_with(&[10, 1, 0]));
    talk(&net.listen(80), None, net.address(), 80);
    let listed = network(&host, &["list"]).ok().json_lines();
    assert_eq!(listed[0]["name"], "bridge");
    assert_eq!(listed[1]["up"], true);
    assert_eq!(
        listed[1]["containers"],
        json!({net.id(): [net.address().to_string()]})
    );
    let part = &id[..8];
    assert_eq!(
        network(&host, &["inspect", part]).ok().json()["name"],
        "web"
    );
    network(&host, &["remove", "web"])
        .exits(125)
        .says(&format!("used by {}", net.id()));
    net.delete(&host).ok();
    network(&host, &["remove", &id]).ok();
    network(&host, &["inspect", "web"])
        .exits(125)
        .says("No network named 'web'");
    network(&host, &["remove", "web"]).exits(125);
    network(&host, &["remove", "--force", "web"]).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&empty);
}

#[test]
fn nothing_passes_between_two_networks_but_published_ports_by_the_hosts_address() {
    let host = Host::new();
    let outside = outside(&host);
    made(&host, &["front"]);
    made(&host, &["back"]);
    let front = Net::new(&host, &["--network", "front"]);
    let back = Net::new(&host, &["--network", "back", "-p", "8080:80"]);
    let default = Net::new(&host, &[]);
    let listener = back.listen(80);
    for other in [&front, &default] {
        assert_silent(Some(&other.namespace()), back.address(), 80);
        talk(&listener, Some(&other.namespace()), HOST_OUTSIDE, 8080);
    }
    talk(&listener, Some(&outside), HOST_OUTSIDE, 8080);
    // Each leads out, with the host's address.
    let there = inside(&outside, || TcpListener::bind((OUTSIDE, 80))).expect("listen");
    for net in [&front, &back, &default] {
        let seen = talk(&there, Some(&net.namespace()), OUTSIDE, 80);
        assert_eq!(seen, HOST_OUTSIDE);
    }
    let neighbour = Net::new(&host, &["--network", "back"]);
    talk(&listener, Some(&neighbour.namespace()), back.address(), 80);
}

#[test]
fn a_container_on_several_networks_reaches_each_and_leaves_by_the_first_that_leads_out() {
    let host = Host::new();
    let outside = outside(&host);
    made(&host, &["inner", "--internal"]);
    made(&host, &["front", "--subnet", "10.1.0.0/24"]);
    made(&host, &["back", "--subnet", "10.2.0.0/24"]);
    let networks = [
        "--network",
        "inner",
        "--network",
        "name=front,ip=10.1.0.7,mac=02:00:00:00:00:99,ifname=lan0",
        "--network",
        "back:ip=10.2.0.9",
        "-p",
        "8080:80",
    ];
    let net = Net::new(&host, &networks);
    let names: Vec<_> = (0..3)
        .map(|n| attachment(&net, n)["ifname"].clone())
        .collect();
    assert_eq!(names, ["eth0", "lan0", "eth2"]);
    assert_eq!(addresses(&net, 1), [Ipv4Addr::new(10, 1, 0, 7)]);
    let route = in_namespace(&host, &net, "ip -4 route show default");
    assert!(route.contains("via 10.1.0.1 dev lan0"), "{route}");
    let link = in_namespace(&host, &net, "ip link show lan0");
    assert!(link.contains("02:00:00:00:00:99"), "{link}");
    let listener = net.listen(80);
    talk(&listener, Some(&outside), HOST_OUTSIDE, 8080);
    for (number, name) in ["inner", "front", "back"].iter().enumerate() {
        let neighbour = Net::new(&host, &["--network", name]);
        let to = addresses(&net, number)[0];
        talk(&listener, Some(&neighbour.namespace()), to, 80);
    }
    let listed = host.run(&["bocker-net", "list"]).ok().json_lines();
    let ours = listed.iter().find(|line| line["id"] == net.id());
    assert_eq!(
        ours.map(|line| line["links"].as_array().map(Vec::len)),
        Some(Some(3))
    );
    let checked = host.call(&["bocker-net", "check", "-"]);
    checked.stdin(net.document.to_string()).run().ok();
    // Its namespace lives as long as the socket.
    drop(listener);
    net.delete(&host).ok();
    host.wait_for("the ends of its cables", || {
        let links = host.run(&["ip", "-br", "link"]).text();
        (!links.contains(net.id())).then_some(())
    });
}

#[test]
fn an_internal_network_reaches_the_host_and_itself_and_nothing_else() {
    let host = Host::new();
    let outside = outside(&host);
    made(&host, &["inner", "--internal", "--ipv6"]);
    let [one, other] = [(); 2].map(|()| Net::new(&host, &["--network", "inner"]));
    let listener = other.listen(80);
    talk(&listener, Some(&one.namespace()), other.address(), 80);
    talk(&listener, None, other.address(), 80);
    let routes = in_namespace(&host, &one, "sh -c 'ip -4 route; ip -6 route'");
    assert!(!routes.contains("default"), "{routes}");
    // Neither with a route of its own, nor from outside with one.
    let gateway = attachment(&one, 0)["result"]["ips"][0]["address"].clone();
    assert!(gateway.is_string());
    let there = inside(&outside, || TcpListener::bind((OUTSIDE, 80))).expect("listen");
    let bridge = network(&host, &["inspect", "inner"]).ok().json();
    let gateway = bridge["subnets"][0]["gateway"].as_str().expect("a gateway");
    in_namespace(&host, &one, &format!("ip route add default via {gateway}"));
    assert_silent(Some(&one.namespace()), OUTSIDE, 80);
    drop(there);
    host.sh(&format!(
        "nsenter --net={} ip route add {} via {HOST_OUTSIDE}",
        outside.display(),
        other.address()
    ))
    .ok();
    assert_silent(Some(&outside), other.address(), 80);
    create(&host, &["--network", "inner", "-p", "8080:80"])
        .exits(125)
        .says("not internal");
}

#[test]
fn containers_of_an_isolated_network_reach_the_world_and_not_each_other() {
    let host = Host::new();
    let outside = outside(&host);
    made(&host, &["iso", "--isolated", "--subnet", "10.1.0.0/24"]);
    let [one, other] = [(); 2].map(|()| Net::new(&host, &["--network", "iso"]));
    let _listener = other.listen(80);
    assert_silent(Some(&one.namespace()), other.address(), 80);
    // Nor by way of the gateway, which would send it back by the port that it belongs to.
    let detour = format!("ip route add {} via 10.1.0.1", other.address());
    in_namespace(&host, &one, &detour);
    assert_silent(Some(&one.namespace()), other.address(), 80);
    let there = inside(&outside, || TcpListener::bind((OUTSIDE, 80))).expect("listen");
    talk(&there, Some(&one.namespace()), OUTSIDE, 80);
}

#[test]
fn a_kernel_without_ipv6_is_named_and_nothing_is_left() {
    let host = Host::new();
    let empty = host.fingerprint();
    made(&host, &["six", "--ipv6"]);
    let hide = "mount -t tmpfs -o ro tmpfs /proc/sys/net/ipv6";
    host.sh(&format!(
        "{hide} && bocker-net create --new --network six >/dev/null"
    ))
    .exits(125)
    .says("the kernel has no IPv6; use a network without it");
    host.sh("umount /proc/sys/net/ipv6").ok();
    network(&host, &["remove", "six"]).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&empty);
}

#[test]
fn ipv6_is_routed_masqueraded_and_kept_within_as_ipv4_is() {
    let host = Host::new();
    let empty = host.fingerprint();
    let outside = outside(&host);
    made(
        &host,
        &["six", "--subnet", "fd00:6::/64", "--subnet", "10.6.0.0/24"],
    );
    made(&host, &["other", "--ipv6"]);
    let [one, two] = [(); 2].map(|()| Net::new(&host, &["--network", "six"]));
    let other = Net::new(&host, &["--network", "other"]);
    let own = addresses(&one, 0);
    assert!(own[0].is_ipv4() && own[1].is_ipv6(), "{own:?}");
    // At once: nobody waits for duplicate address detection.
    let shown = in_namespace(&host, &one, "ip -6 address show scope global");
    assert!(
        shown.contains("fd00:6::") && !shown.contains("tentative"),
        "{shown}"
    );
    let listener = listen6(&two.namespace(), 80);
    let to = addresses(&two, 0)[1];
    assert_eq!(talk(&listener, Some(&one.namespace()), to, 80), own[1]);
    talk(&listener, None, to, 80);
    assert_silent(Some(&other.namespace()), to, 80);
    let there = listen6(&outside, 80);
    for net in [&one, &other] {
        let seen = talk(&there, Some(&net.namespace()), OUTSIDE6, 80);
        assert_eq!(seen, IpAddr::from(HOST_OUTSIDE6));
    }
    host.sh(&format!(
        "nsenter --net={} ip -6 route add fd00:6::/64 via {HOST_OUTSIDE6}",
        outside.display()
    ))
    .ok();
    assert_silent(Some(&outside), to, 80);
    let asked = [
        "--network",
        "six",
        "--ip6",
        "fd00:6::77",
        "--ip",
        "10.6.0.77",
    ];
    let fixed = Net::new(&host, &asked);
    let wanted: Vec<IpAddr> = ["10.6.0.77", "fd00:6::77"]
        .map(|text| text.parse().expect("an address"))
        .into();
    assert_eq!(addresses(&fixed, 0), wanted);
    let info = host.run(&["bocker-net", "info"]).ok().json();
    let bridges = info["bridges"].to_string();
    assert!(bridges.contains(r#""network":"six""#), "{bridges}");
    let turned_on = info["sysctls"].to_string();
    assert!(
        turned_on.contains("net.ipv6.conf.all.forwarding"),
        "{turned_on}"
    );
    drop((listener, there));
    for net in [one, two, other, fixed] {
        net.delete(&host).ok();
    }
    network(&host, &["prune"]).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.sh(&format!(
        "ip link delete cable; umount -l {}",
        outside.display()
    ))
    .ok();
    host.assert_same(&empty);
}

#[test]
fn a_host_that_follows_a_router_is_not_made_one_behind_its_back() {
    let host = Host::new();
    let _outside = outside(&host);
    host.sh("ip -6 route add default via 2001:db8::2 dev cable proto ra")
        .ok();
    made(&host, &["six", "--ipv6"]);
    let before = host.fingerprint();
    create(&host, &["--network", "six"])
        .exits(125)
        .says("net.ipv6.conf.cable.accept_ra=2");
    host.assert_same(&before);
    host.sh("sysctl -qw net.ipv6.conf.cable.accept_ra=2").ok();
    create(&host, &["--network", "six"]).ok();
}

#[test]
fn subnets_that_are_absurd_or_overlap_are_refused_and_nothing_is_made() {
    let host = Host::new();
    host.sh("ip link add vpn type bridge; ip link set vpn up; ip route add 10.200.0.0/16 dev vpn")
        .ok();
    made(
        &host,
        &["web", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64"],
    );
    Net::new(&host, &[]).delete(&host).ok();
    let before = host.fingerprint();
    for (options, says) in [
        (
            &["other", "--subnet", "10.1.0.0/16"][..],
            "overlaps 10.1.0.0/24, the subnet of the network 'web'",
        ),
        (
            &["other", "--subnet", "fd00:1::/48"],
            "overlaps fd00:1::/64",
        ),
        (
            &["other", "--subnet", "10.0.4.0/24"],
            "overlaps 10.0.0.0/16, the subnet of the network 'bridge'",
        ),
        (&["other", "--subnet", "127.0.0.0/16"], "loopback"),
        (&["other", "--subnet", "10.1.2.3/24"], "10.1.2.0/24"),
        (&["other", "--subnet", "10.9.0.0/31"], "8 to 30"),
        (&["other", "--subnet", "::/0"], "no container can have"),
        (
            &[
                "other",
                "--subnet",
                "10.9.0.0/24",
                "--subnet",
                "10.10.0.0/24",
            ],
            "at most one of IPv6",
        ),
        (&["other", "--gateway", "10.9.0.1"], "give the --subnet"),
        (
            &[
                "other",
                "--subnet",
                "10.9.0.0/24",
                "--gateway",
                "10.9.0.255",
            ],
            "cannot be the gateway",
        ),
        (
            &[
                "other",
                "--subnet",
                "10.9.0.0/24",
                "--ip-range",
                "10.9.0.0/16",
            ],
            "no part of",
        ),
        (&["other", "--ipv6", "--mtu", "1000"], "1280 to 65535"),
        (&["web"], "exists already"),
        (&["bridge"], "means something else"),
        (&["net_abc123"], "it is an id"),
        (&["../web"], "cannot be the name"),
        (&["a b"], "cannot be the name"),
        (&[], "no network is named"),
        (&["one", "two"], "unexpected argument 'two'"),
    ] {
        network(&host, &[&["create"], options].concat())
            .exits(125)
            .says(says);
        host.assert_same(&before);
    }
    // What the user says holds, whatever the host uses.
    made(&host, &["asked", "--subnet", "10.200.1.0/24"]);
    network(&host, &["remove", "bridge"])
        .exits(125)
        .says("system reset");
}

#[test]
fn a_subnet_of_our_choice_gives_way_to_what_the_host_uses() {
    let host = Host::new();
    host.sh("ip link add vpn type bridge; ip link set vpn up; ip route add 10.128.0.0/15 dev vpn")
        .ok();
    let chosen = made(&host, &["web"]);
    assert_eq!(chosen["subnets"][0]["subnet"], "10.130.0.0/21");
    // A VPN that comes before its bridge is made, as after a restart.
    host.sh("ip route add 10.130.0.0/16 dev vpn").ok();
    let before = host.fingerprint();
    create(&host, &["--network", "web"])
        .exits(125)
        .says("overlaps 10.130.0.0/16");
    host.assert_same(&before);
    network(&host, &["remove", "web"]).ok();
    assert_eq!(
        made(&host, &["web"])["subnets"][0]["subnet"],
        "10.131.0.0/21"
    );
    let net = Net::new(&host, &["--network", "web"]);
    // And one that comes while it stands does not take the network from its containers.
    host.sh("ip route add 10.131.0.0/16 dev vpn").ok();
    Net::new(&host, &["--network", "web"]).delete(&host).ok();
    net.delete(&host).ok();
}

#[test]
fn an_interface_of_another_is_never_used_nor_removed() {
    let host = Host::new();
    let noted = made(&host, &["web", "--subnet", "10.1.0.0/24"]);
    let name = noted["bridge"].as_str().expect("a bridge");
    for kind in ["veth peer name other0", "bridge"] {
        host.sh(&format!(
            "ip link add {name} type {kind}; ip link set {name} up"
        ))
        .ok();
        let before = host.fingerprint();
        create(&host, &["--network", "web"]).exits(125).says(name);
        network(&host, &["inspect", "web"]).ok();
        host.assert_same(&before);
        host.run(&["ip", "link", "delete", name]).ok();
    }
    host.sh(&format!("ip link add {name} type veth peer name other0"))
        .ok();
    network(&host, &["remove", "web"]).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.run(&["ip", "link", "show", name]).ok();
}

#[test]
fn of_two_who_make_the_same_network_one_wins_and_the_other_is_told() {
    let host = Host::new();
    for round in 0..5 {
        let script =
            format!("for n in 1 2 3 4; do bocker-net network create web{round} & done; wait");
        let output = host.sh(&script);
        assert_eq!(output.stdout.lines().count(), 1, "{output}");
        assert_eq!(
            output.stderr.matches("exists already").count(),
            3,
            "{output}"
        );
    }
    let made = host
        .sh("for n in 1 2 3 4 5 6 7 8; do bocker-net network create other$n & done; wait")
        .ok();
    let mut subnets: Vec<String> = made
        .json_lines()
        .iter()
        .map(|line| line["subnets"][0]["subnet"].to_string())
        .collect();
    subnets.sort();
    subnets.dedup();
    assert_eq!(subnets.len(), 8, "{made}");
}

#[test]
fn networks_may_be_removed_and_made_while_containers_come_and_go_on_them() {
    let host = Host::new();
    let before = host.fingerprint();
    let worker = "
        for n in 1 2 3 4 5 6; do
            bocker-net network create web$1 --subnet 10.$1.0.0/24 --ipv6 >/dev/null || exit 1
            bocker-net create --new --network web$1 --network bridge > doc.$1 || exit 2
            if bocker-net network remove web$1 2>said.$1; then exit 3; else grep -q 'used by' said.$1 || exit 4; fi
            bocker-net delete --status < doc.$1 > /dev/null || exit 5
            bocker-net network remove web$1 >/dev/null || exit 6
            if bocker-net reset 2>said.$1; then :; else grep -q 'in use' said.$1 || exit 7; fi
        done";
    fs::write(host.scratch().join("worker"), worker).expect("write");
    let all = format!(
        "cd {}; for w in 11 12 13 14; do sh worker $w & all=\"$all $!\"; done
         for one in $all; do wait $one || exit $?; done",
        host.scratch().display()
    );
    host.sh(&all).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&before);
}

#[test]
fn a_bridge_that_is_gone_is_made_again_as_after_a_restart() {
    let host = Host::new();
    let noted = made(&host, &["web", "--ipv6", "--mtu", "1400"]);
    let bridge = noted["bridge"].as_str().expect("a bridge");
    let first = Net::new(&host, &["--network", "web"]);
    let complete = host.fingerprint();
    first.delete(&host).ok();
    // What a restart leaves of it, with the table and all that was in /run.
    host.sh(&format!(
        "ip link delete {bridge}; nft flush ruleset; rm -rf /run/bocker/*"
    ))
    .ok();
    let again = Net::new(&host, &["--network", "web"]);
    talk(&again.listen(80), None, again.address(), 80);
    let mtu = in_namespace(&host, &again, "ip link show eth0");
    assert!(mtu.contains("mtu 1400"), "{mtu}");
    let section = |picture: &bocker_tests::Fingerprint, name: &str| {
        let lines = picture.section(name).iter();
        let of_bridge = lines.filter(|line| line.contains(bridge) && !line.contains("veth"));
        of_bridge.cloned().collect::<Vec<_>>()
    };
    let now = host.fingerprint();
    for name in ["links", "addresses", "nftables", "sysctls"] {
        assert_eq!(section(&now, name), section(&complete, name), "{name}");
    }
    // Half made, by one that was killed.
    again.delete(&host).ok();
    let mac = host.sh(&format!("ip -j link show {bridge}")).ok().json()[0]["address"].clone();
    let mac = mac.as_str().expect("a MAC");
    host.sh(&format!(
        "ip link delete {bridge}; ip link add {bridge} address {mac} type bridge"
    ))
    .ok();
    let third = Net::new(&host, &["--network", "web"]);
    connect(None, third.address(), 80, bocker_tests::net::PATIENCE).expect_err("nobody listens");
    third.delete(&host).ok();
}

#[test]
fn the_lines_that_v_prints_make_the_same_networks() {
    let host = Host::new();
    let empty = host.fingerprint();
    let one = network(&host, &["create", "-v", "one", "--ipv6", "--mtu", "1400"]).ok();
    let two = network(&host, &["create", "-v", "two", "--isolated"]).ok();
    let options = [
        "-v",
        "--network",
        "name=one,ip6=",
        "--network",
        "two",
        "-p",
        "8080:80",
    ];
    create(&host, &options).exits(125).says("no address");
    let options = [
        "-v",
        "--network",
        "name=one,ifname=lan0",
        "--network",
        "two",
        "-p",
        "8080:80",
    ];
    let created = create(&host, &options).ok();
    let net = Net {
        document: created.json(),
    };
    let by_the_tool = host.fingerprint();
    let deleted = host
        .call(&["bocker-net", "delete", "-v"])
        .stdin(net.document.to_string())
        .run()
        .ok();
    let removed = network(&host, &["remove", "-v", "one", "two"]).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&empty);
    let lines = |output: &Output| -> String {
        let lines = output
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("+ "));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let all: String = [&one, &two, &created].map(lines).concat();
    host.sh(&format!("set -e\n{all}")).ok();
    for section in [
        "links",
        "addresses",
        "routes",
        "nftables",
        "sysctls",
        "leases",
    ] {
        host.wait_for(section, || {
            (host.fingerprint().section(section) == by_the_tool.section(section)).then_some(())
        });
    }
    // What it was taken down by, too.
    host.sh(&format!("set -e\n{}{}", lines(&deleted), lines(&removed)))
        .ok();
    network(&host, &["list"]).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&empty);
}

#[test]
fn a_dry_run_prints_all_and_makes_nothing() {
    let host = Host::new();
    made(&host, &["web", "--ipv6"]);
    let before = host.fingerprint();
    let planned = create(
        &host,
        &["--dry-run", "--network", "web", "--network", "bridge"],
    )
    .ok();
    planned
        .says("type bridge")
        .says("veth2_ps_dryrun")
        .says("nodad");
    let planned = network(&host, &["create", "--dry-run", "other"]).ok();
    planned.says("networks/other.json");
    network(&host, &["remove", "--dry-run", "web"])
        .ok()
        .says("rm -f");
    assert_eq!(
        network(&host, &["prune", "--dry-run"]).ok().json()["name"],
        "web"
    );
    host.assert_same(&before);
}

#[test]
fn nothing_that_is_not_ours_is_touched_by_networks_that_come_and_go() {
    let host = Host::new();
    host.sh(
        "set -e; ip link add br0 type bridge; ip address add 10.50.0.1/24 dev br0; ip link set br0 up
         ip link add dummy0 type veth peer name dummy1; ip link set dummy1 up; ip link set dummy0 up; ip address add 2001:db8:5::1/64 dev dummy0 nodad
         ip route add 10.60.0.0/16 dev br0; ip -6 route add 2001:db8:6::/64 dev dummy0; ip rule add from 10.50.0.0/24 lookup 77
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.dummy0.accept_ra=0 net.ipv4.conf.br0.route_localnet=1
         nft add table inet mine; nft add chain inet mine forward '{ type filter hook forward priority 10; }'
         nft add rule inet mine forward ip saddr 10.50.0.0/24 accept; nft add table ip6 other",
    )
    .ok();
    let before = host.fingerprint();
    for options in [
        &["one", "--ipv6"][..],
        &["two", "--internal"],
        &["three", "--isolated", "--mtu", "1300"],
    ] {
        made(&host, options);
    }
    let net = Net::new(
        &host,
        &[
            "--network",
            "one",
            "--network",
            "two",
            "--network",
            "three",
            "-p",
            "8080:80",
        ],
    );
    net.delete(&host).ok();
    network(&host, &["prune"]).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&before);
}

#[test]
fn what_forwards_already_by_itself_does_so_again_when_all_that_we_turned_on_is_off() {
    let host = Host::new();
    let _outside = outside(&host);
    host.sh(
        "set -e; cd /proc/sys/net; echo 0 > ipv4/ip_forward; echo 0 > ipv6/conf/all/forwarding
         ip link add link.5 type bridge; ip link set link.5 up
         for f in ipv4 ipv6; do echo 1 > $f/conf/cable/forwarding; echo 1 > $f/conf/link.5/forwarding; done",
    )
    .ok();
    let before = host.fingerprint();
    made(&host, &["six", "--ipv6"]);
    Net::new(&host, &["--network", "six"]).delete(&host).ok();
    network(&host, &["prune"]).ok();
    let info = host.run(&["bocker-net", "info"]).ok().json();
    let named = info["sysctls"].to_string();
    assert!(named.contains("net.ipv6.conf.link.5.forwarding"), "{named}");
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&before);
}

#[test]
fn definitions_and_leases_that_were_edited_are_told_of_and_nothing_is_lost() {
    let host = Host::new();
    made(&host, &["web", "--subnet", "10.1.0.0/29"]);
    made(&host, &["other"]);
    let net = Net::new(&host, &["--network", "web"]);
    let note = host.root().join("networks/web.json");
    let whole = fs::read_to_string(&note).expect("a note");
    for damage in [
        String::new(),
        whole[..whole.len() / 2].to_owned(),
        whole.replace("10.1.0.0/29", "10.1.0.0/99"),
        whole.replace("net_", "eth_"),
        whole.replace("\"web\"", "\"bridge\""),
    ] {
        fs::write(&note, damage).expect("write");
        create(&host, &["--network", "web"])
            .exits(125)
            .says("networks/web.json is damaged");
        let listed = network(&host, &["list"])
            .exits(125)
            .says("web.json is damaged");
        assert!(listed.stdout.contains("other"), "{listed}");
        create(&host, &["--network", "other"]).ok();
    }
    fs::write(&note, whole).expect("write");
    let bridge = attachment(&net, 0)["bridge"].as_str().expect("a bridge");
    let free = match net.address() == Ipv4Addr::new(10, 1, 0, 6) {
        true => "10.1.0.5",
        false => "10.1.0.6",
    };
    let lease = Path::new("/run/bocker/net").join(bridge).join(free);
    fs::write(&lease, "").expect("write");
    create(&host, &["--network", "web", "--ip", free])
        .exits(125)
        .says("names no container");
    network(&host, &["remove", "web"])
        .exits(125)
        .says("names no container");
    net.delete(&host).ok();
    host.run(&["bocker-net", "reset"])
        .exits(125)
        .says("names no container");
    assert!(lease.exists());
    fs::remove_file(&lease).expect("remove");
    network(&host, &["remove", "web"]).ok();
}

#[test]
fn a_pinned_namespace_is_entered_and_what_is_none_is_refused() {
    let host = Host::new();
    host.sh("ip netns add mine; ip -n mine link set lo up; ip -n mine link add mine0 type bridge")
        .ok();
    let before = host.fingerprint();
    let joined = Net::new(&host, &["--network", "ns:/run/netns/mine"]);
    assert_eq!(
        joined.document["linux"]["namespaces"],
        json!([{"type": "network", "path": "/run/netns/mine"}])
    );
    let left = joined.delete(&host).ok().json();
    assert_eq!(
        left.pointer("/linux/namespaces")
            .cloned()
            .unwrap_or(json!([])),
        json!([])
    );
    host.assert_same(&before);
    let fifo = host.scratch().join("fifo");
    host.run(&["mkfifo".as_ref(), fifo.as_os_str()]).ok();
    let fifo = format!("ns:{}", fifo.display());
    for path in [
        "ns:/etc/passwd",
        "ns:/proc/self/ns/uts",
        "ns:/run/netns",
        "ns:/dev/null",
        fifo.as_str(),
        "ns:/nowhere",
    ] {
        create(&host, &["--network", path])
            .exits(125)
            .says(&path[3..]);
    }
    for option in ["-p", "--ip"] {
        let value = if option == "-p" { "80:80" } else { "10.0.0.7" };
        create(&host, &["--network", "ns:/run/netns/mine", option, value]).exits(125);
    }
    host.assert_same(&before);
}

#[test]
fn a_container_shares_the_network_and_the_names_of_one_that_lives() {
    let session = Session::new();
    let host = &session.host;
    let first = session.sleeping("first");
    let shown = |network: &str, script: &str| {
        session.run(&["--rm", "--network", network], &["sh", "-c", script])
    };
    let own = session
        .bocker(&[
            "exec",
            "first",
            "sh",
            "-c",
            "ip -4 -o address show eth0; cat /etc/hosts /etc/hostname",
        ])
        .ok();
    let seen = shown(
        "container:first",
        "ip -4 -o address show eth0; cat /etc/hosts /etc/hostname",
    )
    .ok();
    assert_eq!(seen.stdout, own.stdout);
    // What one listens on, the other reaches by localhost.
    let served = shown(
        "container:first",
        "echo hello | nc -l -p 7777 -w 5 >/dev/null & sleep 0.2; nc -w 2 127.0.0.1 7777 </dev/null",
    )
    .ok();
    assert_eq!(served.stdout.trim(), "hello");
    shown("container:nobody", "true")
        .exits(125)
        .says("No container named 'nobody'");
    session
        .run(
            &["-d", "--name", "second", "--network", "container:first"],
            &["sleep", "1000"],
        )
        .ok();
    let third = shown("container:second", "cat /etc/hostname").ok();
    assert_eq!(third.text().trim(), first.trim());
    session.bocker(&["rm", "-f", "first"]).ok();
    // Its namespace lives as long as somebody is in it.
    session
        .bocker(&["exec", "second", "ip", "address", "show", "eth0"])
        .ok();
    session.bocker(&["stop", "second"]).ok();
    session.bocker(&["start", "second"]).exits(125);
    session.sleeping("stopped");
    session.bocker(&["stop", "stopped"]).ok();
    shown("container:stopped", "true")
        .exits(125)
        .says("is not running");
    session.bocker(&["rm", "second", "stopped"]).ok();
    host.wait_for("the network", || {
        host.run(&["bocker-net", "list"])
            .text()
            .is_empty()
            .then_some(())
    });
}

#[test]
fn a_container_that_is_started_again_has_the_networks_and_addresses_that_it_had() {
    let session = Session::new();
    session.bocker(&["network", "create", "web", "--ipv6"]).ok();
    session.bocker(&["network", "create", "back"]).ok();
    let options = [
        "-d",
        "--name",
        "db",
        "--network",
        "name=web,mac=02:00:00:00:00:07",
        "--network",
        "back",
    ];
    session.run(&options, &["sleep", "1000"]).ok();
    let addresses = || {
        session
            .bocker(&[
                "exec",
                "db",
                "sh",
                "-c",
                "ip -o address show scope global; ip link show eth0 | grep ether",
            ])
            .ok()
            .stdout
    };
    let strip = |text: String| {
        let keep = |line: &str| {
            line.split_whitespace()
                .filter(|word| word.contains('.') || word.contains(':'))
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        text.lines().map(keep).collect::<Vec<_>>()
    };
    let first = strip(addresses());
    session.bocker(&["stop", "db"]).ok();
    // Of a stopped one, too, the networks are kept.
    session
        .bocker(&["network", "rm", "web"])
        .exits(125)
        .says("used by ps_");
    session.bocker(&["network", "prune", "--force"]).ok();
    session.bocker(&["start", "db"]).ok();
    assert_eq!(strip(addresses()), first);
    session.bocker(&["rm", "-f", "db"]).ok();
    assert_eq!(
        session.bocker(&["network", "rm", "web", "back"]).text(),
        "web\nback\n"
    );
}

#[test]
fn the_front_end_speaks_as_docker_does() {
    let session = Session::new();
    let bocker = |words: &[&str]| session.bocker(words);
    let options = [
        "network",
        "create",
        "-d",
        "bridge",
        "--subnet",
        "10.1.0.0/24",
        "-o",
        "com.docker.network.driver.mtu=1400",
    ];
    let id = bocker(&[&options[..], &["--label", "a=b", "web"]].concat()).text();
    assert!(id.starts_with("net_") && id.lines().count() == 1, "{id}");
    bocker(&["network", "create", "--internal", "inner"]).ok();
    assert_eq!(
        bocker(&["network", "ls", "-q", "--filter", "label=a=b"]).text(),
        id
    );
    assert_eq!(
        bocker(&[
            "network",
            "ls",
            "--filter",
            "type=custom",
            "--format",
            "{{.Name}} {{.Driver}}"
        ])
        .text(),
        "inner bridge\nweb bridge\n"
    );
    let table = bocker(&["network", "ls"]).text();
    assert!(
        table.starts_with("NETWORK_ID") && table.contains("10.1.0.0/24"),
        "{table}"
    );
    session
        .run(
            &["-d", "--name", "db", "--network", "web", "--ip", "10.1.0.9"],
            &["sleep", "1000"],
        )
        .ok();
    let described = bocker(&["network", "inspect", "web"]).ok().json();
    let described = &described[0];
    assert_eq!(
        described["IPAM"]["Config"][0],
        json!({"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1"})
    );
    assert_eq!(
        described["Options"]["com.docker.network.driver.mtu"],
        "1400"
    );
    let containers = described["Containers"].as_object().expect("containers");
    assert_eq!(
        containers.values().next().map(|one| &one["IPv4Address"]),
        Some(&json!("10.1.0.9"))
    );
    assert_eq!(
        containers.values().next().map(|one| &one["Name"]),
        Some(&json!("db"))
    );
    bocker(&["network", "rm", "web"])
        .exits(125)
        .says("is used by");
    bocker(&["network", "inspect", "nothing"])
        .exits(1)
        .says("No network named 'nothing'");
    bocker(&["network", "create", "-d", "macvlan", "x1"])
        .exits(125)
        .says("no driver");
    bocker(&["network", "create", "-o", "frob=1", "x1"])
        .exits(125)
        .says("no option");
    bocker(&["network", "prune"]).exits(125).says("--force");
    let pruned = bocker(&["network", "prune", "--force"]).text();
    assert_eq!(pruned, "network: inner\n");
    assert!(bocker(&["system", "info"]).text().contains(id.trim()));
    // A network that only containers name which go, goes with them.
    let prune = |how| bocker(&["system", "prune", how]).text();
    assert!(!prune("--dry-run").contains("network: web"));
    bocker(&["stop", "-t", "0", "db"]).ok();
    assert!(prune("--dry-run").contains("network: web"));
    prune("--force");
    bocker(&["network", "inspect", "web"]).exits(1);
    bocker(&["system", "reset", "--force"]).ok();
    assert!(!session.host.root().join("networks").exists());
    let links = session.host.run(&["ip", "-br", "link"]).text();
    assert!(!links.contains("net_"), "{links}");
}

#[test]
fn a_bridge_that_has_all_its_ports_says_so_and_names_the_way_out() {
    let host = Host::new();
    let noted = made(&host, &["web", "--subnet", "10.1.0.0/16"]);
    let bridge = noted["bridge"].as_str().expect("a bridge");
    let net = Net::new(&host, &["--network", "web"]);
    // All the other ports.
    let mut lines = String::new();
    for number in 0..511 {
        lines +=
            &format!("link add port{number} master {bridge} type veth peer name end{number}\n");
        lines += &format!("link set end{number} master {bridge}\n");
    }
    host.call(&["ip", "-batch", "-"]).stdin(lines).run().ok();
    create(&host, &["--network", "web"])
        .exits(125)
        .says("1023")
        .says("bocker network create");
    assert_eq!(host.run(&["bocker-net", "list"]).ok().json_lines().len(), 1);
    made(&host, &["second"]);
    Net::new(&host, &["--network", "second"]).delete(&host).ok();
    net.delete(&host).ok();
    let again = host.wait_for("a port", || {
        let made = create(&host, &["--network", "web"]);
        (made.code == 0).then_some(made)
    });
    let net = Net {
        document: again.json(),
    };
    net.delete(&host).ok();
}
