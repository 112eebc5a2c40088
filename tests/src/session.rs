//! What many tests begin with: a private machine, a busybox root on it, and the front end.

use crate::command::Output;
use crate::host::Host;

/// A machine with a busybox root to run on. When the test has passed, `system reset` has to succeed.
pub struct Session {
    /// The machine.
    pub host: Host,
    /// The folder of the root.
    pub rootfs: String,
}

impl Session {
    /// Puts the calling thread on a new machine, see [`Host::new`].
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it moves the calling thread")]
    pub fn new() -> Session {
        let host = Host::new();
        let rootfs = host.busybox_rootfs("rootfs").display().to_string();
        Session { host, rootfs }
    }

    /// The words after `bocker`, those before the verb included.
    pub fn bocker(&self, words: &[&str]) -> Output {
        self.host.run(&[&["bocker"], words].concat())
    }

    /// `bocker run` with options, on the busybox root.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.bocker(&[&["run"], options, &["--rootfs", &self.rootfs], command].concat())
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
