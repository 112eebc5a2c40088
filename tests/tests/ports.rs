//! Published ports and our nftables table, by real packets: who reaches what, from where, over IPv4 and IPv6.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use bocker_tests::net::{
    HOST_OUTSIDE, HOST_OUTSIDE6, Net, OUTSIDE, OUTSIDE6, PATIENCE, SILENCE, assert_silent, connect,
    create, inside, outside, talk,
};
use bocker_tests::{Docker, Host, Image, Layer, Platform, Session, need};
use serde_json::{Value, json};

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

/// What a network has published: the host's ports in the order in which they were asked for.
fn published(net: &Net) -> Vec<Value> {
    let attachment = &net.document["bocker"]["net"]["attachments"][0];
    let all = attachment["published"].as_array();
    all.expect("published ports").clone()
}

fn host_ports(net: &Net) -> Vec<u16> {
    let port =
        |one: &Value| u16::try_from(one["hostPort"].as_u64().expect("a port")).expect("16 bits");
    published(net).iter().map(port).collect()
}

#[test]
fn a_port_is_chosen_where_none_is_named_and_is_the_same_when_the_container_starts_again() {
    let host = Host::new();
    let outside = outside(&host);
    let options = [
        "-p",
        "80",
        "-p",
        "127.0.0.1::81",
        "-p",
        "9000-9001:82",
        "-p",
        "9000:83",
    ];
    let net = Net::new(&host, &options);
    let ports = host_ports(&net);
    assert_eq!(ports[2..], [9001, 9000]);
    talk(&net.listen(80), Some(&outside), HOST_OUTSIDE, ports[0]);
    talk(&net.listen(81), None, Ipv4Addr::LOCALHOST, ports[1]);
    talk(&net.listen(82), Some(&outside), HOST_OUTSIDE, 9001);
    assert_silent(Some(&outside), HOST_OUTSIDE, ports[1]);

    // The claim of a stopped container stands.
    let keeper = Path::new("/run/bocker").join(net.id()).join("keeper");
    fs::write(keeper, "").expect("write");
    net.delete(&host).ok();
    let again = || {
        let call = host.call(&["bocker-net", "create"]);
        let document = call.stdin(net.document.to_string()).run().ok().json();
        Net { document }
    };
    assert_eq!(again().document, net.document);
    net.delete(&host).ok();
    // What somebody has taken meanwhile is not waited for.
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, ports[0])).expect("listen");
    let other = again();
    assert_ne!(
        host_ports(&other)[0],
        taken.local_addr().expect("an address").port()
    );
    assert_eq!(host_ports(&other)[1..], ports[1..]);
}

#[test]
fn chosen_ports_are_never_those_of_another_whoever_chooses_at_the_same_time() {
    let host = Host::new();
    // So few that everybody gets in everybody's way.
    host.sh("echo 40000 40039 > /proc/sys/net/ipv4/ip_local_port_range")
        .ok();
    let made = host
        .sh("for n in $(seq 20); do bocker-net create --new -p 80 -p 81/udp & done; wait")
        .ok();
    let nets = made
        .json_lines()
        .into_iter()
        .map(|document| Net { document });
    let nets: Vec<Net> = nets.collect();
    assert_eq!(nets.len(), 20);
    for place in [0, 1] {
        let mut ports: Vec<u16> = nets.iter().map(|net| host_ports(net)[place]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }
    create(&host, &["-p", "1000-1099"])
        .exits(125)
        .says("all ports of the host from 40000 to 40039 are taken");
    for net in nets {
        net.delete(&host).ok();
    }
}

#[test]
fn a_range_is_published_port_by_port_at_once() {
    let host = Host::new();
    let outside = outside(&host);
    host.run(&["bocker-net", "setup"]).ok();
    let before = host.fingerprint();
    let net = Net::new(
        &host,
        &[
            "-p",
            "1000-2999:3000-4999",
            "-p",
            "5000-14999:5000-14999/udp",
        ],
    );
    for (container, published) in [(3000, 1000), (4321, 2321), (4999, 2999)] {
        talk(
            &net.listen(container),
            Some(&outside),
            HOST_OUTSIDE,
            published,
        );
    }
    assert_silent(Some(&outside), HOST_OUTSIDE, 999);
    for (port, holder) in [
        ("2999:1", net.id()),
        ("2500-3500:2500-3500", net.id()),
        ("7777:7/udp", net.id()),
    ] {
        create(&host, &["-p", port]).exits(125).says(holder);
    }
    let listed = host.run(&["bocker-net", "list"]).ok().json_lines();
    assert_eq!(
        listed[0]["publish"].as_array().map(Vec::len),
        Some(2000 + 10_000)
    );
    net.delete(&host).ok();
    host.assert_same(&before);
}

#[test]
fn a_range_with_one_port_that_is_taken_is_refused_whole() {
    let host = Host::new();
    host.run(&["bocker-net", "setup"]).ok();
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 9007)).expect("listen");
    let before = host.fingerprint();
    let this = format!("(pid {})", std::process::id());
    let refused = create(&host, &["-p", "9000-9029:9000-9029"]).exits(125);
    refused.says("9007").says(&this);
    host.assert_same(&before);
    let one = Net::new(&host, &["-p", "8005:80"]);
    create(&host, &["-p", "8000-8009:8000-8009"])
        .exits(125)
        .says("8005/tcp of the host is published by")
        .says(one.id());
    one.delete(&host).ok();
    host.assert_same(&before);
    create(&host, &["-p", "[2001:db8::1]:80:80"])
        .exits(125)
        .says("the container has no address of that kind");
    host.assert_same(&before);
}

