//! Published ports and our nftables table, by real packets: who reaches what, from where, over IPv4 and IPv6.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};

use bocker_tests::Host;
use bocker_tests::net::{
    HOST_OUTSIDE, HOST_OUTSIDE6, Net, OUTSIDE, OUTSIDE6, SILENCE, assert_silent, connect, create,
    inside, outside, talk,
};

/// The address of the bridge that is made for [`Net`].
const HOST_BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// Two machines on a bridge of IPv4 and IPv6 that our table knows, as it knows a network that a user makes.
struct ByHand {
    machines: [PathBuf; 2],
}

impl ByHand {
    const NAME: &str = "net_byhand";
    const ADDRESSES: [&str; 2] = ["10.9.0.2", "10.9.0.3"];
    const ADDRESSES6: [&str; 2] = ["fd00:9::2", "fd00:9::3"];

    fn new(host: &Host) -> ByHand {
        host.run(&["bocker-net", "setup"]).ok();
        let name = ByHand::NAME;
        host.sh(&format!(
            "set -e; ip link add {name} type bridge; ip link set {name} up
             ip address add 10.9.0.1/24 dev {name}; ip address add fd00:9::1/64 dev {name} nodad
             sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.conf.{name}.route_localnet=1
             nft add element inet bocker bridges '{{ \"{name}\" comment \"{name}\" }}'
             nft add element inet bocker within '{{ \"{name}\" . \"{name}\" comment \"{name}\" }}'
             nft add element inet bocker containers '{{ 10.9.0.0/24 comment \"{name}\" }}'
             nft add element inet bocker containers6 '{{ fd00:9::/64 comment \"{name}\" }}'"
        ))
        .ok();
        let machines = [0, 1].map(|number| {
            let path = host.scratch().join(format!("machine{number}"));
            let (file, port) = (path.display(), format!("port{number}"));
            let (v4, v6) = (ByHand::ADDRESSES[number], ByHand::ADDRESSES6[number]);
            host.sh(&format!(
                "set -e; touch {file}; unshare --net={file} true
                 ip link add {port} master {name} type veth peer name eth0 netns {file}; ip link set {port} up
                 ip link set {port} type bridge_slave hairpin on
                 nsenter --net={file} sh -ec '
                    ip link set lo up; ip link set eth0 up
                    ip address add {v4}/24 dev eth0; ip route add default via 10.9.0.1
                    ip address add {v6}/64 dev eth0 nodad; ip -6 route add default via fd00:9::1'"
            ))
            .ok();
            path
        });
        // Until the bridge forwards on its ports and the neighbours answer, nothing does.
        let machine = ByHand { machines };
        host.wait_for("the bridge", || {
            let arrives = |to| connect(Some(&machine.machines[0]), to, 9, SILENCE);
            let refused = |to: &str| {
                let to: IpAddr = to.parse().expect("an address");
                arrives(to).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
            };
            (refused(ByHand::ADDRESSES[1]) && refused(ByHand::ADDRESSES6[1])).then_some(())
        });
        machine
    }

    fn listen(&self, machine: usize, port: u16) -> TcpListener {
        inside(&self.machines[machine], || {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        })
        .expect("listen")
    }
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}

