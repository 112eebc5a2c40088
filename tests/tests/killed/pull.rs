//! bocker-pull.

use std::fs;
use std::path::Path;

use bocker_tests::peer::{Peer, Reply};
use bocker_tests::{Host, Image, Layer, Platform, Registry, need};
use serde_json::json;

use crate::{at_every_change, collect};

#[test]
fn a_pull_is_finished_by_the_next_or_collected_and_its_image_is_whole() {
    if !need("docker-registry skopeo") {
        return;
    }
    let host = Host::new();
    let registry = Registry::start(&host);
    let layers = ["a", "b"].map(|name| Layer::new().file(name, format!("layer {name}")));
    let image = Image::single(&Platform::new(layers.into(), json!({})));
    let reference = registry.push(&image, "fixture:1");

    let pull = || host.call(&["bocker-pull", "--plain-http", "--quiet", &reference]);
    let is_here = || {
        host.run(&["bocker-pull", "list", "--exists", &reference])
            .code
            == 0
    };
    let remove = || {
        host.run(&["bocker-pull", "rmi", &reference]).ok();
        host.run(&["bocker-snap", "gc", "--layers", "--grace", "0"])
            .ok();
    };
    let is_whole = || {
        let made = host.run(&["bocker-snap", "create", &reference]).ok();
        let root = made.json()["root"]["path"].as_str().map(str::to_owned);
        let root = root.expect("a root");
        for name in ["a", "b"] {
            let content = fs::read_to_string(Path::new(&root).join(name));
            assert_eq!(content.expect("a file"), format!("layer {name}"));
        }
        let delete = host.call(&["bocker-snap", "delete"]).stdin(made.stdout);
        delete.run().ok();
    };
    pull().run().ok();
    is_whole();
    remove();
    let before = host.fingerprint();
    for fail_at in ["", "pull.index"] {
        let mut again = false;
        at_every_change(
            10,
            || (pull().env("BOCKER_FAIL_AT", fail_at), ()),
            |()| {
                again = !again;
                if again {
                    pull().run().ok();
                }
                if is_here() {
                    is_whole();
                    remove();
                } else {
                    assert!(!again, "the second pull has made an image");
                }
                collect(&host, &["bocker-snap"], &before);
            },
        );
    }
}

#[test]
fn a_login_leaves_the_file_as_it_was_or_as_it_is_to_be() {
    let host = Host::new();
    let peer = Peer::start(|_, _| Reply::status(200));
    let address = peer.address();
    let folder = host.scratch().join("docker");
    fs::create_dir(&folder).expect("a folder");
    let file = folder.join("config.json");
    let read = || fs::read_to_string(&file).expect("the file");
    let login = |user: &str| {
        let words = [
            "bocker-pull",
            "login",
            "--password-stdin",
            &address,
            "-u",
            user,
        ];
        host.call(&words)
            .env("DOCKER_CONFIG", &folder)
            .stdin("secret")
    };
    login("ann").run().ok();
    let ann = read();
    login("bob").run().ok();
    let bob = read();
    assert_ne!(ann, bob);
    at_every_change(
        3,
        || {
            login("ann").run().ok();
            (login("bob"), ())
        },
        |()| {
            assert!([&ann, &bob].contains(&&read()), "{}", read());
            login("bob").run().ok();
            assert_eq!(read(), bob);
            let left = fs::read_dir(&folder).expect("the folder").count();
            assert_eq!(left, 1, "what a killed login has left stays");
        },
    );
}
