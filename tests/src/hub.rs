//! A registry on loopback in the place of Docker Hub: its host name, its port and TLS, so that `busybox:1` is pulled by the
//! very line that a user types. Only the test's own mount namespace sees the name and the certificate.

use std::fs;
use std::path::PathBuf;

use crate::command::Call;
use crate::fixture::Image;
use crate::host::Host;
use crate::registry::Registry;

/// Where `docker.io` references are fetched from.
const HUB: &str = "registry-1.docker.io";
const TLS_PORT: u16 = 443;

/// Docker Hub, as far as these tests go: it holds `library/busybox:1`.
pub struct Hub<'a> {
    _registry: Registry<'a>,
    certificate: PathBuf,
}

impl<'a> Hub<'a> {
    /// Makes a certificate, points the host name at loopback and starts the registry with `busybox:1` in it.
    ///
    /// # Panics
    /// When openssl, skopeo or the registry fail.
    #[must_use]
    pub fn start(host: &'a Host) -> Hub<'a> {
        let certificate = host.scratch().join("hub.crt");
        let key = host.scratch().join("hub.key");
        let subject = format!("subjectAltName=DNS:{HUB},IP:127.0.0.1");
        host.run(&[
            "openssl".as_ref(),
            "req".as_ref(),
            "-x509".as_ref(),
            "-newkey".as_ref(),
            "ec".as_ref(),
            "-pkeyopt".as_ref(),
            "ec_paramgen_curve:prime256v1".as_ref(),
            "-nodes".as_ref(),
            "-days".as_ref(),
            "2".as_ref(),
            "-subj".as_ref(),
            format!("/CN={HUB}").as_ref(),
            "-addext".as_ref(),
            subject.as_ref(),
            "-addext".as_ref(),
            "basicConstraints=critical,CA:FALSE".as_ref(),
            "-keyout".as_ref(),
            key.as_os_str(),
            "-out".as_ref(),
            certificate.as_os_str(),
        ])
        .ok();
        let hosts = host.scratch().join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost {HUB}\n")).expect("a hosts file");
        host.run(&[
            "mount".as_ref(),
            "--bind".as_ref(),
            hosts.as_os_str(),
            "/etc/hosts".as_ref(),
        ])
        .ok();
        let registry = Registry::start_with(
            host,
            TLS_PORT,
            &format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            ),
        );
        registry.push(&Image::simple(), "library/busybox:1");
        Hub {
            _registry: registry,
            certificate,
        }
    }

    /// Lets a program trust the certificate, as `SSL_CERT_FILE` does for every program that reads the system's.
    #[must_use]
    pub fn trust(&self, call: Call) -> Call {
        call.env("SSL_CERT_FILE", &self.certificate)
    }
}
