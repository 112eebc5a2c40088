//! What many tests begin with: a private machine, a busybox root on it, and the front end.

use std::cell::OnceCell;

use crate::command::Output;
use crate::host::{Host, is_btrfs};

/// The image of a session's root.
const BASE: &str = "base:1";

/// A machine with a busybox root to run on. When the test has passed, `system reset` has to succeed.
pub struct Session {
    /// The machine.
    pub host: Host,
    /// The folder of the root.
    pub rootfs: String,
    image: OnceCell<()>,
}

impl Session {
    /// Puts the calling thread on a new machine, see [`Host::new`].
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it moves the calling thread")]
    pub fn new() -> Session {
        Session::on(Host::new())
    }

    /// The same on a machine that is there.
    #[must_use]
    pub fn on(host: Host) -> Session {
        let rootfs = host.busybox_rootfs("rootfs").display().to_string();
        Session {
            host,
            rootfs,
            image: OnceCell::new(),
        }
    }

    /// The same with that root as the image `base:1`, which [`Session::ran`] and [`Session::runs`] take.
    #[must_use]
    pub fn with_base() -> Session {
        let session = Session::new();
        session.make_base();
        session
    }

    fn make_base(&self) {
        self.image
            .get_or_init(|| drop(self.bocker(&["init", &self.rootfs, BASE]).ok()));
    }

    /// What `run` and `create` take before the command, to run on the busybox root: the folder itself, or on btrfs, where a
    /// container is a snapshot only of an image, `base:1`, with what was in the folder at the first call.
    #[must_use]
    pub fn base(&self) -> Vec<&str> {
        if !is_btrfs() {
            return vec!["--rootfs", &self.rootfs];
        }
        self.make_base();
        vec![BASE]
    }

    /// Runs a script in a container of `base:1` that has ended when this returns, and is kept.
    pub fn ran(&self, name: &str, options: &[&str], script: &str) {
        let command = [BASE, "/bin/sh", "-c", script];
        let words = [&["run", "--name", name], options, &command].concat();
        self.bocker(&words).ok();
    }

    /// Leaves a script in a container of `base:1` in the background, and waits until it says `ready`.
    pub fn runs(&self, name: &str, options: &[&str], script: &str) {
        let command = [BASE, "/bin/sh", "-c", script];
        let words = [&["run", "-d", "--name", name], options, &command].concat();
        self.bocker(&words).ok();
        self.host.wait_for("the script is ready", || {
            let log = self.bocker(&["logs", name]);
            log.stdout.contains("ready").then_some(())
        });
    }

    /// What a container's processes find at a path; nothing when there is none.
    #[must_use]
    pub fn reads(&self, name: &str, path: &str) -> Option<String> {
        let output = self.bocker(&["exec", name, "/bin/cat", path]);
        (output.code == 0).then_some(output.stdout)
    }

    /// The words after `bocker`, those before the verb included.
    pub fn bocker(&self, words: &[&str]) -> Output {
        self.host.run(&[&["bocker"], words].concat())
    }

    /// `bocker run` with options, on the busybox root.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.bocker(&[&["run"], options, &self.base(), command].concat())
    }

    /// Leaves a container in the background and gives its id.
    pub fn sleeping(&self, name: &str) -> String {
        let output = self.run(&["-d", "--name", name], &["sleep", "1000"]);
        output.text().trim().to_owned()
    }

    /// Makes an image of the busybox root and gives its id.
    ///
    /// # Panics
    /// When `bocker init` says anything but `Created: ID`.
    #[must_use]
    pub fn image(&self) -> String {
        let made = self.bocker(&["init", &self.rootfs]).text();
        let id = made.trim().strip_prefix("Created: ");
        id.unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// Waits until a container runs.
    pub fn wait_until_running(&self) {
        self.host.wait_for("a container runs", || {
            let lines = self.host.run(&["bocker-spawn", "list"]).ok().json_lines();
            lines
                .iter()
                .any(|line| line["state"] == "running")
                .then_some(())
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.bocker(&["system", "reset", "--force"]).ok();
        }
    }
}