#[track_caller]
fn assert_refused_at_once(from: Option<&Path>, to: impl Into<IpAddr>, port: u16) {
    let error = connect(from, to, port, SILENCE).expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_port_published_over_ipv6_answers_outside_on_the_host_and_to_containers() {
    let host = Host::new();
    let outside = outside(&host);
    let network = ByHand::new(&host);
    let (listener, _hidden) = (network.listen(0, 80), network.listen(0, 81));
    host.sh("set -e
         nft add element inet bocker published6_any '{ tcp . 8080 : fd00:9::2 . 80 }'
         nft add element inet bocker published6 '{ 2001:db8::1 . tcp . 8081 : fd00:9::2 . 80 }'
         nft add element inet bocker published_any '{ tcp . 8080 : 10.9.0.2 . 80 }'")
        .ok();
    for port in [8080, 8081] {
        let client = talk(&listener, Some(&outside), HOST_OUTSIDE6, port);
        assert_eq!(client, OUTSIDE6, "the client's address is kept");
        talk(&listener, None, HOST_OUTSIDE6, port);
        for machine in &network.machines {
            talk(&listener, Some(machine), HOST_OUTSIDE6, port);
        }
    }
    talk(&listener, Some(&network.machines[0]), v6("fd00:9::1"), 8080);
    talk(&listener, Some(&outside), HOST_OUTSIDE, 8080);
    // The kernel routes nothing from ::1; whoever asks there has not to wait for it.
    assert_refused_at_once(None, Ipv6Addr::LOCALHOST, 8080);
    assert_refused_at_once(None, v6("fd00:9::1"), 8081);
    assert_silent(Some(&outside), HOST_OUTSIDE6, 81);
    host.sh(&format!(
        "nsenter --net={} ip route add fd00:9::/64 via {HOST_OUTSIDE6}",
        outside.display()
    ))
    .ok();
    for port in [80, 81] {
        assert_silent(Some(&outside), v6("fd00:9::2"), port);
    }
}

#[test]
fn what_leaves_over_ipv6_carries_the_hosts_address() {
    let host = Host::new();
    let outside = outside(&host);
    let network = ByHand::new(&host);
    let listener = inside(&outside, || TcpListener::bind((OUTSIDE6, 80))).expect("listen");
    let from = Some(network.machines[0].as_path());
    assert_eq!(talk(&listener, from, OUTSIDE6, 80), HOST_OUTSIDE6);
    // On their own network they are known as themselves.
    let neighbour = network.listen(1, 80);
    assert_eq!(talk(&neighbour, from, v6("fd00:9::3"), 80), v6("fd00:9::2"));
}

#[test]
fn networks_reach_each_other_by_published_ports_only() {
    let host = Host::new();
    let network = ByHand::new(&host);
    let net = Net::new(&host, &["-p", "8080:80"]);
    let (published, hidden) = (net.listen(80), net.listen(81));
    let elsewhere = Some(network.machines[0].as_path());
    for port in [80, 81] {
        assert_silent(elsewhere, net.address(), port);
    }
    talk(&published, elsewhere, HOST_BRIDGE, 8080);
    let theirs = network.listen(1, 80);
    let here = net.namespace();
    assert_silent(
        Some(&here),
        ByHand::ADDRESSES[1].parse::<IpAddr>().expect("an address"),
        80,
    );
    talk(&theirs, elsewhere, v6("fd00:9::3"), 80);
    host.run(&["nft", "flush", "chain", "inet", "bocker", "forward"])
        .ok();
    talk(&hidden, elsewhere, net.address(), 81);
}

#[test]
fn an_internal_network_has_no_way_out_and_none_in() {
    let host = Host::new();
    let outside = outside(&host);
    let network = ByHand::new(&host);
    let net = Net::new(&host, &["-p", "8080:80"]);
    let published = net.listen(80);
    host.sh(
        "set -e; nft add element inet bocker internal '{ \"net_byhand\" comment \"net_byhand\" }'
         nft add element inet bocker published_any '{ tcp . 8081 : 10.9.0.2 . 80 }'",
    )
    .ok();
    let machine = Some(network.machines[0].as_path());
    let (listener, neighbour) = (network.listen(0, 80), network.listen(1, 80));
    let server = inside(&outside, || TcpListener::bind((OUTSIDE, 80))).expect("listen");
    assert_silent(machine, OUTSIDE, 80);
    assert_silent(machine, HOST_OUTSIDE, 8080);
    assert_silent(Some(&outside), HOST_OUTSIDE, 8081);
    talk(&neighbour, machine, v6("fd00:9::3"), 80);
    talk(&listener, None, v6("fd00:9::2"), 80);
    host.run(&["nft", "flush", "set", "inet", "bocker", "internal"])
        .ok();
    talk(&server, machine, OUTSIDE, 80);
    talk(&published, machine, HOST_OUTSIDE, 8080);
    talk(&listener, Some(&outside), HOST_OUTSIDE, 8081);
}

/// The table that was ours before it looked after IPv6, with one container's port in it.
fn former_table(host: &Host, net: &Net) {
    host.sh(&format!(
        "set -e; nft delete table inet bocker
         nft add table ip bocker '{{ comment \"made by bocker-net\"; }}'
         nft add set ip bocker containers '{{ type ipv4_addr; flags interval; }}'
         nft add map ip bocker published '{{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}'
         nft add map ip bocker published_any '{{ type inet_proto . inet_service : ipv4_addr . inet_service; }}'
         nft add element ip bocker containers '{{ 10.0.0.0/16 comment \"bridge0\" }}'
         nft add element ip bocker published_any '{{ tcp . 8080 comment \"{}\" : {} . 80 }}'",
        net.id(),
        net.address()
    ))
    .ok();
}

#[test]
fn the_table_of_an_older_bocker_net_is_taken_over_with_the_ports_of_those_who_live() {
    let host = Host::new();
    let empty = host.fingerprint();
    let net = Net::new(&host, &["-p", "8080:80"]);
    let listener = net.listen(80);
    former_table(&host, &net);
    assert_silent(None, HOST_BRIDGE, 8080);
    let other = Net::new(&host, &[]);
    talk(&listener, None, HOST_BRIDGE, 8080);
    let tables = host.run(&["nft", "list", "tables"]).ok().text();
    assert_eq!(tables.trim(), "table inet bocker");
    create(&host, &["-p", "8080:80"]).exits(125).says(net.id());
    drop(listener);
    for net in [&net, &other] {
        net.delete(&host).ok();
    }
    create(&host, &["-p", "8080:80", "--dry-run"]).ok();

    // The container that goes before anybody comes leaves nothing in the former table.
    former_table(&host, &net);
    net.delete(&host).ok();
    let left = host.run(&["nft", "list", "map", "ip", "bocker", "published_any"]);
    assert!(!left.ok().text().contains("8080"));
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&empty);
}

#[test]
fn a_table_of_that_name_that_is_not_ours_is_left_alone() {
    let host = Host::new();
    host.run(&["nft", "add", "table", "inet", "bocker"]).ok();
    let before = host.fingerprint();
    for argv in [&["create", "--new"][..], &["reset"]] {
        host.run(&[&["bocker-net"], argv].concat())
            .exits(125)
            .says("the nftables table inet bocker is not ours");
        let after = host.fingerprint();
        assert_eq!(after.section("nftables"), before.section("nftables"));
    }
    fs::remove_dir_all("/run/bocker/net").expect("the lock's folder");
    host.sh("nft flush ruleset; nft add table ip bocker").ok();
    let before = host.fingerprint();
    Net::new(&host, &["-p", "8080:80"]).delete(&host).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&before);
}