/// A container's document whose image exposes these ports.
fn exposing(ports: Value) -> String {
    json!({"bocker": {"version": 1, "image": {"config": {"ExposedPorts": ports}}}}).to_string()
}

#[test]
fn all_that_an_image_exposes_is_published_and_no_image_can_publish_anything_else() {
    let host = Host::new();
    let outside = outside(&host);
    let create_all = |ports: Value, options: &[&str]| {
        let argv = [&["bocker-net", "create", "--new", "-", "-P"], options].concat();
        host.call(&argv).stdin(exposing(ports)).run()
    };
    let made = create_all(
        json!({"80/tcp": {}, "8000-8001/tcp": {}, "53/udp": {}, "9/sctp": {}}),
        &["-p", "9000:8000"],
    );
    let net = Net {
        document: made.ok().says("9/sctp").json(),
    };
    let ports: Vec<u64> = published(&net)
        .iter()
        .map(|one| one["containerPort"].as_u64().expect("a port"))
        .collect();
    assert_eq!(ports, [8000, 80, 8001, 53]);
    talk(
        &net.listen(80),
        Some(&outside),
        HOST_OUTSIDE,
        host_ports(&net)[1],
    );
    net.delete(&host).ok();

    host.run(&["bocker-net", "setup"]).ok();
    let before = host.fingerprint();
    for hostile in [
        json!({"0/tcp": {}}),
        json!({"8080:80/tcp": {}}),
        json!({"127.0.0.1::80": {}}),
        json!({"80\n81": {}}),
        json!({"1-65535/tcp": {}}),
        json!("80"),
    ] {
        let refused = create_all(hostile, &[]).exits(125);
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        host.assert_same(&before);
    }
    // Without -P nobody asks the image.
    let argv = ["bocker-net", "create", "--new", "-"];
    let made = host
        .call(&argv)
        .stdin(exposing(json!({"80/tcp": {}})))
        .run();
    let ports = &made.ok().json()["bocker"]["net"]["attachments"][0]["published"];
    assert_eq!(ports, &Value::Null);
}

