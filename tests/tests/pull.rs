//! Images from a registry: a real one, one over TLS, and one that does every wrong thing there is.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bocker_tests::peer::{
    DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Peer, Reply, Request, Shelf, digest,
};
use bocker_tests::{Host, Hub, Image, Output, Registry, need};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Every file of the image store with its size and the time of its last change.
fn store(host: &Host) -> BTreeMap<String, (u64, Option<SystemTime>)> {
    let mut files = BTreeMap::new();
    collect(&host.root().join("images"), &mut files);
    files
}

fn collect(folder: &Path, files: &mut BTreeMap<String, (u64, Option<SystemTime>)>) {
    for entry in fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if let Ok(data) = entry.metadata() {
            files.insert(
                path.display().to_string(),
                (data.len(), data.modified().ok()),
            );
        }
    }
}

/// How many blobs there are.
fn blobs(host: &Host) -> usize {
    let held = |file: &&String| file.contains("/blobs/");
    store(host).keys().filter(held).count()
}

/// The digests of the blobs that are there in part, for the next pull.
fn parts(host: &Host) -> Vec<String> {
    let files = store(host).into_keys();
    let part = |file: String| Some(format!("sha256:{}", file.rsplit_once("/ingest/")?.1));
    files.filter_map(part).collect()
}

fn images(host: &Host) -> Vec<Value> {
    host.run(&["bocker-pull", "list"]).ok().json_lines()
}

fn pull(host: &Host, reference: &str) -> Output {
    host.run(&["bocker-pull", reference])
}

/// A pull that fails says why on stderr and in the document, and leaves no image and no blob.
#[track_caller]
fn refused(host: &Host, reference: &str, kind: &str, words: &str) {
    let output = host
        .run(&["bocker-pull", "--retries", "1", reference])
        .exits(125)
        .says(words);
    let error = &output.json()["bocker"]["error"];
    assert_eq!(
        (&error["stage"], &error["kind"]),
        (&json!("pull"), &json!(kind)),
        "{output}"
    );
    assert_eq!(output.json()["bocker"]["image"], Value::Null, "{output}");
    assert!(images(host).is_empty(), "an image was entered: {output}");
    assert_eq!(blobs(host), 0, "blobs were left: {output}");
    let notice = |line: &&str| line.ends_with("; trying again") || line.ends_with("asked again");
    let said = output.stderr.lines().filter(|line| !notice(line));
    let errors = said.filter(|line| line.starts_with("bocker-pull: "));
    assert_eq!(errors.count(), 1, "more than one line: {output}");
}

#[test]
fn an_image_is_pulled_into_a_layout_that_skopeo_reads() {
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::full(), "team/full:1");
    let document = pull(&host, &reference).ok().json();
    let image = &document["bocker"]["image"];
    assert_eq!(image["reference"], json!(reference));
    assert_eq!(image["config"]["Cmd"], json!(["cat", "hello"]));
    assert_eq!(image["config"]["StopSignal"], "SIGUSR1");
    assert_eq!(image["platform"]["os"], "linux");

    let source = format!("oci:{}:{reference}", host.root().join("images").display());
    let copy = format!("dir:{}", host.scratch().join("copy").display());
    host.run(&[
        "skopeo",
        "copy",
        "--quiet",
        "--insecure-policy",
        "--preserve-digests",
        &source,
        &copy,
    ])
    .ok();
    let manifest = fs::read(host.scratch().join("copy/manifest.json")).expect("the manifest");
    assert_eq!(
        image["digest"],
        json!(digest(&manifest)),
        "skopeo copied other bytes"
    );

    let listed = images(&host);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["id"], image["id"]);
    assert_eq!(listed[0]["reference"], json!(reference));
}

/// Bug 33 of the original: every pull stored a full copy.
#[test]
fn a_second_pull_downloads_nothing_and_a_second_tag_is_the_same_image() {
    let host = Host::new();
    let registry = Registry::start(&host);
    let one = registry.push(&Image::full(), "full:1");
    let two = registry.push(&Image::full(), "full:2");
    let first = pull(&host, &one).ok().json();
    let before = store(&host);
    let again = pull(&host, &one).ok();
    let id = first["bocker"]["image"]["id"].as_str().expect("an id");
    assert_eq!(again.stderr, format!("{id} {one} is up to date\n"));
    assert_eq!(again.json(), first);
    assert_eq!(
        store(&host),
        before,
        "a pull of nothing new wrote something"
    );
    let tag = pull(&host, &two).ok().json();
    assert_eq!(tag["bocker"]["image"]["id"], first["bocker"]["image"]["id"]);
    assert_eq!(images(&host).len(), 2);
}

#[test]
fn a_digest_is_pulled_as_well_as_a_tag() {
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::simple(), "simple:1");
    let tagged = pull(&host, &reference).ok().json();
    let wanted = tagged["bocker"]["image"]["digest"]
        .as_str()
        .expect("a digest");
    let name = format!("{}/simple", registry.address());
    for reference in [format!("{name}@{wanted}"), format!("{name}:other@{wanted}")] {
        let image = &pull(&host, &reference).ok().json()["bocker"]["image"];
        assert_eq!(image["digest"], json!(wanted));
        assert_eq!(image["reference"], json!(format!("{name}@{wanted}")));
    }
    let other = format!("{name}@{}", digest(b"nothing"));
    pull(&host, &other)
        .exits(125)
        .says(&format!("No image named '{other}' exists"));
}

#[test]
fn an_image_that_is_not_there_is_named_in_the_originals_words() {
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = format!("{}/nothing:7", registry.address());
    refused(
        &host,
        &reference,
        "not-found",
        &format!("No image named '{reference}' exists"),
    );
    assert!(!host.root().join("images").exists(), "looking made a store");
}

