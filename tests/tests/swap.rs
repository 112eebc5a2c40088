//! Any piece can be swapped: each of the tools replaced by a shell script of a few lines, and bocker-spawn by runc and crun.

use bocker_tests::{Host, Image, Output, Registry, need};

/// Fetches with skopeo.
const PULL: &str = r#"#!/bin/sh -e
[ "$1" = pull ] && shift
for ref; do :; done
skopeo copy -q --insecure-policy --src-tls-verify=false "docker://$ref" "oci:$BOCKER_ROOT/images:$ref" >&2
echo "swapped pull" >&2
printf '{"bocker":{"version":1,"image":{"reference":"%s"}}}\n' "$ref"
"#;

/// A plain copy of a directory instead of an overlay.
const SNAP: &str = r#"#!/bin/sh -e
if [ "$1" = create ]; then
    id=ps_$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n')
    mkdir -p "$BOCKER_ROOT/containers/$id" "/run/bocker/$id"
    cp -a "$SWAPPED_ROOTFS" "$BOCKER_ROOT/containers/$id/rootfs"
    jq -nc --arg id "$id" --arg p "$BOCKER_ROOT/containers/$id/rootfs" '{bocker: {version: 1, id: $id}, root: {path: $p}}'
else
    doc=$(cat); id=$(printf %s "$doc" | jq -r .bocker.id)
    rm -rf "$BOCKER_ROOT/containers/$id" "/run/bocker/$id"; printf '%s\n' "$doc"
    exit "$(printf %s "$doc" | jq -r '.bocker.exit.code // .bocker.error.code // 0')"
fi
"#;

/// A namespace made with `ip netns`, with no interface but its own loopback.
const NET: &str = r#"#!/bin/sh -e
doc=$(cat); id=$(printf %s "$doc" | jq -r .bocker.id)
if [ "$1" = create ]; then
    ip netns add "$id"; ip -n "$id" link set lo up; ip -n "$id" link add swapped0 type bridge
    printf %s "$doc" | jq -c --arg p "/run/netns/$id" '.linux.namespaces += [{type: "network", path: $p}]'
else
    ip netns del "$id"; printf '%s\n' "$doc"
fi
"#;

/// One controller, by mkdir and echo.
const CG: &str = r#"#!/bin/sh -e
doc=$(cat); id=$(printf %s "$doc" | jq -r .bocker.id); dir=/sys/fs/cgroup/memory/$id
if [ "$1" = create ]; then
    mkdir "$dir"; echo 52428800 > "$dir/memory.limit_in_bytes"
    printf %s "$doc" | jq -c --arg d "$dir" '.bocker.cg = {version: 1, paths: {memory: $d}}'
else
    rmdir "$dir"; printf '%s\n' "$doc"
fi
"#;

/// runc on the rootfs, the network and the cgroup of the document.
const SPAWN: &str = r#"#!/bin/sh -e
doc=$(cat); id=$(printf %s "$doc" | jq -r .bocker.id)
while [ "$1" != -- ]; do shift; done; shift
bundle=$(mktemp -d)
printf %s "$doc" | "$REAL_SPAWN" spec -- "$@" > "$bundle/config.json"
code=0; runc --root "$bundle/state" run -b "$bundle" "$id" </dev/null >&4 || code=$?
rm -r "$bundle"
printf %s "$doc" | jq -c --argjson c "$code" '.bocker.exit = {code: $c, oom: false}'
exit "$code"
"#;

/// `bocker run --rm` with one piece swapped, on a machine that is then as it was.
fn run_with(host: &Host, variable: &str, text: &str, command: &str) -> Output {
    let rootfs = host.busybox_rootfs(variable);
    host.run(&["bocker", "system", "setup"]).ok();
    host.run(&[
        "bocker".as_ref(),
        "run".as_ref(),
        "--rm".as_ref(),
        "--rootfs".as_ref(),
        rootfs.as_os_str(),
        "true".as_ref(),
    ])
    .ok();
    // The first use of `ip netns` makes its folder a shared mount.
    host.sh("ip netns add first && ip netns del first").ok();
    let before = host.fingerprint();
    let output = host
        .call(&[
            "bocker".as_ref(),
            "run".as_ref(),
            "--rm".as_ref(),
            "--rootfs".as_ref(),
            rootfs.as_os_str(),
            "sh".as_ref(),
            "-c".as_ref(),
            command.as_ref(),
        ])
        .env(variable, host.script(&variable.to_lowercase(), text))
        .env("SWAPPED_ROOTFS", &rootfs)
        .env("REAL_SPAWN", host.bins().join("bocker-spawn"))
        .run();
    host.assert_same(&before);
    output
}

