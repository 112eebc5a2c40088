//! Names to addresses without glibc: a static glibc would load the host's NSS modules, of whatever version they are.
//! hickory reads `/etc/hosts` and `/etc/resolv.conf`. reqwest's own use of it asks Google where there is no `resolv.conf`;
//! here the names of private registries go to nobody whom the host did not choose.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// A name that leads nowhere.
#[derive(Debug)]
pub(crate) struct Unresolved {
    name: String,
    why: String,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unresolved { name, why } = self;
        write!(f, "the name '{name}' cannot be resolved: {why}")
    }
}

impl std::error::Error for Unresolved {}

/// Resolves names for a client; made at the first name.
#[derive(Clone, Default)]
pub(crate) struct Dns(Arc<OnceLock<TokioResolver>>);

impl Dns {
    fn resolver(&self) -> Result<&TokioResolver, NetError> {
        if let Some(resolver) = self.0.get() {
            return Ok(resolver);
        }
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
            // No name server then, but /etc/hosts and localhost.
            TokioResolver::builder_with_config(
                ResolverConfig::default(),
                TokioRuntimeProvider::default(),
            )
        });
        // Both kinds, of which the client tries first what answers first (RFC 8305).
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        let resolver = builder.build()?;
        Ok(self.0.get_or_init(|| resolver))
    }
}

impl Resolve for Dns {
    fn resolve(&self, name: Name) -> Resolving {
        let dns = self.clone();
        Box::pin(async move {
            let failed = |error: NetError| Unresolved {
                name: name.as_str().to_owned(),
                why: why(&error),
            };
            let resolver = dns.resolver().map_err(failed)?;
            let found = resolver.lookup_ip(name.as_str()).await.map_err(failed)?;
            let addresses: Vec<SocketAddr> = found
                .iter()
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn why(error: &NetError) -> String {
    match error {
        error if error.is_no_records_found() => "there is no such name".to_owned(),
        NetError::NoConnections => "no name server can be asked, see /etc/resolv.conf".to_owned(),
        NetError::Timeout => "the name servers do not answer".to_owned(),
        other => other.to_string(),
    }
}