#[test]
fn the_hosts_platform_is_chosen_unless_another_is_named() {
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::two_platforms(), "two:1");
    let (own, other) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", "arm64"),
        _ => ("arm64", "amd64"),
    };
    let chosen = |options: &[&str]| {
        let argv = [&["bocker-pull", &reference], options].concat();
        host.run(&argv).ok().json()["bocker"]["image"].clone()
    };
    let image = chosen(&[]);
    assert_eq!(image["platform"]["architecture"], own);
    let image = chosen(&["--platform", &format!("linux/{other}")]);
    assert_eq!(image["platform"]["architecture"], other);
    host.run(&["bocker-pull", &reference, "--platform", "linux/riscv64"])
        .exits(125)
        .says("is not made for linux/riscv64; it is for linux/")
        .says("amd64")
        .says("arm64");
    host.run(&["bocker-pull", &reference, "--platform", "riscv64"])
        .exits(125)
        .says("not a platform");

    // The name is the last one's that was pulled; what it was before is still there, and the index is kept as it came.
    let listed = images(&host);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["reference"], Value::Null);
    assert_eq!(listed[1]["platform"], format!("linux/{other}"));
    let source = listed[1]["index"].as_str().expect("the index's digest");
    let blob = host
        .root()
        .join("images/blobs")
        .join(source.replace(':', "/"));
    assert_eq!(digest(&fs::read(blob).expect("the index")), source);
}

/// Bug 33 of the original: the dead protocol, and no defaults for what is left out.
#[test]
fn busybox_is_pulled_from_docker_hub_over_tls_by_the_line_that_people_type() {
    let host = Host::new();
    let hub = Hub::start(&host);
    let document = hub
        .trust(host.call(&["bocker-pull", "busybox:1"]))
        .run()
        .ok()
        .json();
    assert_eq!(
        document["bocker"]["image"]["reference"],
        "docker.io/library/busybox:1"
    );
    // A certificate that nobody vouches for is not believed, and --plain-http does not help where TLS is spoken.
    host.run(&["bocker-pull", "busybox:1"])
        .exits(125)
        .says("certificate")
        .says("SSL_CERT_FILE");
    host.run(&[
        "bocker-pull",
        "--plain-http",
        "registry-1.docker.io:443/library/busybox:1",
    ])
    .exits(125);
}

#[test]
fn plain_http_is_for_loopback_unless_it_is_asked_for() {
    if !need("nft") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::simple(), "simple:1");
    pull(&host, &reference).ok();
    pull(&host, &reference.replace("127.0.0.1", "localhost")).ok();
    // The same registry under an address that is not loopback's.
    host.sh("ip addr add 192.0.2.1/32 dev lo; nft 'add table ip t; add chain ip t out { type nat hook output priority -100 ; }; add rule ip t out ip daddr 192.0.2.1 dnat to 127.0.0.1'").ok();
    let elsewhere = reference.replace("127.0.0.1", "192.0.2.1");
    pull(&host, &elsewhere).exits(125).says("--plain-http");
    host.run(&["bocker-pull", "--plain-http", &elsewhere]).ok();
}

#[test]
fn a_machine_without_certificates_still_pulls_from_loopback_and_says_what_else_it_needs() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    let without = |reference: &str| {
        let call = host.call(&["bocker-pull", reference]);
        call.env("SSL_CERT_FILE", "/dev/null")
            .env("SSL_CERT_DIR", "/nowhere")
            .run()
    };
    without(&peer.image("x:1")).ok();
    without("registry.invalid/x:1")
        .exits(125)
        .says("ca-certificates");
}

/// Bug 31 of the original: the token was never renewed.
#[test]
fn a_token_is_fetched_when_asked_for_and_again_when_it_has_expired() {
    let host = Host::new();
    let issued = AtomicUsize::new(0);
    let shelf = Shelf::with_image();
    let upper = Shelf::layer("upper");
    let peer = shelf.serve(move |request, address| {
        if request.target.starts_with("/token?") {
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            let body = json!({"access_token": format!("t{number}"), "expires_in": 60});
            return Some(Reply::ok("application/json", body.to_string()));
        }
        // The first token is worth nothing any more when the upper layer is asked for.
        let good = match request.header("authorization") {
            Some("Bearer t1") => !request.target.ends_with(&upper),
            other => other.is_some(),
        };
        let challenge = format!(
            r#"Basic realm="x", Bearer realm="http://{address}/token?from=realm",service="a \"b\"",scope="repository:team/x:pull other:y:pull""#
        );
        (!good).then(|| Reply::status(401).header("WWW-Authenticate", &challenge))
    });
    pull(&host, &peer.image("team/x:1")).ok();
    let asked: Vec<String> = peer.requests().iter().map(|r| r.target.clone()).collect();
    let tokens: Vec<&String> = asked.iter().filter(|t| t.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 2, "{asked:?}");
    assert_eq!(
        tokens[0],
        "/token?from=realm&service=a+%22b%22&scope=repository%3Ateam%2Fx%3Apull&scope=other%3Ay%3Apull"
    );
    let naked = |r: &&Request| r.target.starts_with("/v2/") && r.header("authorization").is_none();
    assert_eq!(
        peer.requests().iter().filter(naked).count(),
        1,
        "one request finds out that a token is needed"
    );
}

#[test]
fn a_real_registry_that_wants_tokens_gets_them() {
    if !need("openssl") {
        return;
    }
    let host = Host::new();
    // The registry verifies what the token server signs: a JSON Web Token with its certificate in the header (RFC 7515).
    let token = host
        .sh(
            r#"set -e; cd "$(mktemp -d)"
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens -keyout key -out "$BOCKER_ROOT.crt" 2>/dev/null
            url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
            x5c=$(openssl x509 -in "$BOCKER_ROOT.crt" -outform der | openssl base64 -A)
            head=$(printf '{"typ":"JWT","alg":"RS256","x5c":["%s"]}' "$x5c" | url)
            now=$(date +%s)
            body=$(printf '{"iss":"me","sub":"","aud":"here","exp":%d,"nbf":%d,"iat":%d,"jti":"1","access":[{"type":"repository","name":"team/app","actions":["pull","push"]}]}' $((now+600)) $((now-10)) "$now" | url)
            sign=$(printf %s "$head.$body" | openssl dgst -sha256 -sign key | url)
            printf '{"token":"%s"}' "$head.$body.$sign""#,
        )
        .text();
    let tokens = Peer::start(move |_, _| Reply::ok("application/json", token.clone()));
    let registry = Registry::start_with(
        &host,
        5001,
        &format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: here\n    issuer: me\n    rootcertbundle: {}.crt\n",
            tokens.address(),
            host.root().display()
        ),
    );
    let reference = registry.push(&Image::full(), "team/app:1");
    pull(&host, &reference).ok();
    assert_eq!(images(&host).len(), 1);
    let asked = tokens
        .requests()
        .pop()
        .expect("a token was asked for")
        .target;
    assert_eq!(
        asked,
        "/token?service=here&scope=repository%3Ateam%2Fapp%3Apull"
    );
    // The token is for that repository alone.
    pull(&host, &reference.replace("app", "other"))
        .exits(125)
        .says("log in: bocker login 127.0.0.1:5001");
}

