//! Registries as they are: with logins, mirrors, interruptions and limits; and one that lies in every way there is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bocker_tests::peer::{OCI_LAYER, OCI_MANIFEST, Peer, Reply, Request, Shelf, digest};
use bocker_tests::{Call, Host, Image, Output, Registry, need};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The most memory that a pull may need, whatever it is sent.
const MEMORY: u64 = 256 << 20;

/// `ann:secret` in base64.
const ANN: &str = "YW5uOnNlY3JldA==";

fn pull(host: &Host, options: &[&str], reference: &str) -> Output {
    let argv = [&["bocker-pull", "--retries", "2"], options, &[reference]].concat();
    host.run(&argv)
}

fn images(host: &Host) -> usize {
    let listed = host.run(&["bocker-pull", "list"]).ok();
    listed.json_lines().len()
}

/// Names of the files in one of the store's folders.
fn files(host: &Host, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(host.root().join("images").join(folder));
    let names = entries.into_iter().flatten().filter_map(Result::ok);
    names.map(|e| e.file_name().display().to_string()).collect()
}

fn part_of(host: &Host, digest: &str) -> PathBuf {
    let name = digest.trim_start_matches("sha256:");
    host.root().join("images/ingest").join(name)
}

fn unauthorized(challenge: &str) -> Reply {
    Reply::status(401).header("WWW-Authenticate", challenge)
}

fn login(host: &Host, options: &[&str], password: &str) -> Output {
    let argv = [&["bocker", "login", "--password-stdin"], options].concat();
    host.call(&argv).stdin(password).run()
}

#[test]
fn a_login_is_kept_when_the_registry_accepts_it_and_forgotten_at_a_logout() {
    if !need("docker-registry skopeo podman") {
        return;
    }
    let host = Host::new();
    let registry = Registry::with_password(&host, 5002);
    let address = registry.address();
    let config = host.scratch().join("../home/.docker/config.json");
    let image = Image::simple();
    host.run(&[
        "skopeo",
        "copy",
        "--quiet",
        "--insecure-policy",
        "--dest-tls-verify=false",
        "--dest-creds=ann:secret",
        &format!("oci:{}", image.layout().display()),
        &format!("docker://{address}/team/app:1"),
    ])
    .ok();
    let reference = format!("{address}/team/app:1");
    pull(&host, &[], &reference)
        .exits(125)
        .says(&format!("log in: bocker login {address}"));

    login(&host, &["-u", "ann", &address], "wrong\n")
        .exits(125)
        .says("does not accept the password of 'ann'");
    assert!(!config.exists(), "a password that is wrong was kept");
    host.sh("mkdir -p ~/.docker && echo '{\"theirs\": 1.50}' >~/.docker/config.json")
        .ok();
    let planned = ["bocker-pull", "login", "--dry-run", "-u", "ann"];
    let planned = [&planned[..], &["--password-stdin", &address]].concat();
    let planned = host.call(&planned).stdin("secret").run().ok();
    let line = format!("+ docker login -u ann --password-stdin {address}\n");
    assert_eq!((planned.stdout.as_str(), planned.stderr), ("", line));
    assert!(
        !fs::read_to_string(&config)
            .expect("the file")
            .contains("auths")
    );
    let said = login(&host, &["-u", "ann", &address], "secret\n").text();
    assert_eq!(said, "Login Succeeded\n");
    let text = fs::read_to_string(&config).expect("the file");
    assert!(text.contains("1.50") && text.contains(ANN), "{text}");
    let mode = config.metadata().expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    pull(&host, &[], &reference).ok();

    // What is kept, skopeo finds, and the other way round.
    let read = ["skopeo", "inspect", "--tls-verify=false"];
    let target = format!("docker://{reference}");
    host.run(&[&read[..], &[&target]].concat()).ok();
    let out = |argv: &[&str]| host.run(argv).text();
    let gone = out(&["bocker", "logout", &address]);
    assert_eq!(gone, format!("Removing login credentials for {address}\n"));
    let gone = out(&["bocker", "logout", &address]);
    assert_eq!(gone, format!("Not logged in to {address}\n"));
    assert!(!fs::read_to_string(&config).expect("it").contains(ANN));
    host.sh("rm -r $BOCKER_ROOT/images").ok();
    pull(&host, &[], &reference).exits(125).says("bocker login");
    for program in ["skopeo", "podman"] {
        let file = host.scratch().join(program);
        host.call(&[
            program,
            "login",
            "--tls-verify=false",
            "-u",
            "ann",
            "--password-stdin",
            "--authfile",
            &file.display().to_string(),
            &address,
        ])
        .stdin("secret")
        .run()
        .ok();
        host.call(&["bocker-pull", &reference])
            .env("REGISTRY_AUTH_FILE", &file)
            .run()
            .ok();
        host.sh("rm -r $BOCKER_ROOT/images").ok();
    }
}

