//! bocker-net by real packets: what a container reaches, who reaches it, and that nothing of it is left.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bocker_tests::Host;
use bocker_tests::net::{
    HOST_OUTSIDE, Net, OUTSIDE, PATIENCE, assert_silent, create, inside, outside, talk,
};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::{Value, json};

#[test]
fn containers_the_host_and_the_gateway_reach_each_other() {
    let host = Host::new();
    let (one, other) = (Net::new(&host, &[]), Net::new(&host, &[]));
    assert_ne!(one.address(), other.address());
    let listener = other.listen(80);
    assert_eq!(
        talk(&listener, Some(&one.namespace()), other.address(), 80),
        one.address()
    );
    let gateway = Ipv4Addr::new(10, 0, 0, 1);
    assert_eq!(talk(&listener, None, other.address(), 80), gateway);
    let at_gateway = TcpListener::bind((gateway, 81)).expect("listen");
    assert_eq!(
        talk(&at_gateway, Some(&one.namespace()), gateway, 81),
        one.address()
    );
    let namespace = one.namespace().display().to_string();
    let other = other.address().to_string();
    for target in [other.as_str(), "127.0.0.1"] {
        let ping = [
            "nsenter",
            &format!("--net={namespace}"),
            "busybox",
            "ping",
            "-c",
            "1",
            "-W",
            "2",
            target,
        ];
        let answer = host.run(&ping).ok().text();
        assert!(answer.contains("1 packets received"), "{answer}");
    }
}

#[test]
fn what_leaves_carries_the_hosts_address_and_answers_find_back() {
    let host = Host::new();
    let outside = outside(&host);
    let net = Net::new(&host, &[]);
    let listener = inside(&outside, || TcpListener::bind((OUTSIDE, 80))).expect("listen");
    assert_eq!(
        talk(&listener, Some(&net.namespace()), OUTSIDE, 80),
        HOST_OUTSIDE
    );

    let server = inside(&outside, || UdpSocket::bind((OUTSIDE, 53))).expect("bind");
    let client = inside(&net.namespace(), || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
    })
    .expect("bind");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
    }
    client.send_to(b"question", (OUTSIDE, 53)).expect("send");
    let mut buffer = [0; 16];
    let (_, peer) = server.recv_from(&mut buffer).expect("question");
    assert_eq!(peer.ip(), HOST_OUTSIDE);
    server.send_to(b"answer", peer).expect("send");
    assert_eq!(client.recv(&mut buffer).expect("answer"), 6);
}

#[test]
fn a_published_port_answers_outside_on_the_host_on_localhost_and_to_containers() {
    for strict in ["0", "1"] {
        let host = Host::new();
        let outside = outside(&host);
        // Whether frames between ports of a bridge pass the firewall, and whether a packet is dropped whose answer would
        // take another way, both differ from one distribution to the next.
        host.sh(&format!(
            "cd /proc/sys/net; echo {strict} > ipv4/conf/all/rp_filter
             [ ! -e bridge ] || echo {strict} > bridge/bridge-nf-call-iptables"
        ))
        .ok();
        let published = Net::new(&host, &["-p", "8080:80"]);
        let neighbour = Net::new(&host, &[]);
        let (listener, gateway) = (published.listen(80), Ipv4Addr::new(10, 0, 0, 1));
        let client = talk(&listener, Some(&outside), HOST_OUTSIDE, 8080);
        assert_eq!(client, OUTSIDE, "the client's address is kept");
        talk(&listener, None, HOST_OUTSIDE, 8080);
        talk(&listener, None, Ipv4Addr::LOCALHOST, 8080);
        for container in [&neighbour, &published] {
            talk(&listener, Some(&container.namespace()), HOST_OUTSIDE, 8080);
            talk(&listener, Some(&container.namespace()), gateway, 8080);
        }
        assert_silent(Some(&outside), HOST_OUTSIDE, 80);

        published.delete(&host).ok();
        assert_silent(Some(&outside), HOST_OUTSIDE, 8080);
        assert_silent(None, Ipv4Addr::LOCALHOST, 8080);
    }
}