#[test]
fn what_needs_a_login_is_refused_by_saying_so() {
    let host = Host::new();
    let basic = Peer::start(|_, _| Reply::status(401).header("WWW-Authenticate", "Basic realm=x"));
    refused(
        &host,
        &basic.image("x:1"),
        "remote",
        "log in: bocker login 127.0.0.1:",
    );
    let bearer = Peer::start(|request, address| {
        if request.target.starts_with("/token") {
            return Reply::ok("application/json", r#"{"token":"anonymous"}"#);
        }
        Reply::status(401).header(
            "WWW-Authenticate",
            &format!("Bearer realm=\"http://{address}/token\""),
        )
    });
    refused(
        &host,
        &bearer.image("x:1"),
        "remote",
        "log in: bocker login 127.0.0.1:",
    );
    assert_eq!(
        bearer.count("/v2/"),
        2,
        "a refused token is not tried for ever"
    );
    assert_eq!(
        bearer.count("scope=repository%3Ax%3Apull"),
        1,
        "the usual scope"
    );
    let denied = Peer::start(|_, _| Reply::status(403));
    refused(
        &host,
        &denied.image("x:1"),
        "remote",
        "log in: bocker login 127.0.0.1:",
    );
}

#[test]
fn a_redirect_to_another_server_does_not_take_the_token_there() {
    let host = Host::new();
    let shelf = Shelf::with_image();
    let elsewhere = shelf.clone().serve(|_, _| None);
    let target = elsewhere.address();
    let peer = shelf.serve(move |request, address| {
        if request.target.starts_with("/token") {
            return Some(Reply::ok("application/json", r#"{"token":"secret"}"#));
        }
        if request.header("authorization").is_none() {
            let challenge = format!("Bearer realm=\"http://{address}/token\"");
            return Some(Reply::status(401).header("WWW-Authenticate", &challenge));
        }
        let away = format!("http://{target}{}?signature=x", request.target);
        request
            .target
            .contains("/blobs/")
            .then(|| Reply::status(307).header("Location", &away))
    });
    pull(&host, &peer.image("x:1")).ok();
    let there = elsewhere.requests();
    assert_eq!(there.len(), 3, "configuration and two layers");
    for request in there {
        assert_eq!(request.header("authorization"), None, "{request:?}");
        assert_eq!(request.header("referer"), None, "{request:?}");
    }
}

#[test]
fn another_server_cannot_ask_for_a_token_of_the_registrys() {
    let host = Host::new();
    let elsewhere = Peer::start(|_, address| {
        Reply::status(401).header(
            "WWW-Authenticate",
            &format!("Bearer realm=\"http://{address}/token\""),
        )
    });
    let target = elsewhere.address();
    let peer = Shelf::with_image().serve(move |request, _| {
        let away = format!("http://{target}{}", request.target);
        request
            .target
            .contains("/blobs/")
            .then(|| Reply::status(302).header("Location", &away))
    });
    refused(&host, &peer.image("x:1"), "remote", "bocker login");
    assert_eq!(elsewhere.count("/token"), 0);
}

#[test]
fn all_kinds_of_manifests_are_asked_for_and_nothing_compressed() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    pull(&host, &peer.image("x:1")).ok();
    let first = &peer.requests()[0];
    let accept = first.header("accept").unwrap_or_default().to_owned();
    for kind in [
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "distribution.manifest.list.v2",
        "distribution.manifest.v2",
    ] {
        assert!(accept.contains(kind), "{accept}");
    }
    for request in peer.requests() {
        assert_eq!(
            request.header("accept-encoding"),
            Some("identity"),
            "{request:?}"
        );
    }
}

#[test]
fn dockers_own_media_types_and_a_lying_digest_header_are_no_hindrance() {
    let host = Host::new();
    let mut shelf = Shelf::default();
    let mut manifest = shelf.image("amd64", DOCKER_MANIFEST);
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    for layer in manifest["layers"].as_array_mut().expect("layers") {
        layer["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    }
    let descriptor = shelf.manifest("1", DOCKER_MANIFEST, &manifest);
    let bytes = manifest.to_string();
    let peer = shelf.serve(move |request, _| {
        let kind = format!("{DOCKER_MANIFEST}; charset=utf-8");
        let lie =
            || Reply::ok(&kind, bytes.clone()).header("Docker-Content-Digest", &digest(b"lie"));
        request.target.contains("/manifests/").then(lie)
    });
    let image = &pull(&host, &peer.image("x:1")).ok().json()["bocker"]["image"];
    assert_eq!(image["digest"], descriptor["digest"]);
}

#[test]
fn attestations_are_passed_over_and_nested_indexes_followed() {
    let host = Host::new();
    let mut shelf = Shelf::default();
    let image = shelf.image("amd64", OCI_MANIFEST);
    let mut wanted = shelf.manifest("inner", OCI_MANIFEST, &image);
    wanted["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut attestation = shelf.manifest(
        "attestation",
        OCI_MANIFEST,
        &json!({"schemaVersion": 2, "layers": []}),
    );
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let inner =
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [attestation, wanted]});
    let inner = shelf.manifest("index", OCI_INDEX, &inner);
    let outer =
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [attestation, inner]});
    let outer = shelf.manifest("1", OCI_INDEX, &outer);
    // One that leads to itself cannot exist, since it would have to hold its own digest; a long chain can.
    let mut chain = wanted.clone();
    for depth in 0..9 {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "depth": depth, "manifests": [chain]});
        chain = shelf.manifest("deep", OCI_INDEX, &index);
    }
    let peer = shelf.serve(|_, _| None);
    refused(&host, &peer.image("x:deep"), "remote", "nests indexes");
    let image = pull(&host, &peer.image("x:1")).ok().json()["bocker"]["image"].clone();
    assert_eq!(image["digest"], wanted["digest"]);
    assert_eq!(images(&host)[0]["index"], outer["digest"]);
}

