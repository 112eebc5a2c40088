//! Address leases: `/run/bocker/net/<bridge>/10.0.0.2 -> ../../ps_x`, a symbolic link an address, which is made exclusively
//! and with its content in one system call. A lease belongs to the bridge, not to a BOCKER_ROOT.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Id, Kind, Result};

use crate::host;
use crate::subnet::Subnet;

/// The folder of a bridge's leases.
pub(crate) fn folder(bridge: &str) -> PathBuf {
    host::folder().join(bridge)
}

/// What the link of a lease points to: the claim of its container, seen from the folder of leases.
pub(crate) fn target(id: &Id) -> String {
    format!("../../{id}")
}

/// Takes the first free address of the subnet, in the order that the id gives. `gateway` is never handed out, nor is an
/// address for which `lingers` holds: its former interface is still there.
pub(crate) fn take(
    folder: &Path,
    subnet: Subnet,
    gateway: Ipv4Addr,
    id: &Id,
    mut lingers: impl FnMut(Ipv4Addr) -> Result<bool>,
) -> Result<Ipv4Addr> {
    for address in subnet.hosts_from(id).filter(|address| *address != gateway) {
        let lease = folder.join(address.to_string());
        match symlink(target(id), &lease) {
            Ok(()) => {}
            // A killed create of the same container has left its lease.
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists
                    && holder(&lease).as_ref() == Some(id) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error).doing(|| format!("lease {}", lease.display())),
        }
        match lingers(address) {
            Ok(false) => return Ok(address),
            Ok(true) => release_file(&lease)?,
            Err(error) => {
                release_file(&lease)?;
                return Err(error);
            }
        }
    }
    Err(
        Error::new(Kind::InUse, format!("every address of {subnet} is taken"))
            .hint("remove containers, or free forgotten leases with 'bocker-net gc'"),
    )
}

/// Gives an address back. Already gone, or another's by now, is success.
pub(crate) fn release(folder: &Path, address: Ipv4Addr, id: &Id) -> Result<()> {
    let lease = folder.join(address.to_string());
    if holder(&lease).as_ref() == Some(id) {
        release_file(&lease)
    } else {
        Ok(())
    }
}

fn release_file(lease: &Path) -> Result<()> {
    match fs::remove_file(lease) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("release {}", lease.display())),
    }
}

fn holder(lease: &Path) -> Option<Id> {
    Id::parse(fs::read_link(lease).ok()?.file_name()?.to_str()?).ok()
}

/// All leases in a folder: address and id.
pub(crate) fn list(folder: &Path) -> Result<Vec<(Ipv4Addr, Id)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    let mut leases: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                holder(&entry.path())?,
            ))
        })
        .collect();
    leases.sort();
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 1);

    fn subnet() -> Subnet {
        Subnet::of(GATEWAY, 29)
    }

    fn id(number: u32) -> Id {
        Id::parse(&format!("ps_{number:06}")).unwrap()
    }

    #[test]
    fn addresses_are_unique_until_none_is_left_and_the_gateways_is_never_given() {
        let folder = tempfile::tempdir().unwrap();
        let take = |number| take(folder.path(), subnet(), GATEWAY, &id(number), |_| Ok(false));
        let mut given: Vec<_> = (0..5).map(|number| take(number).unwrap()).collect();
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 5);
        assert!(!given.contains(&GATEWAY));
        assert_eq!(take(5).unwrap_err().kind(), &Kind::InUse);
        release(folder.path(), given[2], &id(0)).unwrap();
        for number in 0..5 {
            release(folder.path(), given[2], &id(number)).unwrap();
        }
        assert_eq!(take(5).unwrap(), given[2]);
    }

    #[test]
    fn an_address_whose_former_interface_lingers_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path(), subnet(), GATEWAY, &id(1), |_| Ok(false)).unwrap();
        release(folder.path(), first, &id(1)).unwrap();
        let second = take(folder.path(), subnet(), GATEWAY, &id(1), |address| {
            Ok(address == first)
        })
        .unwrap();
        assert_ne!(first, second);
        assert_eq!(list(folder.path()).unwrap(), [(second, id(1))]);
    }

    #[test]
    fn the_same_container_gets_the_same_address_again() {
        let folder = tempfile::tempdir().unwrap();
        let take = || take(folder.path(), subnet(), GATEWAY, &id(7), |_| Ok(false)).unwrap();
        let first = take();
        assert_eq!(take(), first, "the lease of a killed create is taken over");
        release(folder.path(), first, &id(7)).unwrap();
        assert_eq!(take(), first);
    }

    #[test]
    fn a_lease_of_another_is_not_released() {
        let folder = tempfile::tempdir().unwrap();
        let address = take(folder.path(), subnet(), GATEWAY, &id(1), |_| Ok(false)).unwrap();
        release(folder.path(), address, &id(2)).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [(address, id(1))]);
    }
}