#[test]
fn a_udp_port_is_published_as_udp_only() {
    let host = Host::new();
    let outside = outside(&host);
    let net = Net::new(&host, &["-p", "5353:53/udp"]);
    let server = inside(&net.namespace(), || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))
    })
    .expect("bind");
    server.set_read_timeout(Some(PATIENCE)).expect("time-out");
    for (from, to) in [(Some(&outside), HOST_OUTSIDE), (None, Ipv4Addr::LOCALHOST)] {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
        let client = from.map_or_else(bind, |outside| inside(outside, bind));
        client.set_read_timeout(Some(PATIENCE)).expect("time-out");
        client.connect((to, 5353)).expect("connect");
        client.send(b"question").expect("send");
        let mut buffer = [0; 16];
        let (_, peer) = server.recv_from(&mut buffer).expect("question");
        server.send_to(b"answer", peer).expect("send");
        assert_eq!(client.recv(&mut buffer).expect("answer"), 6);
    }
    let _listener = net.listen(53);
    assert_silent(Some(&outside), HOST_OUTSIDE, 5353);
}

#[test]
fn a_client_that_kept_asking_before_the_port_was_published_is_answered_too() {
    let host = Host::new();
    let outside = outside(&host);
    // Flows are followed as soon as there is a table with NAT.
    host.run(&["bocker-net", "setup"]).ok();
    let clients =
        [(Some(&outside), HOST_OUTSIDE), (None, Ipv4Addr::LOCALHOST)].map(|(from, to)| {
            let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
            let client = from.map_or_else(bind, |outside| inside(outside, bind));
            client.set_read_timeout(Some(PATIENCE)).expect("time-out");
            client.send_to(b"anybody?", (to, 5353)).expect("send");
            (client, to)
        });
    let net = Net::new(&host, &["-p", "5353:53/udp"]);
    let server = inside(&net.namespace(), || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))
    });
    let server = server.expect("bind");
    server.set_read_timeout(Some(PATIENCE)).expect("time-out");
    for (client, to) in clients {
        client.send_to(b"question", (to, 5353)).expect("send");
        let mut buffer = [0; 16];
        let (_, peer) = server.recv_from(&mut buffer).expect("question");
        server.send_to(b"answer", peer).expect("send");
        assert_eq!(client.recv(&mut buffer).expect("answer"), 6);
    }
}

#[test]
fn a_port_published_on_localhost_is_for_the_host_alone() {
    let host = Host::new();
    let outside = outside(&host);
    let net = Net::new(&host, &["-p", "127.0.0.1:8080:80"]);
    let listener = net.listen(80);
    talk(&listener, None, Ipv4Addr::LOCALHOST, 8080);
    assert_silent(None, HOST_OUTSIDE, 8080);
    assert_silent(Some(&outside), HOST_OUTSIDE, 8080);

    // A neighbour that sends packets for 127.0.0.1 over the wire.
    send_loopback_to(&host, &outside, HOST_OUTSIDE);
    assert_silent(Some(&outside), Ipv4Addr::LOCALHOST, 8080);
    // It would be answered if our chain did not let such packets alone.
    host.sh(
        "set -e; nft flush chain inet bocker prerouting
         nft add rule inet bocker prerouting 'dnat ip to ip daddr . meta l4proto . th dport map @published'",
    )
    .ok();
    assert_eq!(
        talk(&listener, Some(&outside), Ipv4Addr::LOCALHOST, 8080),
        OUTSIDE
    );
}

/// Makes a namespace send what is for 127.0.0.1 to a gateway, as a hostile machine can.
fn send_loopback_to(host: &Host, namespace: &Path, gateway: Ipv4Addr) {
    host.sh(&format!(
        "nsenter --net={} sh -ec '
            ip address flush dev lo; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet
            ip route add 127.0.0.1 via {gateway}'",
        namespace.display()
    ))
    .ok();
}

#[test]
fn a_container_does_not_reach_what_listens_on_the_hosts_localhost() {
    // CVE-2020-8558: the bridge has route_localnet.
    let host = Host::new();
    let net = Net::new(&host, &[]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 9000)).expect("listen");
    send_loopback_to(&host, &net.namespace(), Ipv4Addr::new(10, 0, 0, 1));
    assert_silent(Some(&net.namespace()), Ipv4Addr::LOCALHOST, 9000);
    host.run(&["nft", "flush", "chain", "inet", "bocker", "raw"])
        .ok();
    talk(&listener, Some(&net.namespace()), Ipv4Addr::LOCALHOST, 9000);
}