/// Bug 31 of the original: what came was taken as it was, error pages included.
#[test]
fn whatever_is_not_what_its_digest_says_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let shelf = Shelf::with_image();
    let (manifest_digest, _) = shelf
        .manifests
        .iter()
        .find(|(name, _)| name.len() > 9)
        .expect("one");
    let by_digest = format!("x@{manifest_digest}");
    let upper = Shelf::layer("upper");

    let wrong = |part: &'static str, spoil: fn(Reply) -> Reply| {
        let shelf = shelf.clone();
        let inner = shelf.clone();
        shelf.serve(move |request, _| {
            request
                .target
                .contains(part)
                .then(|| spoil(inner.answer(request)))
        })
    };
    let flip = |mut reply: Reply| {
        if let Some(byte) = reply.body.last_mut() {
            *byte ^= 1;
        }
        reply
    };
    let manifest = wrong("/manifests/", |mut reply| {
        reply.body.push(b'\n');
        reply
    });
    refused(
        &host,
        &manifest.image(&by_digest),
        "remote",
        "when asked for sha256:",
    );
    let config = wrong("/blobs/", flip);
    refused(
        &host,
        &config.image("x:1"),
        "remote",
        "sent something else when asked for the blob",
    );

    let spoilt = |spoil: fn(Reply) -> Reply| {
        let (shelf, upper) = (shelf.clone(), upper.clone());
        let inner = shelf.clone();
        shelf.serve(move |request, _| {
            request
                .target
                .ends_with(&upper)
                .then(|| spoil(inner.answer(request)))
        })
    };
    refused(
        &host,
        &spoilt(flip).image("x:1"),
        "remote",
        "is not what was sent",
    );
    let longer = spoilt(|mut reply| {
        reply.body.push(0);
        reply
    });
    refused(
        &host,
        &longer.image("x:1"),
        "remote",
        "sent more than the 11000 bytes",
    );
    let shorter = spoilt(|mut reply| {
        reply.body.pop();
        reply
    });
    refused(
        &host,
        &shorter.image("x:1"),
        "remote",
        "should have 11000 bytes, but 10999 came",
    );
    let torn = spoilt(|mut reply| {
        reply.body.truncate(5000);
        reply.missing = 6000;
        reply
    });
    refused(
        &host,
        &torn.image("x:1"),
        "remote",
        "cannot talk to the registry",
    );
    refused(
        &host,
        &spoilt(|_| Reply::status(404)).image("x:1"),
        "remote",
        "does not have the blob",
    );
    let broken = spoilt(|_| {
        Reply::status(500)
            .body(*br#"{"errors":[{"code":"UNKNOWN","message":"disk\u001b[2J\non fire"}]}"#)
    });
    refused(
        &host,
        &broken.image("x:1"),
        "remote",
        r"answered 500: disk\u{1b}[2J\non fire",
    );
}

#[test]
fn what_is_no_image_is_refused_by_saying_what_it_is() {
    let host = Host::new();
    let mut shelf = Shelf::default();
    let good = shelf.image("amd64", OCI_MANIFEST);
    let mut put = |tag: &str, kind: &str, change: &dyn Fn(&mut Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        shelf.manifest(tag, kind, &manifest);
    };
    put(
        "schema1",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        &|_| {},
    );
    put("both", OCI_MANIFEST, &|m| m["manifests"] = json!([]));
    put("liar", OCI_INDEX, &|_| {});
    put("inside", "application/json", &|m| {
        m["mediaType"] = json!("application/x-other")
    });
    put("chart", OCI_MANIFEST, &|m| {
        m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
    });
    put("odd", OCI_MANIFEST, &|m| {
        m["layers"][0]["mediaType"] = json!("text/x-shellscript")
    });
    put("fewer", OCI_MANIFEST, &|m| {
        m["layers"] = json!([m["layers"][0]])
    });
    put("path", OCI_MANIFEST, &|m| {
        m["layers"][0]["digest"] = json!("sha256:../../../etc/shadow")
    });
    put("sizes", OCI_MANIFEST, &|m| {
        m["layers"][0]["size"] = json!(u64::MAX);
    });
    put("negative", OCI_MANIFEST, &|m| {
        m["layers"][0]["size"] = json!(-1)
    });
    put("large", OCI_MANIFEST, &|m| {
        m["padding"] = json!("x".repeat(5 << 20))
    });
    let none = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
    shelf.manifest("none", OCI_INDEX, &none);
    shelf
        .manifests
        .insert("html".into(), ("text/html".into(), b"<html>".to_vec()));
    let peer = shelf.serve(|_, _| None);
    for (tag, kind, words) in [
        ("schema1", "unsupported", "old schema 1"),
        ("both", "remote", "contradicts itself"),
        ("liar", "remote", "contradicts itself"),
        ("inside", "unsupported", "application/x-other"),
        (
            "chart",
            "unsupported",
            "not a container image: it consists of 'application/vnd.cncf.helm",
        ),
        ("odd", "unsupported", "text/x-shellscript"),
        (
            "fewer",
            "remote",
            "an image of 1 layers whose configuration knows 2",
        ),
        ("path", "remote", "not a digest"),
        ("sizes", "remote", "absurd sizes"),
        ("negative", "remote", "cannot be read"),
        ("large", "remote", "a manifest of more than 4194304 bytes"),
        ("none", "not-found", "is not made for linux/"),
        ("html", "remote", "cannot be read"),
    ] {
        refused(&host, &peer.image(&format!("x:{tag}")), kind, words);
    }
}

#[test]
fn a_token_without_end_is_not_read() {
    let host = Host::new();
    let peer = Peer::start(|request, address| {
        if request.target.starts_with("/token") {
            return Reply::ok("application/json", vec![b' '; 2 << 20]);
        }
        Reply::status(401).header(
            "WWW-Authenticate",
            &format!("Bearer realm=\"http://{address}/token\""),
        )
    });
    refused(
        &host,
        &peer.image("x:1"),
        "remote",
        "a token of more than 1048576 bytes",
    );
}

#[test]
fn a_registry_that_has_enough_is_obeyed() {
    let host = Host::new();
    let peer = Peer::start(|_, _| Reply::status(429).header("Retry-After", "30"));
    refused(
        &host,
        &peer.image("x:1"),
        "remote",
        "try again in 30 seconds",
    );
    assert_eq!(peer.requests().len(), 1);
}