/// Sits at a terminal of a program's own: `ask` is what it has to ask before each line is typed. Prints what it has shown, whether it
/// showed what was typed at each time and afterwards, whether it could be stopped by ^Z, and how it ended.
const AT_A_TERMINAL: &str = r"
import json, os, pty, sys, termios
talk, argv = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(argv[0], argv)
seen, echo = b'', []
def shows():
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
def read():
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b''
for ask, keys in talk:
    while ask.encode() not in seen:
        more = read()
        if not more: sys.exit('it never asked ' + ask + ': ' + repr(seen))
        seen += more
    echo.append(shows())
    os.write(terminal, keys.encode())
more = read()
while more:
    seen, more = seen + more, read()
_, status = os.waitpid(pid, 0)
print(json.dumps([seen.decode(), echo, shows(), os.waitstatus_to_exitcode(status)]))
";

#[test]
fn a_password_is_asked_for_at_a_terminal_that_shows_nothing_of_it_and_is_put_back() {
    if !need("docker-registry python3") {
        return;
    }
    let host = Host::new();
    let registry = Registry::with_password(&host, 5002);
    let address = registry.address();
    let program = host
        .script("at-a-terminal", AT_A_TERMINAL)
        .display()
        .to_string();
    let at_a_terminal = |talk: Value, words: &[&str]| {
        let talk = talk.to_string();
        let argv = [&["python3", &program, &talk], words].concat();
        let ended = host.run(&argv).ok().json();
        let shown = ended[0].as_str().expect("text").replace('\r', "");
        (shown, ended[1].clone(), ended[2] == true, ended[3].clone())
    };
    let login = ["bocker", "login", &address];
    let talk = json!([["Username: ", "ann\n"], ["Password: ", "secret\n"]]);
    let (shown, echo, after, code) = at_a_terminal(talk, &login);
    assert_eq!((echo, after, code), (json!([true, false]), true, json!(0)));
    assert_eq!(shown, "Username: ann\nPassword: \nLogin Succeeded\n");
    host.run(&["bocker", "logout", &address]).ok();

    let named = [&login[..], &["-u", "ann"]].concat();
    let (shown, _, after, code) = at_a_terminal(json!([["Password: ", "wrong\n"]]), &named);
    assert_eq!((after, code), (true, json!(125)), "{shown}");
    assert!(
        shown.contains("does not accept the password of 'ann'"),
        "{shown}"
    );
    // ^Z is one more character, and ^C ends it.
    let (shown, echo, after, code) = at_a_terminal(json!([["Password: ", "\u{1a}s\u{3}"]]), &named);
    assert_eq!(
        (echo, after, code),
        (json!([false]), true, json!(130)),
        "{shown}"
    );
    let (_, _, after, code) = at_a_terminal(json!([["Password: ", "\u{4}"]]), &named);
    assert_eq!((after, code), (true, json!(125)));
    host.run(&["bocker", "logout", &address])
        .ok()
        .stdout
        .contains("Not logged in")
        .then_some(())
        .expect("nothing was kept");
}