#[test]
fn what_is_not_published_is_not_reached_from_outside_even_with_a_route() {
    let host = Host::new();
    let outside = outside(&host);
    let net = Net::new(&host, &["-p", "8080:80"]);
    let (_published, hidden) = (net.listen(80), net.listen(81));
    let route = format!("ip route add 10.0.0.0/16 via {HOST_OUTSIDE}");
    host.sh(&format!("nsenter --net={} {route}", outside.display()))
        .ok();
    assert_silent(Some(&outside), net.address(), 80);
    assert_silent(Some(&outside), net.address(), 81);
    host.run(&["nft", "flush", "chain", "inet", "bocker", "forward"])
        .ok();
    talk(&hidden, Some(&outside), net.address(), 81);
}

#[test]
fn a_port_that_is_taken_is_refused_before_anything_is_made() {
    let host = Host::new();
    let first = Net::new(&host, &["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 9000)).expect("listen");
    let before = host.fingerprint();
    let this = format!("(pid {}) uses that port", std::process::id());
    for (port, reason) in [
        ("8080:80", first.id()),
        ("127.0.0.1:8080:81", first.id()),
        ("8081:80", first.id()),
        ("127.0.0.1:8081:80/tcp", first.id()),
        ("9000:80", this.as_str()),
        ("198.51.100.7:80:80", "the host does not have that address"),
    ] {
        create(&host, &["-p", "7000:70", "-p", port])
            .exits(125)
            .says(reason);
        host.assert_same(&before);
    }
    create(&host, &["-p", "8080:80/udp", "-p", "127.0.0.2:8081:80"]).ok();
}

#[test]
fn wrong_usage_makes_nothing_and_says_what_is_right() {
    let host = Host::new();
    let before = host.fingerprint();
    for (options, says) in [
        (&["-p", "80:"][..], "hostPort"),
        (&["-p", "[::1]:80:80"], "publish on 127.0.0.1"),
        (&["-p", "80:80/sctp"], "sctp"),
        (&["-p", "8080:80", "-p", "8080:81"], "published twice"),
        (
            &["--network", "macvlan"],
            "No network named 'macvlan' exists",
        ),
        (
            &["--network", "none", "-p", "80:80"],
            "ports are published on bridge networks",
        ),
        (&["--hostname", "a b"], "not a host name"),
        (&["--dns", "dns.example"], "name server"),
        (&["--frob"], "unknown option '--frob'"),
    ] {
        let output = create(&host, options).exits(125).says(says);
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        assert_eq!(output.json()["bocker"]["error"]["stage"], "net");
        host.assert_same(&before);
    }
}

#[test]
fn twenty_networks_made_at_once_on_a_fresh_machine_have_twenty_addresses() {
    let host = Host::new();
    let before = host.fingerprint();
    let made = host
        .sh("for n in $(seq 20); do bocker-net create --new -p $((9000+n)):80 & done; wait")
        .ok();
    let nets: Vec<Net> = made
        .json_lines()
        .into_iter()
        .map(|document| Net { document })
        .collect();
    let distinct = |of: &dyn Fn(&Net) -> String| {
        let mut all: Vec<String> = nets.iter().map(of).collect();
        all.sort();
        all.dedup();
        all.len()
    };
    assert_eq!(distinct(&|net| net.id().to_owned()), 20);
    assert_eq!(distinct(&|net| net.address().to_string()), 20);
    assert_eq!(
        distinct(&|net| net.document["bocker"]["net"]["attachments"][0]["request"].to_string()),
        20
    );
    for pair in nets.windows(2) {
        let listener = pair[0].listen(80);
        talk(&listener, Some(&pair[1].namespace()), pair[0].address(), 80);
    }
    assert_eq!(
        host.run(&["bocker-net", "list"]).ok().json_lines().len(),
        20
    );
    for net in &nets {
        net.delete(&host).ok();
    }
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&before);
}

#[test]
fn what_all_share_may_be_removed_and_made_again_while_others_come_and_go() {
    let host = Host::new();
    let before = host.fingerprint();
    let worker = "
        for n in 1 2 3 4 5 6 7 8; do
            bocker-net create --new -p $((10000 + $1 * 100 + n)):80 | bocker-net delete --status >/dev/null || exit 1
            if bocker-net reset 2>reset.$1; then echo reset; else grep -q 'in use' reset.$1 || exit 2; fi
        done";
    let script = host.scratch().join("worker");
    fs::write(&script, worker).expect("write");
    let all = format!(
        "cd {}; for w in 1 2 3 4 5 6; do sh worker $w & all=\"$all $!\"; done
         for one in $all; do wait $one || exit 1; done",
        host.scratch().display()
    );
    host.sh(&all).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&before);
}