#[test]
fn an_image_for_another_machine_is_pulled_with_a_warning_unless_the_platform_was_named() {
    let host = Host::new();
    let mut shelf = Shelf::default();
    let manifest = shelf.image("s390x", OCI_MANIFEST);
    shelf.manifest("1", OCI_MANIFEST, &manifest);
    let peer = shelf.serve(|_, _| None);
    let reference = peer.image("x:1");
    host.run(&["bocker-pull", "--platform", "linux/amd64", &reference])
        .exits(125)
        .says("it is for linux/s390x");
    pull(&host, &reference)
        .ok()
        .says("is made for linux/s390x, this host is linux/");
}

#[test]
fn ctrl_c_ends_a_pull_at_once_though_the_registry_is_silent() {
    let host = Host::new();
    let upper = Shelf::layer("upper");
    let peer = Shelf::with_image().serve(move |request, _| {
        let silent = Reply {
            body: vec![0; 10],
            missing: 10_990,
            stall: true,
            ..Reply::status(200)
        };
        request.target.ends_with(&upper).then_some(silent)
    });
    let pull = host.spawn(&["bocker-pull", &peer.image("x:1")]);
    host.wait_for("the layer is on its way", || {
        let half = |(file, (size, _)): (String, (u64, _))| file.contains("/ingest/") && size == 10;
        store(&host).into_iter().any(half).then_some(())
    });
    let asked = Instant::now();
    pull.signal_group(Signal::SIGINT);
    let output = pull.wait().exits(130);
    assert!(asked.elapsed() < Duration::from_secs(2), "{output}");
    assert_eq!(output.json()["bocker"]["error"]["code"], 130);
    assert!(images(&host).is_empty());
    assert_eq!(blobs(&host), 0, "{:?}", store(&host));
    let upper = Shelf::layer("upper");
    assert!(parts(&host).contains(&upper), "the next goes on there");
}

#[test]
fn a_signal_ends_the_question_too_what_there_is() {
    let host = Host::new();
    let peer = Peer::start(|_, _| Reply {
        missing: 1,
        stall: true,
        ..Reply::status(200)
    });
    let pull = host.spawn(&["bocker-pull", &peer.image("x:1")]);
    host.wait_for("the registry is asked", || {
        (!peer.requests().is_empty()).then_some(())
    });
    let asked = Instant::now();
    pull.signal(Signal::SIGTERM);
    let output = pull.wait().exits(143);
    assert!(asked.elapsed() < Duration::from_secs(2), "{output}");
    assert!(store(&host).is_empty(), "{:?}", store(&host));
}

#[test]
fn a_document_is_added_to_and_one_with_an_error_is_passed_on() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    let reference = peer.image("x:1");
    let through = |document: &str| {
        host.call(&["bocker-pull", "-", &reference])
            .stdin(document)
            .run()
    };
    let failed =
        r#"{"bocker":{"version":1,"error":{"stage":"a","code":127,"message":"m"}},"x":1.50}"#;
    let passed = through(failed).exits(127);
    let expected: Value = serde_json::from_str(failed).expect("JSON");
    for member in ["bocker", "x"] {
        assert_eq!(passed.json()[member], expected[member]);
    }
    assert_eq!((passed.stderr.as_str(), peer.requests().len()), ("", 0));
    through("no document").exits(125);
    let document = through(r#"{"theirs":[1],"bocker":{"version":1,"name":"web"}}"#)
        .ok()
        .json();
    assert_eq!(
        (&document["theirs"], &document["bocker"]["name"]),
        (&json!([1]), &json!("web"))
    );
    assert_eq!(document["bocker"]["image"]["reference"], json!(reference));
}

/// Bugs 18 and 31 of the original: half a pull was called `Created`, and its files stayed.
#[test]
fn a_pull_that_fails_after_any_step_is_taken_back() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    let reference = peer.image("x:1");
    for step in ["pull.store", "pull.blob", "pull.manifest", "pull.index"] {
        let failed = host
            .call(&["bocker-pull", &reference])
            .env("BOCKER_FAIL_AT", step)
            .run()
            .exits(125);
        assert_eq!(
            failed.json()["bocker"]["error"]["kind"],
            "injected",
            "{failed}"
        );
        assert!(images(&host).is_empty(), "{step}");
        assert_eq!(blobs(&host), 0, "{step}: {:?}", store(&host));
    }
    // What was fetched of the layers is not fetched again.
    let layers = ["lower", "upper"].map(Shelf::layer);
    let fetched = || layers.each_ref().map(|layer| peer.count(layer));
    let before = fetched();
    assert_eq!(parts(&host).len(), 2, "{:?}", store(&host));
    // Nor does anything change that was there before.
    pull(&host, &reference).ok();
    assert_eq!(fetched(), before);
    assert_eq!(parts(&host), [""; 0]);
    let before = (images(&host), blobs(&host));
    for step in ["pull.store", "pull.blob", "pull.manifest", "pull.index"] {
        host.call(&["bocker-pull", &reference])
            .env("BOCKER_FAIL_AT", step)
            .run()
            .exits(125);
        assert_eq!((images(&host), blobs(&host)), before, "{step}");
    }
}

#[test]
fn a_name_that_moves_on_is_moved_back_when_the_pull_fails() {
    if !need("curl") {
        return;
    }
    let host = Host::new();
    let old = Shelf::with_image();
    let mut new = old.clone();
    let mut manifest = new.image("amd64", OCI_MANIFEST);
    manifest["annotations"] = json!({"is": "new"});
    new.manifest("1", OCI_MANIFEST, &manifest);
    let moved = AtomicUsize::new(0);
    let peer = Peer::start(move |request, _| match request.target.as_str() {
        "/move" => {
            moved.store(1, Ordering::SeqCst);
            Reply::status(200)
        }
        _ if moved.load(Ordering::SeqCst) == 1 => new.answer(request),
        _ => old.answer(request),
    });
    let reference = peer.image("x:1");
    pull(&host, &reference).ok();
    let before = images(&host);
    host.run(&["curl", "-fsS", &format!("http://{}/move", peer.address())])
        .ok();
    host.call(&["bocker-pull", &reference])
        .env("BOCKER_FAIL_AT", "pull.index")
        .run()
        .exits(125);
    assert_eq!(images(&host), before);
    pull(&host, &reference).ok();
    let after = images(&host);
    assert_eq!(
        after.len(),
        2,
        "the former image is still there, without its name: {after:?}"
    );
    assert_eq!(
        (&after[0]["id"], &after[0]["reference"]),
        (&before[0]["id"], &Value::Null)
    );
}