#[test]
fn bocker_pull_by_a_script() {
    if !need("jq skopeo") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::full(), "full:1");
    let script = host.script("pull", PULL);
    let output = host
        .call(&["bocker", "run", "--rm", &reference, "echo", "fetched"])
        .env("BOCKER_PULL", script)
        .run()
        .ok();
    assert!(output.stdout.ends_with("fetched\n"), "{output}");
    assert!(output.stderr.contains("swapped pull"), "{output}");
}

#[test]
fn bocker_snap_by_a_script() {
    if !need("jq") {
        return;
    }
    let host = Host::new();
    let output = run_with(
        &host,
        "BOCKER_SNAP",
        SNAP,
        "grep ' / ' /proc/mounts; exit 5",
    )
    .exits(5);
    assert!(!output.stdout.contains("overlay"), "{output}");
}

#[test]
fn bocker_net_by_a_script() {
    if !need("jq ip") {
        return;
    }
    let host = Host::new();
    let output = run_with(&host, "BOCKER_NET", NET, "ip -o link; exit 6").exits(6);
    assert!(
        output.stdout.contains("swapped0") && !output.stdout.contains("eth0"),
        "{output}"
    );
}

#[test]
fn bocker_cg_by_a_script() {
    if !need("jq") {
        return;
    }
    let host = Host::new();
    let output = run_with(
        &host,
        "BOCKER_CG",
        CG,
        "grep memory /proc/self/cgroup; cat /sys/fs/cgroup/memory/memory.limit_in_bytes; exit 7",
    )
    .exits(7);
    assert!(
        output.stdout.contains("/ps_") && output.stdout.contains("52428800"),
        "{output}"
    );
}

#[test]
fn bocker_spawn_by_runc() {
    if !need("jq runc") {
        return;
    }
    let host = Host::new();
    let output = run_with(&host, "BOCKER_SPAWN", SPAWN, LOOK).exits(8);
    assert_ran_on_ours(&output);
}

#[test]
fn bocker_spawn_by_crun() {
    if !need("jq crun") {
        return;
    }
    let host = Host::new();
    // crun refuses the hybrid tree of both cgroup versions.
    let crun = SPAWN.replace("runc --root \"$bundle/state\" run", "crun --root \"$bundle/state\" run").replace(
        "code=0; crun",
        "code=0; unshare --mount sh -c 'while umount /sys/fs/cgroup/unified; do :; done 2>/dev/null; exec \"$@\"' sh crun",
    );
    let output = run_with(&host, "BOCKER_SPAWN", &crun, LOOK).exits(8);
    assert_ran_on_ours(&output);
}

const LOOK: &str =
    "grep ' / ' /proc/mounts; ip -o -4 addr show eth0; grep memory /proc/self/cgroup; exit 8";

fn assert_ran_on_ours(output: &Output) {
    assert!(
        output.stdout.contains("overlay / overlay"),
        "our root: {output}"
    );
    assert!(output.stdout.contains("inet 10."), "our network: {output}");
    assert!(output.stdout.contains("/ps_"), "our cgroup: {output}");
}

#[test]
fn a_swapped_piece_is_shown_by_x_and_the_line_pastes() {
    if !need("jq ip") {
        return;
    }
    let host = Host::new();
    let rootfs = host.busybox_rootfs("rootfs").display().to_string();
    let net = host.script("net", NET);
    let shown = host
        .call(&[
            "bocker", "-x", "run", "--rm", "--rootfs", &rootfs, "ip", "-o", "link",
        ])
        .env("BOCKER_NET", &net)
        .run()
        .ok();
    let line = shown.stderr.lines().next().unwrap_or_default();
    assert!(line.contains(&net.display().to_string()), "{shown}");
    let pasted = host.sh(line).ok();
    assert_eq!(
        pasted.stdout.contains("swapped0"),
        shown.stdout.contains("swapped0")
    );
}