/// Names of the steps that a create with these options has.
fn steps(host: &Host, options: &[&str]) -> Vec<String> {
    let shown = create(host, &[&["--dry-run", "--explain"], options].concat()).ok();
    let name = |line: &str| Some(line.strip_prefix("# ")?.split_once(": ")?.0.to_owned());
    let mut names: Vec<String> = shown
        .stderr
        .lines()
        .filter_map(name)
        .filter(|name| name.starts_with("net."))
        .collect();
    names.dedup();
    assert!(names.len() >= 2, "{shown}");
    names
}

#[test]
fn a_failure_at_any_step_leaves_nothing_and_a_kill_nothing_that_gc_does_not_remove() {
    let host = Host::new();
    let empty = host.fingerprint();
    let options = [
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1:5353:53/udp",
        "--dns",
        "192.0.2.53",
    ];
    for name in steps(&host, &options) {
        for fail_at in [name.clone(), format!("kill:{name}")] {
            let argv = [&["bocker-net", "create", "--new"], &options[..]].concat();
            let output = host.call(&argv).env("BOCKER_FAIL_AT", &fail_at).run();
            assert_eq!(
                output.code,
                if fail_at == name { 125 } else { 137 },
                "{fail_at}: {output}"
            );
            host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
            host.run(&["bocker-net", "reset"]).ok();
            host.assert_same(&empty);
        }
    }
    host.run(&["bocker-net", "setup"]).ok();
    let set_up = host.fingerprint();
    for name in steps(&host, &options) {
        let argv = [&["bocker-net", "create", "--new"], &options[..]].concat();
        host.call(&argv)
            .env("BOCKER_FAIL_AT", &name)
            .run()
            .exits(125)
            .says(&name);
        host.assert_same(&set_up);
    }
}

#[test]
fn a_delete_that_fails_or_is_killed_keeps_its_member_and_is_completed_by_the_next() {
    let host = Host::new();
    host.run(&["bocker-net", "setup"]).ok();
    let before = host.fingerprint();
    let options = ["-p", "8080:80"];
    for name in [
        "net.port",
        "net.netns",
        "net.files",
        "net.lease",
        "net.claim",
    ] {
        let net = Net::new(&host, &options);
        let delete = |fail_at: &str| {
            let call = host
                .call(&["bocker-net", "delete"])
                .stdin(net.document.to_string());
            call.env("BOCKER_FAIL_AT", fail_at).run()
        };
        let failed = delete(name).exits(125).says(name).json();
        assert_eq!(
            failed["bocker"]["net"], net.document["bocker"]["net"],
            "{name}"
        );
        // By its claim what is left can be told to be this container's.
        let claim = Path::new("/run/bocker").join(net.id());
        let is_over = ["net.files", "net.claim"].contains(&name);
        assert_eq!(claim.join("hosts").exists(), !is_over, "{name}");
        assert_eq!(claim.exists(), name != "net.claim", "{name}");
        delete("").ok();
        host.assert_same(&before);

        let net = Net::new(&host, &options);
        let kill = format!("kill:{name}");
        let call = host
            .call(&["bocker-net", "delete"])
            .stdin(net.document.to_string());
        call.env("BOCKER_FAIL_AT", &kill).run().exits(137);
        host.run(&["bocker-net", "gc", "--grace", "0"]).ok();
        host.assert_same(&before);
    }
}

#[test]
fn what_is_alive_is_not_deleted_unless_forced() {
    let host = Host::new();
    let net = Net::new(&host, &[]);
    let container = host.root().join("containers").join(net.id());
    fs::create_dir_all(&container).expect("mkdir");
    fs::write(container.join("config.json"), net.document.to_string()).expect("write");
    // As a supervisor does.
    let alive = File::create(format!("/run/bocker/{}/alive", net.id())).expect("create");
    fcntl(&alive, FcntlArg::F_OFD_SETLK(&whole_file_lock())).expect("lock");
    let before = host.fingerprint();
    host.run(&["bocker-net", "delete", net.id()])
        .exits(125)
        .says("is running");
    assert!(
        host.run(&["bocker-net", "gc", "--grace", "0"])
            .ok()
            .json_lines()
            .is_empty()
    );
    host.assert_same(&before);
    let document = host
        .run(&["bocker-net", "delete", "--force", net.id()])
        .ok()
        .json();
    assert_eq!(document.pointer("/bocker/net"), None);
    assert!(!net.namespace().exists());
}

