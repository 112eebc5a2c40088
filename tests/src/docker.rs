//! Docker's daemon, in a test's own piece of the machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{Host, Output, Running};

/// A daemon with all its files in the test's folder. Dropped, it ends with the test's namespaces.
pub struct Docker<'a> {
    host: &'a Host,
    folder: PathBuf,
    daemon: Running,
}

impl<'a> Docker<'a> {
    /// Starts a daemon with these options and waits until it answers.
    ///
    /// # Panics
    /// When it never does.
    #[must_use]
    pub fn start(host: &'a Host, options: &[&str]) -> Docker<'a> {
        let folder = host.scratch().join("docker");
        let path = |name: &str| folder.join(name).display().to_string();
        let [root, state, pid] = ["root", "state", "pid"].map(path);
        let socket = socket(&folder);
        let own = [
            "dockerd",
            "--data-root",
            &root,
            "--exec-root",
            &state,
            "--pidfile",
            &pid,
            "--host",
            &socket,
            "--storage-driver=vfs",
        ];
        std::fs::create_dir(&folder).expect("a folder");
        let daemon = host
            .call(&[&own, options].concat())
            .timeout(Duration::from_secs(60))
            .spawn();
        let docker = Docker {
            host,
            folder,
            daemon,
        };
        host.wait_for("dockerd answers", || {
            (docker.run(&["version"]).code == 0).then_some(())
        });
        docker
    }

    /// Asks it something, in the words of its command line.
    pub fn run(&self, words: &[&str]) -> Output {
        let socket = socket(&self.folder);
        self.host
            .run(&[&["docker", "--host", &socket], words].concat())
    }

    /// Asks its containerd.
    pub fn ctr(&self, words: &[&str]) -> Output {
        let socket = self.folder.join("state/containerd/containerd.sock");
        let socket = socket.display().to_string();
        self.host
            .run(&[&["ctr", "-a", &socket, "-n", "test"], words].concat())
    }

    /// Ends it.
    pub fn stop(self) {
        self.daemon.signal(Signal::SIGTERM);
        self.daemon.wait();
    }
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("socket").display())
}