#[test]
fn a_killed_pull_shows_nothing_and_gc_removes_what_it_left() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    let reference = peer.image("x:1");
    for step in ["pull.store", "pull.blob", "pull.manifest"] {
        host.call(&["bocker-pull", &reference])
            .env("BOCKER_FAIL_AT", format!("kill:{step}"))
            .run()
            .exits(137);
        assert!(images(&host).is_empty(), "{step}");
        let held = |host: &Host| blobs(host) + parts(host).len();
        let left = held(&host);
        host.run(&["bocker-pull", "gc"]).ok();
        assert_eq!(held(&host), left, "{step}: what is young was removed");
        let planned = host
            .run(&["bocker-pull", "gc", "--grace", "0", "--dry-run"])
            .ok()
            .stdout;
        assert_eq!(held(&host), left, "{step}: a dry run removed something");
        let removed = host.run(&["bocker-pull", "gc", "--grace", "0"]).ok();
        assert_eq!(removed.stdout, planned, "{step}");
        assert_eq!(removed.json_lines().len(), left, "{step}");
        assert_eq!(held(&host), 0, "{step}");
    }
    host.call(&["bocker-pull", &reference])
        .env("BOCKER_FAIL_AT", "kill:pull.index")
        .run()
        .exits(137);
    assert_eq!(
        images(&host).len(),
        1,
        "after its last step the image is there"
    );
    assert_eq!(
        host.run(&["bocker-pull", "gc", "--grace", "0"]).ok().stdout,
        ""
    );
    pull(&host, &reference).ok().says("up to date");
}

#[test]
fn a_killed_download_is_begun_anew_by_the_next_pull() {
    let host = Host::new();
    let upper = Shelf::layer("upper");
    let silent = AtomicUsize::new(0);
    let peer = Shelf::with_image().serve(move |request, _| {
        let first = request.target.ends_with(&upper) && silent.fetch_add(1, Ordering::SeqCst) == 0;
        first.then(|| Reply {
            body: vec![7; 10],
            missing: 10_990,
            stall: true,
            ..Reply::status(200)
        })
    });
    let reference = peer.image("x:1");
    let killed = host.spawn(&["bocker-pull", &reference]);
    let half = |(file, (size, _)): (String, (u64, _))| file.contains("/ingest/") && size == 10;
    host.wait_for("the layer is on its way", || {
        store(&host).into_iter().any(half).then_some(())
    });
    let alive = host.run(&["bocker-pull", "gc", "--grace", "0"]).ok();
    assert_eq!(alive.stdout, "", "gc took from a pull that lives");
    killed.signal_group(Signal::SIGKILL);
    killed.wait().exits(137);
    assert!(
        store(&host).into_iter().any(half),
        "nothing was left to begin anew"
    );
    pull(&host, &reference).ok();
    assert_eq!(
        store(&host)
            .keys()
            .filter(|f| f.contains("/ingest/"))
            .count(),
        0
    );
}

#[test]
fn two_pulls_of_one_image_at_once_download_each_blob_once() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|request, _| {
        if request.target.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(300));
        }
        None
    });
    let reference = peer.image("x:1");
    let pulls: Vec<_> = (0..4)
        .map(|_| host.spawn(&["bocker-pull", &reference]))
        .collect();
    let ids: Vec<Value> = pulls
        .into_iter()
        .map(|p| p.wait().ok().json()["bocker"]["image"]["id"].clone())
        .collect();
    assert!(ids.iter().all(|id| id == &ids[0]), "{ids:?}");
    assert_eq!(images(&host).len(), 1);
    for layer in ["lower", "upper"] {
        assert_eq!(peer.count(&Shelf::layer(layer)), 1, "{layer}");
    }
}

#[test]
fn a_pull_that_fails_takes_nothing_that_another_writer_may_count_on() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    let reference = peer.image("x:1");
    let fail = || {
        let call = host
            .call(&["bocker-pull", &reference])
            .env("BOCKER_FAIL_AT", "pull.index");
        call.run().exits(125)
    };
    fail();
    assert_eq!(blobs(&host), 0);
    let another = host.spawn(&[
        "sh",
        "-c",
        "exec flock --shared $BOCKER_ROOT/images/writers sleep 60",
    ]);
    let held = "! flock --exclusive --nonblock $BOCKER_ROOT/images/writers true";
    host.wait_for("the other writer is at work", || {
        (host.sh(held).code == 0).then_some(())
    });
    fail();
    assert_eq!(blobs(&host), 4, "{:?}", store(&host));
    let gc = || {
        host.run(&["bocker-pull", "gc", "--grace", "0"])
            .ok()
            .json_lines()
            .len()
    };
    assert_eq!(gc(), 0);
    another.signal_group(Signal::SIGKILL);
    another.wait();
    assert_eq!(gc(), 4);
}

#[test]
fn a_document_that_nobody_reads_takes_the_image_back() {
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    let script = format!(
        "{{ bocker-pull {} 2>&1 1>&3 3>&-; echo code $? ; }} 3>&1 >&2 | true",
        peer.image("x:1")
    );
    host.sh(&script).says("code 125");
    assert!(images(&host).is_empty());
    assert_eq!(blobs(&host), 0);
}