fn whole_file_lock() -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[test]
fn a_shared_object_whose_making_was_killed_is_completed_by_the_next() {
    let host = Host::new();
    let empty = host.fingerprint();
    // What a kill between the bridge's creation and its mark leaves.
    host.run(&[
        "ip",
        "link",
        "add",
        "bridge0",
        "address",
        "02:42:0a:00:00:01",
        "type",
        "bridge",
    ])
    .ok();
    let net = Net::new(&host, &[]);
    talk(&net.listen(80), None, net.address(), 80);
    assert_eq!(
        host.run(&["bocker-net", "info"]).ok().json()["bridge"]["made"],
        true
    );
    // And what a restart of the firewall does, which flushes everything.
    host.run(&["nft", "flush", "ruleset"]).ok();
    let outside = outside(&host);
    let other = Net::new(&host, &[]);
    let listener = inside(&outside, || TcpListener::bind((OUTSIDE, 80))).expect("listen");
    talk(&listener, Some(&other.namespace()), OUTSIDE, 80);
    host.run(&["ip", "link", "delete", "cable"]).ok();
    for net in [net, other] {
        net.delete(&host).ok();
    }
    host.run(&["bocker-net", "reset"]).ok();
    host.run(&["umount", "-l", &outside.display().to_string()])
        .ok();
    host.assert_same(&empty);
}

#[test]
fn the_lines_that_v_prints_make_the_same_network() {
    let host = Host::new();
    let empty = host.fingerprint();
    let made = create(
        &host,
        &[
            "-v",
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1:53:53/udp",
            "--hostname",
            "web",
        ],
    )
    .ok();
    let net = Net {
        document: made.json(),
    };
    let by_the_tool = host.fingerprint();
    let inside_by_the_tool = picture(&host, &net);
    net.delete(&host).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&empty);

    let lines: Vec<&str> = made
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .collect();
    host.sh(&format!("set -e\n{}\n", lines.join("\n"))).ok();
    assert_eq!(picture(&host, &net), inside_by_the_tool);
    for section in ["links", "addresses", "routes", "nftables", "sysctls"] {
        host.wait_for(section, || {
            (host.fingerprint().section(section) == by_the_tool.section(section)).then_some(())
        });
    }
    // What they made, the tool takes back.
    host.run(&["bocker-net", "create", "--new"]).ok();
    net.delete(&host).ok();
    assert!(!net.namespace().exists());
}

/// The network as it looks in the container, without what the kernel counts or is about to do.
fn picture(host: &Host, net: &Net) -> String {
    let script = format!(
        "nsenter --net={} sh -ec 'ip -j link; ip -j -4 address; ip -j route'; cat /run/bocker/{}/[hr]*",
        net.namespace().display(),
        net.id()
    );
    let mut text = String::new();
    for line in host.sh(&script).ok().stdout.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(Value::Array(objects)) => {
                for object in objects {
                    let keep = [
                        "ifname",
                        "address",
                        "altnames",
                        "flags",
                        "mtu",
                        "addr_info",
                        "dst",
                        "gateway",
                        "dev",
                    ];
                    let mut kept = json!({});
                    for name in keep {
                        kept[name] = object[name].clone();
                    }
                    text += &kept.to_string();
                }
            }
            _ => text += line,
        }
        text.push('\n');
    }
    text
}

#[test]
fn a_dry_run_prints_all_and_does_nothing() {
    let host = Host::new();
    let before = host.fingerprint();
    let output = create(&host, &["--dry-run", "-p", "8080:80"]).ok();
    host.assert_same(&before);
    let document = output.json();
    assert_eq!(document["bocker"]["dry_run"], true);
    assert_eq!(document["bocker"]["id"], "ps_dryrun");
    output.says("+ ip link add veth0_ps_dryrun");
    let deleted = host
        .call(&["bocker-net", "delete"])
        .stdin(document.to_string())
        .run()
        .ok();
    deleted.says("+ umount -l /run/bocker/ps_dryrun/netns");
    for verb in ["setup", "reset", "gc"] {
        host.run(&["bocker-net", verb, "--dry-run"]).ok();
    }
    host.assert_same(&before);
}