#[test]
fn a_failed_or_killed_login_leaves_the_file_as_it_was() {
    let host = Host::new();
    let peer = Peer::start(|_, _| Reply::status(200));
    let address = peer.address();
    let file = host.scratch().join("auth.json");
    let run = |fail_at: &str| {
        let argv = [
            "bocker-pull",
            "login",
            "-u",
            "u",
            "--password-stdin",
            &address,
        ];
        host.call(&argv)
            .env("REGISTRY_AUTH_FILE", &file)
            .env("BOCKER_FAIL_AT", fail_at)
            .stdin("p")
            .run()
    };
    run("pull.login").exits(125);
    let left = fs::read_to_string(&file).unwrap_or_default();
    assert!(!left.contains(&address), "{left}");
    let before = format!(r#"{{"auths":{{"{address}":{{"auth":"{ANN}"}}}}}}"#);
    fs::write(&file, &before).expect("a file");
    run("pull.login").exits(125);
    let left = fs::read_to_string(&file).expect("the file");
    assert!(left.contains(ANN), "{left}");
    run("")
        .ok()
        .stdout
        .contains("asks nobody to log in")
        .then_some(())
        .expect("that is said");
    assert!(!fs::read_to_string(&file).expect("the file").contains(ANN));
}

/// A registry that wants tokens of a server of its own, which asks back with `token`.
fn with_tokens(shelf: Shelf, token: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Peer {
    shelf.serve(move |request, address| {
        if request.target.starts_with("/token") {
            return Some(token(request));
        }
        let good = request.header("authorization") == Some("Bearer good");
        let challenge = format!(r#"Negotiate, Bearer realm="http://{address}/token",service="s""#);
        (!good).then(|| unauthorized(&challenge))
    })
}

fn with_file(host: &Host, content: &Value, argv: &[&str]) -> Call {
    let folder = host.scratch().join("docker");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("config.json"), content.to_string()).expect("a file");
    host.call(argv).env("DOCKER_CONFIG", folder)
}

#[test]
fn every_kind_of_credential_is_exchanged_for_a_token() {
    let host = Host::new();
    let good = || Reply::ok("application/json", r#"{"token":"good"}"#);
    let basic = format!("Basic {ANN}");
    let by_get = with_tokens(Shelf::with_image(), move |request| {
        match request.header("authorization") == Some(&basic) {
            true => good(),
            false => Reply::status(401),
        }
    });
    // One that knows OAuth2 only.
    let by_post = with_tokens(Shelf::with_image(), move |request| {
        let form = &request.body;
        let right = form.contains("grant_type=password&username=ann&password=secret&client_id=bocker&service=s&scope=repository%3Ax%3Apull");
        match (request.method.as_str(), right) {
            ("POST", true) => good(),
            ("POST", false) => Reply::status(401),
            _ => Reply::status(405),
        }
    });
    let by_identity = with_tokens(Shelf::with_image(), move |request| {
        let right = request
            .body
            .starts_with("grant_type=refresh_token&refresh_token=me%2Fyou&");
        match request.method == "POST" && right {
            true => Reply::ok(
                "application/json",
                r#"{"access_token":"good","expires_in":1}"#,
            ),
            false => Reply::status(401),
        }
    });
    let as_it_is = with_tokens(Shelf::with_image(), |_| Reply::status(500));
    for (peer, entry) in [
        (&by_get, json!({"auth": ANN})),
        (&by_post, json!({"auth": ANN})),
        (&by_identity, json!({"identitytoken": "me/you"})),
        (&as_it_is, json!({"registrytoken": "good"})),
    ] {
        let reference = peer.image("x:1");
        let file = json!({"auths": {format!("{}/x", peer.address()): entry}});
        with_file(&host, &file, &["bocker-pull", &reference])
            .run()
            .ok();
        host.sh("rm -r $BOCKER_ROOT/images").ok();
        // Those of another repository are of no use here.
        let file = json!({"auths": {format!("{}/y", peer.address()): entry}});
        with_file(&host, &file, &["bocker-pull", "--retries", "0", &reference])
            .run()
            .exits(125);
        assert_eq!(images(&host), 0);
    }
}

#[test]
fn a_helper_keeps_what_it_is_given_and_is_asked_for_it() {
    let host = Host::new();
    let basic = format!("Basic {ANN}");
    let peer = Shelf::with_image().serve(move |request, _| {
        let good = request.header("authorization") == Some(&basic);
        (!good).then(|| unauthorized("Basic realm=x"))
    });
    let script = r#"#!/bin/sh
        kept=$(dirname "$0")/kept
        case $1 in
        store) cat >"$kept" ;;
        erase) rm "$kept" ;;
        get) cat >/dev/null; cat "$kept" 2>/dev/null || { echo credentials not found in native keychain; exit 1; } ;;
        esac"#;
    let folder = host.scratch().join("helpers");
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join("docker-credential-test");
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = format!(
        "{}:{}:/usr/bin:/bin",
        folder.display(),
        host.bins().display()
    );
    let address = peer.address();
    let file = json!({"credHelpers": {&address: "test"}, "credsStore": "gone"});
    let run = |argv: &[&str], stdin: &str| {
        with_file(&host, &file, argv)
            .env("PATH", &path)
            .stdin(stdin)
            .run()
    };
    let reference = peer.image("x:1");
    run(&["bocker-pull", &reference], "")
        .exits(125)
        .says("bocker login");
    let words = [
        "bocker-pull",
        "login",
        "-u",
        "ann",
        "--password-stdin",
        &address,
    ];
    run(&words, "secret").ok();
    let kept = fs::read_to_string(folder.join("kept")).expect("what was kept");
    let expected = json!({"ServerURL": address, "Username": "ann", "Secret": "secret"});
    assert_eq!(
        serde_json::from_str::<Value>(&kept).expect("JSON"),
        expected
    );
    run(&["bocker-pull", &reference], "").ok();
    run(&["bocker-pull", "logout", &address], "").ok();
    assert!(!folder.join("kept").exists());
    let config = fs::read_to_string(host.scratch().join("docker/config.json"));
    assert_eq!(
        config.expect("the file"),
        file.to_string(),
        "it holds no secret"
    );
    // A helper that is not there is named, and so is who named it.
    run(&["bocker-pull", "logout", "other.example"], "")
        .exits(125)
        .says("docker-credential-gone, which ")
        .says("config.json names");
}