#[test]
fn a_dry_run_changes_nothing_and_its_lines_typed_by_hand_fetch_the_same_blobs() {
    if !need("curl jq") {
        return;
    }
    let host = Host::new();
    let peer = Shelf::with_image().serve(|request, address| {
        if request.target.starts_with("/token") {
            return Some(Reply::ok("application/json", r#"{"token":"t"}"#));
        }
        let challenge = format!("Bearer realm=\"http://{address}/token\"");
        let naked = request.header("authorization") != Some("Bearer t");
        naked.then(|| Reply::status(401).header("WWW-Authenticate", &challenge))
    });
    let reference = peer.image("x:1");
    let planned = host
        .run(&["bocker-pull", "--dry-run", "-q", &reference])
        .ok();
    assert!(store(&host).is_empty(), "{:?}", store(&host));
    assert_eq!(planned.json()["bocker"]["dry_run"], true);
    let lines: Vec<&str> = planned
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("+ "))
        .collect();
    host.sh(&format!("set -e\n{}", lines.join("\n"))).ok();
    let names = |host: &Host| -> Vec<String> {
        store(host)
            .into_keys()
            .filter(|f| f.contains("/blobs/"))
            .collect()
    };
    let by_hand = names(&host);
    host.sh("rm -r $BOCKER_ROOT").ok();
    let document = host.run(&["bocker-pull", "-v", "-q", &reference]).ok();
    assert_eq!(names(&host), by_hand);
    assert_eq!(
        document.json()["bocker"]["image"],
        planned.json()["bocker"]["image"]
    );
    assert_eq!(
        document.stderr, planned.stderr,
        "-v says what --dry-run says"
    );
}

#[test]
fn a_proxy_of_the_environment_is_used_but_not_for_loopback() {
    let host = Host::new();
    let shelf = Shelf::with_image();
    let proxy = shelf.clone().serve(|_, _| None);
    let registry = shelf.serve(|_, _| None);
    let through = |argv: &[&str]| {
        let address = format!("http://{}", proxy.address());
        host.call(argv)
            .env("http_proxy", &address)
            .env("HTTP_PROXY", &address)
            .run()
            .ok();
    };
    through(&["bocker-pull", &registry.image("x:1")]);
    assert_eq!(proxy.requests().len(), 0);
    through(&["bocker-pull", "--plain-http", "registry.invalid/y:1"]);
    assert!(
        proxy.requests()[0]
            .target
            .starts_with("http://registry.invalid/v2/y/"),
        "{:?}",
        proxy.requests()
    );
}

#[test]
fn a_name_that_nobody_knows_is_said_to_be_so() {
    let host = Host::new();
    refused(
        &host,
        "registry.invalid/x:1",
        "remote",
        "the name 'registry.invalid' cannot be resolved",
    );
}

#[test]
fn an_image_cannot_set_what_a_terminal_shows() {
    let host = Host::new();
    let mut shelf = Shelf::default();
    let manifest = shelf.image("evil\u{1b}[2J\n", OCI_MANIFEST);
    shelf.manifest("1", OCI_MANIFEST, &manifest);
    let peer = shelf.serve(|_, _| None);
    let output = pull(&host, &peer.image("x:1"))
        .ok()
        .says("is made for linux/evil");
    assert!(!output.stderr.contains('\u{1b}'), "{output}");
}

/// What one who sits at a terminal of so many columns has seen, screen by screen, while `line` ran. Rows that are
/// empty are left out. What `keys` prints is typed.
fn screens(host: &Host, columns: u16, line: &str, keys: &str) -> Vec<String> {
    let rows = 24;
    let line =
        format!("({keys}) | script -qec 'stty rows {rows} cols {columns}; {line}' /dev/null");
    let output = host.call(&["sh", "-c", &line]).env("TERM", "xterm").run();
    let size = |number| NonZero::new(number).expect("a size");
    let mut terminal = vt100::Parser::new(size(rows), size(columns), 0);
    let mut seen = Vec::new();
    for byte in output.stdout.bytes() {
        terminal.process(&[byte]);
        let rows = terminal.screen().rows(0, columns);
        let rows = rows.map(|row| row.trim_end().to_owned());
        let rows: Vec<String> = rows.filter(|row| !row.is_empty()).collect();
        seen.push(rows.join("\n"));
    }
    seen.dedup();
    seen
}

/// A peer that takes its time for each layer.
fn slow_peer() -> Peer {
    Shelf::with_image().serve(|request, _| {
        if request.target.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(300));
        }
        None
    })
}

#[test]
fn a_terminal_shows_a_bar_for_each_layer_and_for_all_and_none_is_left() {
    if !need("script") {
        return;
    }
    let host = Host::new();
    let peer = slow_peer();
    let layers =
        ["lower", "upper"].map(|name| Shelf::layer(name)["sha256:".len()..][..12].to_owned());
    for columns in [200, 80, 64, 63, 36] {
        host.sh("rm -rf $BOCKER_ROOT").ok();
        let reference = peer.image("z:1");
        let line = format!("bocker-pull {reference} >/dev/null");
        let seen = screens(&host, columns, &line, ":");
        let whole = |screen: &&String| {
            layers.iter().all(|layer| screen.contains(layer)) && screen.contains("0/2 layers")
        };
        let during = seen.iter().rfind(whole);
        let during = during.unwrap_or_else(|| panic!("{columns} columns: {seen:#?}"));
        let total = during.lines().last().unwrap_or_default();
        assert!(
            during.lines().count() == 3
                && total.starts_with("0/2 layers")
                && total.contains("B/s")
                && total.ends_with('s'),
            "{columns} columns:\n{during}"
        );
        assert_eq!(total.contains(" of 22.00 kB"), columns >= 64, "{during}");
        let end = seen.last().expect("a screen").replace(['\n', ' '], "");
        let said = format!("{reference}(22.00kB)");
        assert!(
            end.starts_with("img_")
                && end.len() == "img_000000".len() + said.len()
                && end.ends_with(&said),
            "{columns} columns:\n{end}"
        );
    }
}

#[test]
fn a_pull_that_is_interrupted_leaves_no_bar_on_the_terminal() {
    if !need("script") {
        return;
    }
    let host = Host::new();
    let peer = Shelf::with_image().serve(|request, _| {
        let silent = Reply {
            body: vec![0; 10],
            missing: 10_990,
            stall: true,
            ..Reply::status(200)
        };
        let layers = ["lower", "upper"].map(Shelf::layer);
        layers
            .iter()
            .any(|layer| request.target.ends_with(layer))
            .then_some(silent)
    });
    let line = format!(
        "trap : INT; bocker-pull {} >/dev/null; echo after",
        peer.image("x:1")
    );
    for columns in [80, 40] {
        let seen = screens(&host, columns, &line, "sleep 1; printf \"\\003\"; sleep 1");
        let bars = |screen: &String| screen.contains("0/2 layers") && screen.lines().count() == 3;
        assert!(seen.iter().any(bars), "{seen:#?}");
        assert!(seen.iter().any(|screen| screen.contains("^C")), "{seen:#?}");
        assert_eq!(
            seen.last().expect("a screen"),
            "bocker-pull: interrupted by SIGINT\nafter"
        );
    }
}

