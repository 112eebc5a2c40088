//! Capabilities (capabilities(7)): Docker's default set, names, and dropping the rest.

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

/// What root in a container keeps: moby, daemon/pkg/oci/caps/defaults.go.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    MKNOD,
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// Makes device nodes, and so opens any device where no device allow-list of a cgroup stands in the way.
pub(crate) const MKNOD: &str = "CAP_MKNOD";
/// capabilities(7): names begin with it.
const PREFIX: &str = "CAP_";

/// OCI `process.capabilities`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub(crate) bounding: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) effective: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) permitted: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) inheritable: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ambient: Vec<String>,
}

impl Capabilities {
    /// Docker's set for this user: one that is not root has none but the bound, as execve(2) would leave it.
    /// Inheritable and ambient stay empty (CVE-2022-24769).
    pub(crate) fn default_for(uid: u32) -> Capabilities {
        let all: Vec<String> = DEFAULT.iter().map(ToString::to_string).collect();
        let held = if uid == 0 { all.clone() } else { Vec::new() };
        Capabilities {
            bounding: all,
            effective: held.clone(),
            permitted: held,
            ..Capabilities::default()
        }
    }

    /// Takes one out of all sets.
    pub(crate) fn remove(&mut self, name: &str) {
        for set in [
            &mut self.bounding,
            &mut self.effective,
            &mut self.permitted,
            &mut self.inheritable,
            &mut self.ambient,
        ] {
            set.retain(|capability| capability != name);
        }
    }

    /// The sets as numbers. Fails with [`Kind::Unsupported`] for a name that is none, and for what would give a program
    /// that is executed later more than it should have.
    pub(crate) fn sets(&self) -> Result<Sets> {
        if !self.inheritable.is_empty() || !self.ambient.is_empty() {
            return Err(Error::new(
                Kind::Unsupported,
                "inheritable and ambient capabilities are not given to containers",
            ));
        }
        Ok(Sets {
            bounding: set(&self.bounding)?,
            effective: set(&self.effective)?,
            permitted: set(&self.permitted)?,
        })
    }
}

/// The sets of a process, as numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
}

fn set(names: &[String]) -> Result<CapabilitySet> {
    names
        .iter()
        .map(|name| {
            name.strip_prefix(PREFIX)
                .and_then(CapabilitySet::from_name)
                .ok_or_else(|| {
                    Error::new(
                        Kind::Unsupported,
                        format!("'{name}' is not a capability of this kernel"),
                    )
                })
        })
        .collect()
}

impl Sets {
    /// All that this process has.
    pub(crate) fn held() -> Result<Sets> {
        let held = rustix::thread::capabilities(None).doing(|| "read the capabilities".into())?;
        Ok(Sets {
            bounding: held.permitted,
            effective: held.permitted,
            permitted: held.permitted,
        })
    }

    /// Bounds what any later program can have. Needs CAP_SETPCAP, so it comes before a change of user.
    pub(crate) fn bound(&self) -> Result<()> {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if self.bounding.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The kernel's last capability is passed.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno).doing(|| "bound the capabilities".into()),
            }
        }
        match rustix::thread::clear_ambient_capability_set() {
            // Kernels before 4.3 have none.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno).doing(|| "clear the ambient capabilities".into()),
        }
    }

    /// As setpriv(1) writes a set: `-all,+chown,...`.
    pub(crate) fn for_setpriv(&self) -> String {
        self.bounding
            .iter_names()
            .fold("-all".to_owned(), |text, (name, _)| {
                text + ",+" + &name.to_ascii_lowercase()
            })
    }

    /// Takes the rest away. After a change to a user other than root nothing is left, and this asks for nothing more.
    pub(crate) fn apply(&self) -> Result<()> {
        let sets = CapabilitySets {
            effective: self.effective,
            permitted: self.permitted,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).doing(|| "set the capabilities".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_dockers_fourteen_and_nobody_inherits() {
        let root = Capabilities::default_for(0);
        assert_eq!(root.effective.len(), 14);
        assert_eq!(root.effective, root.bounding);
        assert!(root.inheritable.is_empty() && root.ambient.is_empty());
        // What docker shows as CapBnd: 00000000a80425fb.
        assert_eq!(root.sets().unwrap().bounding.bits(), 0xa804_25fb);
    }

    #[test]
    fn another_user_has_the_bound_only() {
        let user = Capabilities::default_for(1000);
        assert!(user.effective.is_empty() && user.permitted.is_empty());
        assert_eq!(user.bounding.len(), 14);
    }

    #[test]
    fn a_removed_one_is_in_no_set() {
        let mut capabilities = Capabilities::default_for(0);
        capabilities.remove(MKNOD);
        assert_eq!(capabilities.sets().unwrap().effective.bits(), 0xa004_25fb);
        assert_eq!(capabilities.sets().unwrap().bounding.bits(), 0xa004_25fb);
    }

    #[test]
    fn a_name_that_is_none_and_inheritance_are_refused() {
        let wrong = Capabilities {
            bounding: vec!["CAP_EVERYTHING".into()],
            ..Capabilities::default()
        };
        assert_eq!(wrong.sets().unwrap_err().kind(), &Kind::Unsupported);
        let inherits = Capabilities {
            inheritable: vec![MKNOD.into()],
            ..Capabilities::default()
        };
        assert_eq!(inherits.sets().unwrap_err().kind(), &Kind::Unsupported);
    }
}