#[test]
fn the_front_end_says_where_a_port_is_published() {
    let session = Session::new();
    let options = [
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1::53/udp",
        "-p",
        "700-702:70-72",
    ];
    session.run(&options, &["sleep", "1000"]).ok();
    let all = session.bocker(&["port", "web"]).ok().text();
    let lines: Vec<&str> = all.lines().collect();
    assert!(lines[0].starts_with("53/udp -> 127.0.0.1:"), "{all}");
    let rest = [
        "70/tcp -> 0.0.0.0:700",
        "71/tcp -> 0.0.0.0:701",
        "72/tcp -> 0.0.0.0:702",
        "80/tcp -> 0.0.0.0:8080",
    ];
    assert_eq!(lines[1..], rest);
    for word in ["80", "80/tcp"] {
        let one = session.bocker(&["port", "web", word]).ok().text();
        assert_eq!(one.trim(), "0.0.0.0:8080");
    }
    session
        .bocker(&["port", "web", "80/udp"])
        .exits(125)
        .says("has not published its port 80/udp");
    // On another network it speaks IPv6 as well, where nothing of it is published.
    session
        .bocker(&["network", "create", "--ipv6", "--internal", "back"])
        .ok();
    let networks = ["--network", "bridge", "--network", "back"];
    let options = [&["-d", "--name", "two", "-p", "8090:80"], &networks[..]].concat();
    session.run(&options, &["sleep", "1000"]).ok();
    let two = session.bocker(&["port", "two"]).ok().text();
    assert_eq!(two.trim(), "80/tcp -> 0.0.0.0:8090");
    session.bocker(&["rm", "-f", "two"]).ok();
    session
        .bocker(&["port", "nobody"])
        .exits(125)
        .says("No container named 'nobody' exists");
    let ports = || {
        session
            .bocker(&["ps", "--format", "{{.Ports}}"])
            .ok()
            .text()
    };
    let chosen = lines[0].rsplit(':').next().expect("a port");
    assert_eq!(
        ports().trim(),
        format!("0.0.0.0:8080->80/tcp, 127.0.0.1:{chosen}->53/udp, 0.0.0.0:700-702->70-72/tcp")
    );
    session.bocker(&["stop", "web"]).ok();
    assert_eq!(ports().trim(), "");
    assert_eq!(session.bocker(&["port", "web"]).ok().text(), "");
    // Started again, it has the ports that it had.
    session.bocker(&["start", "web"]).ok();
    assert_eq!(session.bocker(&["port", "web"]).ok().text(), all);
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn an_image_that_exposes_a_port_has_it_published_by_one_letter() {
    let session = Session::new();
    let config = json!({"Cmd": ["sleep", "1000"], "ExposedPorts": {"80/tcp": {}}});
    let platform = Platform::new(vec![Layer::new().busybox()], config);
    let image = Image::single(&platform);
    let from = format!("oci:{}", image.layout().display());
    let store = session.host.root().join("images");
    let to = format!("oci:{}:docker.io/library/web:1", store.display());
    session
        .host
        .run(&["skopeo", "copy", "--quiet", &from, &to])
        .ok();
    session
        .bocker(&["run", "-d", "-P", "--name", "web", "web:1"])
        .ok();
    let all = session.bocker(&["port", "web"]).ok().text();
    assert!(all.starts_with("80/tcp -> 0.0.0.0:"), "{all}");
    session.bocker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_network_of_both_families_publishes_on_both() {
    let host = Host::new();
    let outside = outside(&host);
    host.run(&["bocker-net", "network", "create", "--ipv6", "both"])
        .ok();
    let options = [
        "--network",
        "both",
        "-p",
        "8080:80",
        "-p",
        "[2001:db8::1]:8081:80",
        "-p",
        "0.0.0.0:8082:80",
        "-p",
        "[::]:8083:80",
        "-p",
        "5353:53/udp",
    ];
    let net = Net::new(&host, &options);
    let neighbour = Net::new(&host, &["--network", "both"]);
    let elsewhere = Net::new(&host, &[]);
    let listener = inside(&net.namespace(), || {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))
    });
    let listener = listener.expect("listen");
    let (there, here) = (Some(outside.as_path()), net.namespace());
    assert_eq!(talk(&listener, there, HOST_OUTSIDE6, 8080), OUTSIDE6);
    for port in [8080, 8081, 8083] {
        talk(&listener, there, HOST_OUTSIDE6, port);
        talk(&listener, None, HOST_OUTSIDE6, port);
        talk(&listener, Some(&here), HOST_OUTSIDE6, port);
        talk(&listener, Some(&neighbour.namespace()), HOST_OUTSIDE6, port);
    }
    for port in [8080, 8082] {
        talk(&listener, there, HOST_OUTSIDE, port);
        talk(&listener, None, Ipv4Addr::LOCALHOST, port);
        talk(&listener, Some(&elsewhere.namespace()), HOST_OUTSIDE, port);
    }
    for port in [8081, 8083] {
        assert_silent(there, HOST_OUTSIDE, port);
    }
    assert_refused_at_once(None, Ipv6Addr::LOCALHOST, 8080);
    assert_refused_at_once(there, HOST_OUTSIDE6, 8082);

    let server = inside(&here, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53))).expect("bind");
    let client = inside(&outside, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))).expect("bind");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
    }
    client
        .send_to(b"question", (HOST_OUTSIDE6, 5353))
        .expect("send");
    let mut buffer = [0; 16];
    let (_, peer) = server.recv_from(&mut buffer).expect("question");
    server.send_to(b"answer", peer).expect("send");
    let (_, from) = client.recv_from(&mut buffer).expect("answer");
    assert_eq!((from.ip(), from.port()), (HOST_OUTSIDE6.into(), 5353));

    let checked = host
        .call(&["bocker-net", "check"])
        .stdin(net.document.to_string());
    checked.run().ok();
    net.delete(&host).ok();
    let table = host
        .run(&["nft", "list", "table", "inet", "bocker"])
        .ok()
        .text();
    assert!(!table.contains(net.id()), "{table}");
}