#[test]
fn an_image_that_is_up_to_date_costs_no_get() {
    let host = Host::new();
    let mut shelf = Shelf::default();
    let image = shelf.image("amd64", OCI_MANIFEST);
    let mut wanted = shelf.manifest("one", OCI_MANIFEST, &image);
    wanted["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let media_type = bocker_tests::peer::OCI_INDEX;
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [wanted]});
    let index = shelf.manifest("1", media_type, &index);
    let peer = shelf.serve(|_, _| None);
    let by_tag = peer.image("x:1");
    let by_digest = peer.image(&format!(
        "x@{}",
        index["digest"].as_str().unwrap_or_default()
    ));
    let platform = ["--platform", "linux/amd64"];
    let first = pull(&host, &platform, &by_tag).ok();
    pull(&host, &platform, &by_digest).ok();
    let before = peer.requests().len();
    let again = pull(&host, &platform, &by_tag).ok().says("is up to date");
    assert_eq!(again.json(), first.json());
    let asked = peer.requests().split_off(before);
    let asked: Vec<_> = asked.iter().map(|r| (&*r.method, &*r.target)).collect();
    assert_eq!(asked, [("HEAD", "/v2/x/manifests/1")]);
    pull(&host, &platform, &by_digest)
        .ok()
        .says("is up to date");
    assert_eq!(
        peer.requests().len(),
        before + 1,
        "a digest needs no asking"
    );
    // A manifest that somebody has removed comes once more.
    let blob = host.root().join("images/blobs/sha256");
    let name = wanted["digest"].as_str().unwrap_or_default();
    fs::remove_file(blob.join(&name["sha256:".len()..])).expect("the manifest");
    pull(&host, &platform, &by_tag).ok();
}

/// What a peer does with the first requests for the upper layer, and the ranges that it was asked for.
fn interrupted(mut first: Vec<Reply>) -> (Peer, impl Fn() -> Vec<Option<String>> + use<>) {
    first.reverse();
    let upper = Shelf::layer("upper");
    let name = upper.clone();
    let left = Mutex::new(first);
    let peer = Shelf::with_image().serve(move |request, _| {
        let asked = request.target.ends_with(&upper);
        asked
            .then(|| left.lock().expect("the replies").pop())
            .flatten()
    });
    let log = peer.log();
    let ranges = move || {
        let log = log.lock().expect("the log");
        let asked = log.iter().filter(|request| request.target.ends_with(&name));
        asked
            .map(|r| r.header("range").map(str::to_owned))
            .collect()
    };
    (peer, ranges)
}

/// The upper layer of [`Shelf::with_image`].
fn upper() -> Vec<u8> {
    "amd64 upper".repeat(1000).into_bytes()
}

/// A body that breaks off after so many bytes.
fn torn(at: usize) -> Reply {
    Reply {
        missing: 11_000 - at,
        ..Reply::ok("x", &upper()[..at])
    }
}

fn range(from: usize) -> Option<String> {
    Some(format!("bytes={from}-"))
}

#[test]
fn a_blob_that_breaks_off_goes_on_where_it_was() {
    let host = Host::new();
    let rest = |from: usize, said: &str, body: &[u8]| {
        Reply {
            status: 206,
            ..Reply::ok("x", body)
        }
        .header("Content-Range", &format!("{said} {from}-10999/11000"))
    };
    let all = Reply::ok("x", upper());
    for (replies, expected) in [
        // The rest.
        (vec![torn(5000)], vec![None, range(5000)]),
        // Who ignores the range sends all, and nothing is lost by it.
        (vec![torn(5000), all.clone()], vec![None, range(5000)]),
        // Who sends another part than that, or none at all, is asked for all.
        (
            vec![torn(5000), rest(4000, "bytes", &upper()[4000..])],
            vec![None, range(5000), None],
        ),
        (
            vec![torn(5000), rest(5000, "words", &upper()[5000..])],
            vec![None, range(5000), None],
        ),
        (
            vec![torn(5000), Reply::status(416)],
            vec![None, range(5000), None],
        ),
        // Nor is it asked for a part again.
        (
            vec![torn(5000), Reply::status(416), torn(6000)],
            vec![None, range(5000), None, None],
        ),
    ] {
        let (peer, ranges) = interrupted(replies);
        let options = ["--retries", "3"];
        pull(&host, &options, &peer.image("x:1"))
            .ok()
            .says("trying again");
        assert_eq!(ranges(), expected);
        host.sh("rm -r $BOCKER_ROOT/images").ok();
    }
    // But not for ever.
    let (peer, ranges) = interrupted(vec![torn(5000); 9]);
    pull(&host, &["--retries", "1"], &peer.image("x:1")).exits(125);
    assert_eq!(ranges().len(), 2);
    let part = fs::read(part_of(&host, &Shelf::layer("upper"))).expect("a part");
    assert_eq!(
        part,
        upper()[..part.len()],
        "what is left can be gone on with"
    );
}