#[test]
fn bars_are_for_terminals_that_can_draw_them_and_quiet_is_quiet() {
    if !need("script") {
        return;
    }
    let host = Host::new();
    let peer = slow_peer();
    let quiet = format!("bocker-pull --quiet {} 2>&1 >/dev/null", peer.image("x:1"));
    assert_eq!(host.sh(&quiet).ok().stdout, "");
    host.sh("rm -r $BOCKER_ROOT").ok();
    assert_eq!(screens(&host, 80, &quiet, ":").concat(), "");
    host.sh("rm -r $BOCKER_ROOT").ok();
    let lines = pull(&host, &peer.image("y:1")).ok();
    assert_eq!(lines.stderr.lines().count(), 3, "{lines}");
    assert!(!lines.stderr.contains(['\r', '\u{1b}']), "{lines}");
    // The layers end in any order.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for terminal in ["export TERM=dumb", "export TERM=xterm; stty cols 35"] {
        host.sh("rm -r $BOCKER_ROOT").ok();
        let line = format!("{terminal}; bocker-pull {} >/dev/null", peer.image("y:1"));
        let shown = host.run(&["script", "-qec", &line, "/dev/null"]).ok();
        assert_eq!(sorted(&shown.stdout), sorted(&lines.stderr), "{terminal}");
    }
}

#[test]
fn wrong_usage_is_one_line_and_125() {
    let host = Host::new();
    for (argv, words) in [
        (&["bocker-pull", "pull"][..], "no image was named"),
        (&["bocker-pull", "a", "b"], "unexpected argument 'b'"),
        (&["bocker-pull", "--push", "a"], "unknown option '--push'"),
        (&["bocker-pull", "A"], "must be in lower case"),
        (&["bocker-pull", "http://a/b"], "is not an image reference"),
        (
            &["bocker-pull", "a@sha512:00"],
            "the only algorithm supported",
        ),
        (
            &["bocker-pull", "gc", "--grace", "1m"],
            "'1m' is not a number",
        ),
        (&["bocker-pull", "list", "x"], "No image named 'x' exists"),
        (
            &["bocker-pull", "--timeout", "0", "a"],
            "--timeout is at least 1",
        ),
        (
            &["bocker-pull", "--mirror", "ftp://x", "a"],
            "'ftp://x' is no mirror",
        ),
        (
            &["bocker-pull", "127.0.0.1:1/a"],
            "cannot talk to the registry 127.0.0.1:1: Connection refused; check name and port",
        ),
        (
            &["bocker-pull", "load", "-i", "/bin/busybox"],
            "is it a tar archive?",
        ),
        (&["bocker-pull", "login", "-u", "a"], "--password-stdin"),
    ] {
        let output = host.run(argv).exits(125).says(words);
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
    }
    let help = host.run(&["bocker-pull", "--help"]).ok().stdout;
    assert!(
        help.lines().count() <= 32 && help.lines().all(|line| line.chars().count() <= 80),
        "{help}"
    );
    host.run(&["bocker-pull", "--version"]).ok();
}

#[test]
fn skopeo_and_bocker_share_the_store_and_keep_each_others_entries() {
    if !need("skopeo") {
        return;
    }
    let host = Host::new();
    let peer = Shelf::with_image().serve(|_, _| None);
    pull(&host, &peer.image("x:1")).ok();
    let ours = images(&host);
    let image = Image::simple();
    let source = format!("oci:{}", image.layout().display());
    let target = format!("oci:{}:BySkopeo", host.root().join("images").display());
    host.run(&[
        "skopeo",
        "copy",
        "--quiet",
        "--insecure-policy",
        "--preserve-digests",
        &source,
        &target,
    ])
    .ok();
    pull(&host, &peer.image("y:1")).ok();
    let listed = images(&host);
    assert_eq!(listed[0], ours[0]);
    assert_eq!(listed[1]["reference"], "BySkopeo");
    assert_eq!(listed[2]["id"], ours[0]["id"]);
    let id = listed[1]["id"].as_str().unwrap_or_default();
    let derived = &listed[1]["digest"].as_str().unwrap_or_default()["sha256:".len()..][..6];
    assert_eq!(id, format!("img_{derived}"));
    assert_eq!(
        host.run(&["bocker-pull", "gc", "--grace", "0"]).ok().stdout,
        ""
    );
}

#[test]
fn a_pull_killed_at_any_moment_leaves_only_whole_blobs_and_whole_images() {
    let host = Host::new();
    let registry = Registry::start(&host);
    let reference = registry.push(&Image::full(), "full:1");
    let mut interrupted = 0;
    for delay in 0..40 {
        let running = host.spawn(&["bocker-pull", "-q", &reference]);
        std::thread::sleep(Duration::from_micros(500 * delay));
        running.signal_group(Signal::SIGKILL);
        if running.wait().code == 137 {
            interrupted += 1;
        }
        let folder = host.root().join("images/blobs/sha256");
        for file in fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            let name = format!("sha256:{}", file.file_name().display());
            assert_eq!(digest(&fs::read(file.path()).expect("a blob")), name);
        }
        // An image that is listed can be read whole: skopeo checks every digest on the way.
        for image in images(&host) {
            let source = format!("oci:{}:{reference}", host.root().join("images").display());
            let copy = format!("dir:{}", host.scratch().join("copy").display());
            host.run(&[
                "skopeo",
                "copy",
                "--quiet",
                "--insecure-policy",
                &source,
                &copy,
            ])
            .ok();
            assert_eq!(image["reference"], json!(reference));
        }
        if delay % 5 == 0 {
            host.sh("rm -rf $BOCKER_ROOT/images").ok();
        }
    }
    assert!(
        interrupted > 5,
        "only {interrupted} pulls were killed before their end"
    );
    pull(&host, &reference).ok();
    host.run(&["bocker-pull", "gc", "--grace", "0"]).ok();
    assert_eq!(
        store(&host)
            .keys()
            .filter(|f| f.contains("/ingest/"))
            .count(),
        0
    );
}

#[test]
fn a_full_disk_is_said_to_be_full_and_emptied_again() {
    let host = Host::new();
    host.sh("mkdir -p $BOCKER_ROOT && mount -t tmpfs -o size=16k tmpfs $BOCKER_ROOT")
        .ok();
    let peer = Shelf::with_image().serve(|_, _| None);
    refused(
        &host,
        &peer.image("x:1"),
        "system",
        "No space left on device (ENOSPC)",
    );
    assert!(parts(&host).len() <= 1, "half a layer fills the disk");
    host.sh("mount -o remount,size=1m $BOCKER_ROOT").ok();
    pull(&host, &peer.image("x:1")).ok();
}