#[test]
fn a_udp_client_over_ipv6_that_kept_asking_is_answered_once_the_port_is_published() {
    let host = Host::new();
    let outside = outside(&host);
    host.run(&["bocker-net", "network", "create", "--ipv6", "both"])
        .ok();
    // Flows are followed as soon as there is a table with NAT.
    Net::new(&host, &["--network", "both"]).delete(&host).ok();
    let client = inside(&outside, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))).expect("bind");
    client.set_read_timeout(Some(PATIENCE)).expect("time-out");
    client
        .send_to(b"anybody?", (HOST_OUTSIDE6, 5353))
        .expect("send");
    let net = Net::new(&host, &["--network", "both", "-p", "5350-5360:50-60/udp"]);
    let server = inside(&net.namespace(), || {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53))
    });
    let server = server.expect("bind");
    server.set_read_timeout(Some(PATIENCE)).expect("time-out");
    client
        .send_to(b"question", (HOST_OUTSIDE6, 5353))
        .expect("send");
    let mut buffer = [0; 16];
    server.recv_from(&mut buffer).expect("question");
}

/// A firewall that drops what is forwarded, as its owner has set it up.
const STRICT: &str = "nft add table inet strict
     nft add chain inet strict forward '{ type filter hook forward priority 0; policy drop; }'";

#[test]
fn a_firewall_of_the_hosts_that_drops_what_is_forwarded_is_told_once_and_left_alone() {
    let host = Host::new();
    let outside = outside(&host);
    host.sh(STRICT).ok();
    let made = create(&host, &["-p", "8080:80"]).ok();
    let net = Net {
        document: made.json(),
    };
    let line = made.stderr.lines().next().unwrap_or_default().to_owned();
    assert!(line.contains("chain inet strict forward"), "{line}");
    let listener = net.listen(80);
    assert_silent(Some(&outside), HOST_OUTSIDE, 8080);
    let info = host.run(&["bocker-net", "info"]).ok().json();
    assert_eq!(info["may_drop"], json!(["inet strict forward"]));

    // What it says is what helps.
    let (_, remedy) = line.split_once("let them through: ").expect("a remedy");
    host.sh(&format!("set -e; {remedy}")).ok();
    talk(&listener, Some(&outside), HOST_OUTSIDE, 8080);
    // Once is enough, until something else drops.
    let quiet = create(&host, &["-p", "8081:80"]).ok();
    assert_eq!(quiet.stderr, "");
    host.sh(&STRICT.replace("strict", "stricter")).ok();
    create(&host, &["-p", "8082:80"])
        .ok()
        .says("inet stricter forward");
    let tables = host
        .run(&["nft", "list", "table", "inet", "strict"])
        .ok()
        .text();
    assert_eq!(tables.matches("accept").count(), 2, "{tables}");
}

#[test]
fn where_docker_has_a_chain_for_the_hosts_owner_that_one_is_named() {
    let host = Host::new();
    host.sh(
        "set -e; nft add table ip filter; nft add chain ip filter DOCKER-USER
         nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
         nft add rule ip filter FORWARD jump DOCKER-USER
         nft add table inet firewalld
         nft add chain inet firewalld filter_FORWARD '{ type filter hook forward priority 10; }'
         nft add table inet open; nft add chain inet open f '{ type filter hook forward priority 0; }'
         nft add table inet in; nft add chain inet in input '{ type filter hook input priority 0; policy drop; }'",
    )
    .ok();
    // The first use of a network is told of it, with ports or without.
    let made = create(&host, &[]).ok();
    assert_eq!(made.stderr.lines().count(), 1, "{made}");
    let made = made
        .says("chain ip filter FORWARD, inet firewalld filter_FORWARD)")
        .says("nft insert rule ip filter DOCKER-USER iifname bridge0 accept")
        .says("firewall-cmd --zone=trusted --add-interface=bridge0");
    Net {
        document: made.json(),
    }
    .delete(&host)
    .ok();
    assert_eq!(create(&host, &[]).ok().stderr, "");
}