#[test]
fn a_killed_pull_is_gone_on_with_and_a_part_that_is_damaged_is_fetched_anew_once() {
    let host = Host::new();
    let stalled = Reply {
        stall: true,
        ..torn(5000)
    };
    let (peer, ranges) = interrupted(vec![stalled]);
    let reference = peer.image("x:1");
    let part = part_of(&host, &Shelf::layer("upper"));
    let running = host.spawn(&["bocker-pull", &reference]);
    host.wait_for("half a layer", || {
        (fs::metadata(&part).ok()?.len() == 5000).then_some(())
    });
    running.signal_group(Signal::SIGKILL);
    running.wait().exits(137);
    pull(&host, &[], &reference).ok();
    assert_eq!(ranges(), [None, range(5000)]);
    assert_eq!(files(&host, "ingest"), [""; 0]);

    for (left, expected) in [
        (vec![b'?'; 5000], vec![range(5000), None]),
        (vec![b'?'; 11_000], vec![None]),
        (vec![b'?'; 11_001], vec![None]),
        // Whole, but for its name.
        (upper(), vec![]),
    ] {
        host.sh("rm -r $BOCKER_ROOT/images/blobs $BOCKER_ROOT/images/index.json")
            .ok();
        fs::write(&part, left).expect("a part");
        let before = ranges().len();
        pull(&host, &[], &reference).ok();
        assert_eq!(ranges()[before..], expected);
    }
    // A registry that is to blame itself is not asked for ever.
    let mut wrong = upper();
    wrong[7000] ^= 1;
    host.sh("rm -r $BOCKER_ROOT/images/blobs $BOCKER_ROOT/images/index.json")
        .ok();
    fs::write(&part, &upper()[..5000]).expect("a part");
    let rest = Reply {
        status: 206,
        ..Reply::ok("x", &wrong[5000..])
    };
    let rest = rest.header("Content-Range", "bytes 5000-10999/11000");
    let (peer, ranges) = interrupted(vec![rest, Reply::ok("x", wrong)]);
    pull(&host, &[], &peer.image("x:1"))
        .exits(125)
        .says("is not what was sent");
    assert_eq!(ranges(), [range(5000), None]);
    assert!(!part.exists(), "what is wrong was kept");
}

#[test]
fn gc_removes_a_part_by_its_age() {
    let host = Host::new();
    let (peer, _) = interrupted(vec![torn(5000)]);
    pull(&host, &["--retries", "0"], &peer.image("x:1")).exits(125);
    assert!(part_of(&host, &Shelf::layer("upper")).exists());
    host.run(&["bocker-pull", "gc"]).ok();
    assert!(part_of(&host, &Shelf::layer("upper")).exists());
    host.run(&["bocker-pull", "gc", "--grace", "0"]).ok();
    assert_eq!(files(&host, "ingest"), [""; 0]);
}

#[test]
fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
    let host = Host::new();
    let failing = |status: u16, times: usize| {
        let count = AtomicUsize::new(0);
        Shelf::with_image().serve(move |request, _| {
            let asked = request.target.ends_with("/manifests/1");
            let fail = asked && count.fetch_add(1, Ordering::SeqCst) < times;
            fail.then(|| match status {
                // Hangs up without a word.
                0 => Reply {
                    garbage: Some(Vec::new()),
                    ..Reply::default()
                },
                status => Reply::status(status).header("Retry-After", "0"),
            })
        })
    };
    for status in [429, 500, 502, 503, 504] {
        let once = ["--retries", "1"];
        let peer = failing(status, 1);
        pull(&host, &once, &peer.image("x:1")).ok();
        assert_eq!(peer.count("/manifests/1"), 2, "{status}");
        let peer = failing(status, 9);
        pull(&host, &once, &peer.image("y:1")).exits(125);
        assert_eq!(peer.count("/manifests/1"), 2, "{status}");
    }
    for status in [400, 404, 403, 501] {
        let peer = failing(status, 9);
        pull(&host, &[], &peer.image("y:1")).exits(125);
        assert_eq!(peer.count("/manifests/1"), 1, "{status}");
    }
    // Where nobody has ever answered nobody is waited for; where somebody has, that may be a restart.
    let peer = failing(0, 9);
    pull(&host, &[], &peer.image("y:1")).exits(125);
    assert_eq!(peer.count("/manifests/1"), 1);
    host.sh("rm -r $BOCKER_ROOT/images").ok();
    let (peer, ranges) = interrupted(vec![Reply {
        garbage: Some(Vec::new()),
        ..Reply::default()
    }]);
    pull(&host, &[], &peer.image("z:1")).ok();
    assert!(ranges().len() > 1);
}