#[test]
fn the_document_carries_the_namespace_the_names_and_a_cni_result_and_delete_takes_them_out() {
    let host = Host::new();
    let strange = json!({"ociVersion": "1.0.2", "x": [1.5, {"y": null}], "mounts": [{"destination": "/data"}],
        "linux": {"namespaces": [{"type": "pid"}], "z": 1}, "bocker": {"version": 1, "w": "v"}});
    let argv = [
        "bocker-net",
        "create",
        "--new",
        "-",
        "--dns",
        "192.0.2.53",
        "--hostname",
        "web",
    ];
    // A document without an id is completed; `-` reads it although --new was given first.
    let made = host.call(&argv).stdin(strange.to_string()).run().ok();
    let net = Net {
        document: made.json(),
    };
    let document = &net.document;
    let claim = format!("/run/bocker/{}", net.id());
    assert_eq!(document["hostname"], "web");
    assert_eq!(document["x"].to_string(), r#"[1.5,{"y":null}]"#);
    assert_eq!(
        document["linux"]["namespaces"][1],
        json!({"type": "network", "path": format!("{claim}/netns")})
    );
    let destinations: Vec<&Value> = document["mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| &mount["destination"])
        .collect();
    assert_eq!(
        destinations,
        ["/data", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    );
    let result = &document["bocker"]["net"]["attachments"][0]["result"];
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["dns"]["nameservers"], json!(["192.0.2.53"]));
    assert_eq!(result["interfaces"][2]["sandbox"], format!("{claim}/netns"));
    let hosts = fs::read_to_string(format!("{claim}/hosts")).expect("hosts");
    assert!(
        hosts.ends_with(&format!("{}\tweb\n", net.address())),
        "{hosts}"
    );
    assert_eq!(
        fs::read_to_string(format!("{claim}/resolv.conf")).expect("resolv.conf"),
        "nameserver 192.0.2.53\n"
    );

    let mut expected = strange;
    expected["bocker"]["id"] = document["bocker"]["id"].clone();
    let left = net.delete(&host).ok().json();
    assert_eq!(left, expected);
    let again = host
        .call(&["bocker-net", "delete"])
        .stdin(net.document.to_string())
        .run()
        .ok();
    assert_eq!(again.json(), expected, "a second delete is as good");
}

#[test]
fn every_user_of_the_container_can_read_the_files_whatever_the_umask() {
    let host = Host::new();
    let made = host
        .sh("umask 077; bocker-net create --new --network none")
        .ok();
    let net = Net {
        document: made.json(),
    };
    for name in ["hosts", "hostname", "resolv.conf"] {
        let path = format!("/run/bocker/{}/{name}", net.id());
        let mode = fs::metadata(path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "{name}");
    }
}

#[test]
fn the_network_none_has_lo_alone_and_the_network_host_is_the_hosts() {
    let host = Host::new();
    let before = host.fingerprint();
    let none = Net::new(&host, &["--network", "none"]);
    let namespace = none.namespace().display().to_string();
    let links = host
        .run(&["nsenter", &format!("--net={namespace}"), "ip", "-j", "link"])
        .ok()
        .json();
    assert_eq!(links.as_array().map(Vec::len), Some(1));
    host.run(&[
        "nsenter",
        &format!("--net={namespace}"),
        "busybox",
        "ping",
        "-c",
        "1",
        "127.0.0.1",
    ])
    .ok();
    none.delete(&host).ok();

    let of_host = Net::new(&host, &["--network", "host"]);
    assert_eq!(of_host.document["bocker"]["net"]["netns"], Value::Null);
    assert_eq!(of_host.document.pointer("/linux/namespaces"), None);
    assert_eq!(
        of_host.document["hostname"],
        host.run(&["uname", "-n"]).text().trim()
    );
    let copy = format!("/run/bocker/{}/resolv.conf", of_host.id());
    assert_eq!(fs::read(copy).ok(), fs::read("/etc/resolv.conf").ok());
    of_host.delete(&host).ok();
    host.assert_same(&before);
}

#[test]
fn a_document_cannot_make_delete_touch_anything_but_its_own() {
    let host = Host::new();
    let (one, other) = (Net::new(&host, &["-p", "8080:80"]), Net::new(&host, &[]));
    let precious = host.scratch().join("precious");
    fs::write(&precious, "precious").expect("write");
    let before = host.fingerprint();
    let mut forged = other.document.clone();
    forged["bocker"]["id"] = json!("ps_forged");
    forged["bocker"]["net"]["netns"]["path"] = json!(precious);
    forged["bocker"]["net"]["attachments"] = one.document["bocker"]["net"]["attachments"].clone();
    host.call(&["bocker-net", "delete"])
        .stdin(forged.to_string())
        .run()
        .ok();
    assert!(precious.exists());
    host.assert_same(&before);
    // What another program has made of the member is not ours to understand, and not ours to remove.
    let mut foreign = other.document.clone();
    foreign["bocker"]["net"] = json!({"netns": {"path": "/run/netns/x", "made": false},
        "attachments": [{"network": "cni0", "result": {"ips": "?"}}]});
    foreign["linux"]["namespaces"][0]["path"] = json!("/run/netns/x");
    foreign["bocker"]["id"] = json!("ps_forged");
    let left = host
        .call(&["bocker-net", "delete"])
        .stdin(foreign.to_string())
        .run()
        .ok()
        .json();
    assert_eq!(left["linux"], foreign["linux"]);
    host.assert_same(&before);
    for id in ["../../etc", "ps_/../..", "", "x"] {
        forged["bocker"]["id"] = json!(id);
        host.call(&["bocker-net", "delete"])
            .stdin(forged.to_string())
            .run()
            .exits(125);
        host.assert_same(&before);
    }
}

#[test]
fn a_bridge_of_the_users_is_used_as_it_is_and_left_as_it_was() {
    let host = Host::new();
    let outside = outside(&host);
    host.sh(
        "set -e; sysctl -qw net.ipv6.conf.all.disable_ipv6=1
         ip link add bridge0 address 02:00:00:00:00:07 type bridge
         ip address add 10.7.0.1/30 dev bridge0; ip link set bridge0 up
         nft add table ip mine; nft add chain ip mine forward '{ type filter hook forward priority 10; }'
         nft add rule ip mine forward counter",
    )
    .ok();
    let before = host.fingerprint();
    let net = Net::new(&host, &["-p", "8080:80"]);
    assert_eq!(net.address(), Ipv4Addr::new(10, 7, 0, 2));
    let listener = inside(&outside, || TcpListener::bind((OUTSIDE, 80))).expect("listen");
    assert_eq!(
        talk(&listener, Some(&net.namespace()), OUTSIDE, 80),
        HOST_OUTSIDE
    );
    talk(&net.listen(80), Some(&outside), HOST_OUTSIDE, 8080);
    assert_eq!(
        host.run(&["bocker-net", "info"]).ok().json()["bridge"]["made"],
        false
    );
    host.run(&["bocker-net", "reset"]).exits(125).says(net.id());
    net.delete(&host).ok();
    host.run(&["bocker-net", "reset"]).ok();
    host.assert_same(&before);
}

#[test]
fn reset_gives_back_what_was_and_not_what_we_would_have_set() {
    let host = Host::new();
    for former in ["1", "0"] {
        let path = "/proc/sys/net/ipv4/ip_forward";
        host.sh(&format!("echo {former} > {path}")).ok();
        Net::new(&host, &[]).delete(&host).ok();
        assert_eq!(fs::read_to_string(path).expect("ip_forward"), "1\n");
        host.run(&["bocker-net", "reset"]).ok();
        assert_eq!(fs::read_to_string(path).expect("ip_forward").trim(), former);
    }
}

#[test]
fn an_address_is_given_again_only_when_its_former_interface_is_gone() {
    let host = Host::new();
    host.sh("ip link add bridge0 type bridge; ip address add 10.7.0.1/30 dev bridge0; ip link set bridge0 up").ok();
    let first = Net::new(&host, &[]);
    create(&host, &[])
        .exits(125)
        .says("every address of 10.7.0.0/30 is taken");
    let holder = host.spawn(&[
        "nsenter",
        &format!("--net={}", first.namespace().display()),
        "sleep",
        "60",
    ]);
    let name = format!("/proc/{}/ns/net", holder.pid());
    let of_host = fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    host.wait_for("the process in the namespace", || {
        (fs::read_link(&name).ok()? != of_host).then_some(())
    });
    first.delete(&host).ok();
    create(&host, &[])
        .exits(125)
        .says("every address of 10.7.0.0/30 is taken");
    holder.signal(nix::sys::signal::Signal::SIGKILL);
    let second = host.wait_for("the address", || {
        let made = create(&host, &[]);
        (made.code == 0).then(|| Net {
            document: made.json(),
        })
    });
    assert_eq!(second.address(), first.address());
}

#[test]
fn the_bridge_gets_the_first_subnet_that_the_host_does_not_use() {
    let host = Host::new();
    host.sh(
        "ip link add other type bridge; ip link set other up; ip route add 10.0.64.0/18 dev other; ip route add 0.0.0.0/1 dev other",
    )
    .ok();
    assert_eq!(Net::new(&host, &[]).address().octets()[..2], [10, 88]);
    let host = Host::new();
    host.sh(
        "ip link add other type bridge; ip link set other up; ip route add 10.0.0.0/8 dev other",
    )
    .ok();
    assert_eq!(Net::new(&host, &[]).address().octets()[..2], [172, 30]);
    let host = Host::new();
    host.sh("ip link add other type bridge; ip link set other up; ip address add 172.30.7.7/12 dev other; ip route add 10.0.0.0/8 dev other").ok();
    create(&host, &[])
        .exits(125)
        .says("in all of 10.0.0.0/16, 10.88.0.0/16, 172.30.0.0/16");
}

#[test]
fn gc_takes_what_is_old_and_of_its_own_root_and_nothing_else() {
    let host = Host::new();
    let ours = Net::new(&host, &["-p", "8080:80"]);
    let other_root = host.another_root("other");
    let argv = ["bocker-net", "create", "--new"];
    let theirs = host
        .call(&argv)
        .env("BOCKER_ROOT", &other_root)
        .run()
        .ok()
        .json();
    let gc = |options: &[&str]| {
        host.run(&[&["bocker-net", "gc"], options].concat())
            .ok()
            .json_lines()
    };
    assert!(gc(&[]).is_empty(), "ten minutes have not passed");
    let before = host.fingerprint();
    assert_eq!(gc(&["--grace", "0", "--dry-run"])[0]["removed"], false);
    host.assert_same(&before);
    let removed = gc(&["--grace", "0"]);
    assert_eq!(removed.len(), 1);
    assert_eq!(
        (&removed[0]["id"], &removed[0]["removed"]),
        (&json!(ours.id()), &json!(true))
    );
    // The namespace of what was removed may take a moment to end.
    let left = host.wait_for("the end of the interface", || {
        let left = host.run(&["bocker-net", "list"]).ok().json_lines();
        (left.len() == 1).then_some(left)
    });
    assert_eq!(left[0]["id"], theirs["bocker"]["id"]);
    assert_eq!(left[0]["root"], json!(other_root));

    host.run(&[
        "ip",
        "link",
        "add",
        "veth0_ps_nobody",
        "type",
        "veth",
        "peer",
        "name",
        "peer",
    ])
    .ok();
    assert!(gc(&["--grace", "0"]).is_empty());
    let orphans = gc(&["--grace", "0", "--orphans"]);
    assert_eq!(
        (&orphans[0]["id"], &orphans[0]["removed"]),
        (&json!("ps_nobody"), &json!(false))
    );
    host.run(&["ip", "link", "show", "veth0_ps_nobody"]).ok();
}

#[test]
fn a_container_that_is_started_again_gets_the_network_it_asked_for() {
    let host = Host::new();
    let first = Net::new(
        &host,
        &["-p", "8080:80", "--hostname", "web", "--dns", "192.0.2.53"],
    );
    let argv = ["bocker-net", "create"];
    host.call(&argv)
        .stdin(first.document.to_string())
        .run()
        .exits(125)
        .says("has a network already");
    // The claim of a stopped container stands; what is asked for stays in its document.
    let claim = Path::new("/run/bocker").join(first.id());
    host.run(&["bocker-net", "delete"]).exits(125);
    let keeper = claim.join("keeper");
    fs::write(&keeper, "").expect("write");
    first.delete(&host).ok();
    let again = host
        .call(&argv)
        .stdin(first.document.to_string())
        .run()
        .ok()
        .json();
    assert_eq!(again, first.document, "same ports, names and address");
}