#[test]
fn beside_docker_ports_are_published_and_nothing_of_dockers_changes() {
    if !need("dockerd docker iptables") {
        return;
    }
    let host = Host::new();
    let outside = outside(&host);
    // It turns forwarding on itself, and drops what is forwarded from then on.
    let docker = Docker::start(&host, &[]);
    let rules = || {
        let of = |table: &str| host.run(&["iptables", "-t", table, "-S"]).ok().text();
        [of("filter"), of("nat")]
    };
    let before = rules();
    assert!(before[0].contains("-P FORWARD DROP"), "{}", before[0]);
    let made = create(&host, &["-p", "8080:80"]).ok();
    let net = Net {
        document: made.json(),
    };
    let line = made.stderr.lines().next().unwrap_or_default();
    let (what, remedy) = line.split_once("let them through: ").expect("a remedy");
    assert!(what.contains("ip filter FORWARD"), "{line}");
    let listener = net.listen(80);
    assert_silent(Some(&outside), HOST_OUTSIDE, 8080);
    assert_eq!(rules(), before);
    host.sh(&format!("set -e; {remedy}")).ok();
    talk(&listener, Some(&outside), HOST_OUTSIDE, 8080);
    talk(&listener, None, Ipv4Addr::LOCALHOST, 8080);

    let with_remedy = rules();
    net.delete(&host).ok();
    host.run(&["bocker-net", "reset"]).ok();
    assert_eq!(rules(), with_remedy);
    // What it has turned on before us stays on.
    let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
    assert_eq!(forwarding.expect("a sysctl").trim(), "1");
    docker.stop();
}

#[test]
fn a_table_that_somebody_has_flushed_is_made_again_with_the_ports_of_those_who_live() {
    let session = Session::new();
    let host = &session.host;
    let outside = outside(host);
    host.run(&["bocker-net", "network", "create", "--ipv6", "both"])
        .ok();
    let serve = ["sh", "-c", "while :; do echo served | nc -l -p 80; done"];
    let options = [
        "-d",
        "--name",
        "one",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1:8081-8083:80-82",
    ];
    session.run(&options, &serve).ok();
    session
        .run(
            &["-d", "--name", "two", "--network", "both", "-p", "9090:80"],
            &serve,
        )
        .ok();
    let nameless = Net::new(host, &["-p", "7070:80"]);
    let table = || host.fingerprint().section("nftables").to_vec();
    let (before, lost) = (table(), nameless.id().to_owned());
    nameless.delete(host).ok();
    let whole = table();
    assert_ne!(before, whole);

    let nameless = Net::new(host, &["-p", "7070:80"]);
    host.run(&["nft", "flush", "ruleset"]).ok();
    assert_silent(Some(&outside), HOST_OUTSIDE, 8080);
    let made = host.run(&["bocker-net", "setup"]).ok();
    let line = made.stderr.lines().next().unwrap_or_default().to_owned();
    assert!(line.contains("our nftables table was gone"), "{made}");
    assert!(
        line.contains(&format!(
            "what {} had published is not known",
            nameless.id()
        )),
        "{made}"
    );
    let again = table();
    assert_eq!(again, whole, "{lost}");
    for (to, port) in [(HOST_OUTSIDE, 8080), (HOST_OUTSIDE, 9090)] {
        host.wait_for("an answer", || {
            connect(Some(&outside), to, port, SILENCE).ok()
        });
    }
    assert_eq!(host.run(&["bocker-net", "setup"]).ok().stderr, "");
    // The same by the next create, which shows what it does.
    host.run(&["nft", "flush", "ruleset"]).ok();
    let made = create(host, &["-v", "-p", "6060:60"]).ok();
    let made = made
        .says("our nftables table was gone")
        .says("published_any '{ tcp . 8080 comment");
    for net in [
        nameless,
        Net {
            document: made.json(),
        },
    ] {
        net.delete(host).ok();
    }
    assert_eq!(table(), whole);
    for name in ["one", "two"] {
        session.bocker(&["rm", "-f", name]).ok();
    }
}