#[test]
fn a_mirror_is_asked_first_and_told_nothing_of_the_registrys_credentials() {
    let host = Host::new();
    let basic = format!("Basic {ANN}");
    let registry = Shelf::with_image().serve(move |request, _| {
        let good = request.header("authorization") == Some(&basic);
        (!good).then(|| unauthorized("Basic realm=x"))
    });
    let mirror = Shelf::with_image().serve(|_, _| None);
    let closed = Shelf::with_image().serve(|_, _| Some(unauthorized("Basic realm=x")));
    let file = json!({"auths": {registry.address(): {"auth": ANN}}});
    let reference = registry.image("team/x:1");
    let from = |mirrors: &[&str]| {
        let options: Vec<&str> = mirrors.iter().flat_map(|m| ["--mirror", m]).collect();
        let argv = [
            &["bocker-pull", "--retries", "1"],
            &options[..],
            &[&reference],
        ]
        .concat();
        let output = with_file(&host, &file, &argv).run().ok();
        host.sh("rm -r $BOCKER_ROOT/images").ok();
        output
    };
    let whole = format!("http://{}/hub", mirror.address());
    from(&[&whole]);
    assert_eq!(registry.requests().len(), 0);
    let asked = mirror.requests();
    assert_eq!(asked[0].target, "/v2/hub/team/x/manifests/1");
    assert_eq!(asked.len(), 4);
    from(&[&closed.address()]).says("another one is asked");
    for request in asked.iter().chain(&closed.requests()) {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
    assert!(!registry.requests().is_empty());

    // A mirror that has the manifest alone, and one whose blobs are others: the registry has the right ones.
    let before = registry.requests().len();
    for spoilt in [Reply::status(404), Reply::ok("x", vec![0; 11_000])] {
        let half = Shelf::with_image().serve(move |request, _| {
            let blob = request.target.contains("/blobs/");
            blob.then(|| spoilt.clone())
        });
        from(&[&half.address()]);
        assert_eq!(half.count("/manifests/"), 1);
    }
    let asked = registry.requests().split_off(before);
    let manifests = asked.iter().filter(|r| r.target.contains("/manifests/"));
    assert_eq!(manifests.count(), 0, "the tag was resolved twice");

    // As the machine is set up.
    let setup = host.scratch().join("registries.json");
    let write = |content: Value| fs::write(&setup, content.to_string()).expect("a file");
    let run = || {
        host.call(&["bocker-pull", &reference])
            .env("BOCKER_REGISTRIES", &setup)
            .run()
    };
    write(json!({registry.address(): {"mirrors": [mirror.address()]}}));
    run().ok();
    write(json!({registry.address(): {"mirror": []}}));
    run()
        .exits(125)
        .says("registries.json cannot be used: unknown field `mirror`");
}

#[test]
fn a_foreign_layer_is_fetched_from_where_the_manifest_says_without_credentials() {
    let host = Host::new();
    let elsewhere = Shelf::with_image().serve(|_, _| None);
    let mut shelf = Shelf::default();
    let mut manifest = shelf.image("amd64", OCI_MANIFEST);
    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let (lower, upper) = (Shelf::layer("lower"), Shelf::layer("upper"));
    let there = format!("http://{}/blobs/{upper}", elsewhere.address());
    for (number, urls) in [
        ["ftp://x/y", "http://127.0.0.1:1/"],
        ["file:///etc/shadow", &there],
    ]
    .into_iter()
    .enumerate()
    {
        manifest["layers"][number]["mediaType"] = json!(kind);
        manifest["layers"][number]["urls"] = json!(urls);
    }
    shelf.manifest("1", OCI_MANIFEST, &manifest);
    let basic = format!("Basic {ANN}");
    let peer = shelf.serve(move |request, _| {
        let good = request.header("authorization") == Some(&basic);
        (!good).then(|| unauthorized("Basic realm=x"))
    });
    let file = json!({"auths": {peer.address(): {"auth": ANN}}});
    with_file(
        &host,
        &file,
        &["bocker-pull", "--retries", "0", &peer.image("x:1")],
    )
    .run()
    .ok()
    .says("the registry is asked instead");
    let asked = elsewhere.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
    assert_eq!((peer.count(&lower), peer.count(&upper)), (1, 0));
}

#[test]
fn a_layer_of_no_bytes_is_one() {
    let host = Host::new();
    let mut shelf = Shelf::default();
    let mut manifest = shelf.image("amd64", OCI_MANIFEST);
    manifest["layers"][1] = shelf.blob(OCI_LAYER, Vec::new());
    shelf.manifest("1", OCI_MANIFEST, &manifest);
    let peer = shelf.serve(|_, _| None);
    pull(&host, &[], &peer.image("x:1")).ok();
    let empty = digest(b"");
    assert!(files(&host, "blobs/sha256").contains(&empty["sha256:".len()..].to_owned()));
}

#[test]
fn limits_and_warnings_are_shown_once() {
    let host = Host::new();
    let shelf = Shelf::with_image();
    let inner = shelf.clone();
    let peer = shelf.serve(move |request, _| {
        Some(
            inner
                .answer(request)
                .header("Warning", r#"299 - "this registry closes""#)
                .header("ratelimit-limit", "100;w=21600")
                .header("ratelimit-remaining", "3;w=21600"),
        )
    });
    let output = pull(&host, &[], &peer.image("x:1")).ok();
    for line in [
        "says: this registry closes",
        "3 of 100 pulls in 6 h are left",
    ] {
        assert_eq!(output.stderr.matches(line).count(), 1, "{output}");
    }
    let quiet = pull(&host, &["-q"], &peer.image("x:1")).ok();
    assert_eq!(quiet.stderr, "");
    let enough = Peer::start(|_, _| {
        Reply::status(429)
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "0;w=21600")
            .header("Retry-After", "3600")
    });
    pull(&host, &[], &enough.image("x:1"))
        .exits(125)
        .says("(429): 0 of 100 pulls in 6 h are left; try again in 3600 seconds");
}

/// A registry whose answers to some requests are `lie`.
fn lying(part: &'static str, lie: Reply) -> Peer {
    Shelf::with_image().serve(move |request, _| {
        let lies = request.target.contains(part) && request.header("range").is_none();
        lies.then(|| lie.clone())
    })
}

/// A body without end.
fn endless(status: u16) -> Reply {
    Reply {
        endless: true,
        ..Reply::status(status).body(vec![b'x'; 1 << 20])
    }
}

/// What is no answer.
fn garbage(bytes: impl Into<Vec<u8>>) -> Reply {
    Reply {
        garbage: Some(bytes.into()),
        ..Reply::default()
    }
}

/// Each gets one clear error in bounded memory, and nothing of it is left.
#[track_caller]
fn refused(host: &Host, retries: &str, liars: &[(Peer, &str)]) {
    let before = host.fingerprint();
    std::thread::scope(|scope| {
        for (number, (peer, words)) in liars.iter().enumerate() {
            let root = host.scratch().join(format!("root-{number}"));
            scope.spawn(move || refuse(host, &root, retries, peer, words));
        }
    });
    host.assert_same(&before);
}

#[test]
fn what_a_registry_sends_without_end_is_not_read_to_the_end() {
    let upper: &'static str = Shelf::layer("upper").leak();
    let many = [&b"HTTP/1.1 200 X\r\n"[..], &b"a: b\r\n".repeat(200_000)].concat();
    let long = [&b"HTTP/1.1 200 X\r\nA: "[..], &[b'x'; 1 << 20]].concat();
    refused(
        &Host::new(),
        "1",
        &[
            (
                lying("/manifests/", endless(200)),
                "a manifest of more than 4194304 bytes",
            ),
            (
                lying("/blobs/", endless(200)),
                "a configuration of more than 4194304 bytes",
            ),
            (lying(upper, endless(200)), "sent more than the 11000 bytes"),
            (lying("/manifests/", endless(400)), "answered 400"),
            (lying(upper, endless(400)), "answered 400"),
            (lying("/manifests/", garbage(many)), "cannot talk to"),
            (lying("/manifests/", garbage(long)), "cannot talk to"),
        ],
    );
}

#[test]
fn a_registry_that_sends_next_to_nothing_is_not_waited_for() {
    let upper: &'static str = Shelf::layer("upper").leak();
    let slow = |reply: Reply| Reply {
        drip: Some(Duration::from_millis(50)),
        ..reply
    };
    let head = garbage("HTTP/1.1 200 X\r\nContent-Type: application/json; and so on");
    let body = Reply::ok("application/json", vec![b'x'; 10_999]);
    let silent = Reply {
        stall: true,
        ..garbage("")
    };
    let words = "has sent next to nothing for 1 s; --timeout SECONDS waits longer";
    refused(
        &Host::new(),
        "0",
        &[
            (lying("/manifests/", slow(head)), words),
            (lying("/manifests/", slow(body.clone())), words),
            (lying(upper, slow(body)), words),
            (lying("/manifests/", silent), words),
        ],
    );
}

#[test]
fn a_registry_that_leads_nowhere_is_not_followed_for_ever() {
    let upper: &'static str = Shelf::layer("upper").leak();
    let redirect = |to: &str| Reply::status(302).header("Location", to);
    let token =
        |answer: &'static str| with_tokens(Shelf::default(), move |_| Reply::ok("x", answer));
    let nowhere = unauthorized("Bearer realm=\"http://127.0.0.1:1/\"");
    refused(
        &Host::new(),
        "1",
        &[
            (
                lying("/manifests/", redirect("/v2/x/manifests/1")),
                "redirects more than 10 times",
            ),
            (
                lying(upper, redirect("?again")),
                "redirects more than 10 times",
            ),
            (
                lying("/manifests/", redirect("file:///etc/passwd")),
                "redirects from http to file",
            ),
            (
                lying("/v2/", unauthorized("Basic realm=x")),
                "does not give",
            ),
            (
                lying("/v2/", unauthorized("Bearer")),
                "without saying where from",
            ),
            (lying("/v2/", unauthorized("Digest realm=x")), "by 'Digest'"),
            (lying("/v2/", unauthorized("\"\\,,=,")), "does not give"),
            (lying("/v2/", nowhere), "Connection refused"),
            (
                token(r#"{"token":"other","expires_in":-7}"#),
                "does not give",
            ),
            (token("{\"token\":\"a\\nb\"}"), "sent a token that is none"),
        ],
    );
}

#[test]
fn what_is_no_answer_is_refused() {
    let upper: &'static str = Shelf::layer("upper").leak();
    let part = Reply::status(206).header("Content-Range", "bytes 5-9/11000");
    let negative = "HTTP/1.1 200 X\r\nContent-Length: -5\r\n\r\n{}";
    refused(
        &Host::new(),
        "1",
        &[
            (
                lying("/manifests/", garbage("SSH-2.0-OpenSSH_9.2\r\n")),
                "cannot talk to",
            ),
            (lying("/manifests/", garbage(negative)), "cannot talk to"),
            (
                lying(
                    "/manifests/",
                    garbage("HTTP/1.1 200 X\r\n\u{1}: \0\r\n\r\n"),
                ),
                "cannot talk to",
            ),
            (
                lying("/manifests/", Reply::ok("\u{fe}", "{")),
                "cannot be read",
            ),
            (lying(upper, part), "sent a part of the blob"),
        ],
    );
}

#[track_caller]
fn refuse(host: &Host, root: &Path, retries: &str, peer: &Peer, words: &str) {
    let options = ["--retries", retries, "--timeout", "1"];
    let reference = peer.image("x:1");
    let argv = [&["bocker-pull"], &options[..], &[&reference]].concat();
    let output = host.call(&argv).env("BOCKER_ROOT", root).run();
    let output = output.exits(125).says(words);
    assert!(output.peak < MEMORY, "{} bytes: {output}", output.peak);
    assert!(output.peak > 1 << 20, "no memory was measured: {output}");
    let again = |line: &&str| line.ends_with("trying again") || line.ends_with("asked again");
    let errors = output.stderr.lines().filter(|line| !again(line));
    let errors = errors.filter(|line| line.starts_with("bocker-pull: "));
    assert_eq!(errors.count(), 1, "{output}");
    assert_eq!(output.json()["bocker"]["error"]["code"], 125, "{output}");
    let asked = peer.requests().len();
    assert!(asked <= 60, "it was asked {asked} times");
    assert!(!root.join("images/index.json").exists(), "{output}");
    let blobs = fs::read_dir(root.join("images/blobs/sha256"));
    assert_eq!(blobs.into_iter().flatten().count(), 0, "{output}");
    // Half a layer is kept for the next pull, and none is larger than it may be.
    for part in fs::read_dir(root.join("images/ingest"))
        .into_iter()
        .flatten()
    {
        let part = part.expect("a file").metadata().expect("its size");
        assert!(part.len() <= 11_000, "{output}");
    }
    _ = fs::remove_dir_all(root);
}

#[test]
fn a_token_that_expires_all_the_time_is_renewed_but_one_request_has_one_chance() {
    let host = Host::new();
    let issued = AtomicUsize::new(0);
    // Every token is good for two requests.
    let used = Mutex::new(BTreeMap::<String, usize>::new());
    let peer = Shelf::with_image().serve(move |request, address| {
        if request.target.starts_with("/token") {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            let body = json!({"token": format!("t{number}")}).to_string();
            return Some(Reply::ok("application/json", body));
        }
        let token = request.header("authorization").map(str::to_owned);
        let fresh = token.is_some_and(|token| {
            let mut used = used.lock().expect("the tokens");
            let count = used.entry(token).or_default();
            *count += 1;
            *count <= 2
        });
        let challenge = format!("Bearer realm=\"http://{address}/token\"");
        (!fresh).then(|| unauthorized(&challenge))
    });
    pull(&host, &[], &peer.image("x:1")).ok();
    assert_eq!(images(&host), 1);
}
