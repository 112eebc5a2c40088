//! A real registry (`docker-registry`) on the test's own loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::command::Running;
use crate::fixture::Image;
use crate::host::Host;

/// The port, which nobody else has: the network namespace is the test's.
const PORT: u16 = 5000;

/// `secret` by bcrypt, as `htpasswd -B` writes it.
const HTPASSWD: &str = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A running registry; it is killed when dropped.
pub struct Registry<'a> {
    host: &'a Host,
    port: u16,
    _server: Running,
}

impl<'a> Registry<'a> {
    /// Starts an empty registry and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(host: &'a Host) -> Registry<'a> {
        Registry::start_with(host, PORT, "")
    }

    /// Starts an empty registry on a port, with more of its configuration (YAML: `auth:`, `proxy:` and so on).
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn start_with(host: &'a Host, port: u16, configuration: &str) -> Registry<'a> {
        let storage = host.scratch().join(format!("registry-{port}"));
        fs::create_dir(&storage).expect("the registry's storage");
        let file = storage.with_extension("yml");
        fs::write(
            &file,
            format!(
                "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
                 delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{configuration}",
                storage.display()
            ),
        )
        .expect("the registry's configuration");
        let server = host
            .call(&[
                "docker-registry".as_ref(),
                "serve".as_ref(),
                file.as_os_str(),
            ])
            .spawn();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        host.wait_for("the registry answers", || TcpStream::connect(address).ok());
        Registry {
            host,
            port,
            _server: server,
        }
    }

    /// Starts an empty registry on a port that wants the password `secret` of `ann`.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn with_password(host: &'a Host, port: u16) -> Registry<'a> {
        let file = host.file(&format!("htpasswd-{port}"), HTPASSWD);
        let settings = format!("auth:\n  htpasswd:\n    realm: test\n    path: {file}\n");
        Registry::start_with(host, port, &settings)
    }

    /// `127.0.0.1:PORT`, the first part of every reference to an image here.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Uploads an image as `name` (with a tag) and gives the full reference to pull it by.
    ///
    /// # Panics
    /// When skopeo cannot.
    pub fn push(&self, image: &Image, name: &str) -> String {
        let reference = format!("{}/{name}", self.address());
        let source = format!("oci:{}", image.layout().display());
        let target = format!("docker://{reference}");
        self.host
            .run(&[
                "skopeo",
                "copy",
                "--quiet",
                "--all",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--preserve-digests",
                &source,
                &target,
            ])
            .ok();
        reference
    }
}
