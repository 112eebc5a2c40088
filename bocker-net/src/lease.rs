//! Address leases: `/run/bocker/net/<bridge>/10.0.0.2 -> ../../ps_x`, a symbolic link an address, which is made exclusively
//! and with its content in one system call. A lease belongs to the bridge, not to a BOCKER_ROOT.
//!
//! The id says which address is tried first, and in a range that is mostly free that is all. Where several in a row are taken,
//! an index finds a free one: a file with a bit for each of 65,536 addresses, locked while it is used. It only says where to
//! look, and is made anew when it leads nowhere: what counts is the links.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bocker_pipe::{Doing, Error, Id, Kind, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::network::Range;
use crate::subnet::Subnet;
use crate::{host, netns};

/// How many addresses are tried before the index is asked.
const TRIES: u128 = 8;
/// What the name of an index begins with; the first address of its block follows.
const INDEX: &str = "taken-";
/// How many bits of an address differ within one index.
const BLOCK_BITS: u8 = 16;
const BLOCK_BYTES: usize = 1 << (BLOCK_BITS - 3);

/// The folder of a bridge's leases.
pub(crate) fn folder(bridge: &str) -> PathBuf {
    host::folder().join(bridge)
}

/// What the link of a lease points to: the claim of its container, seen from the folder of leases.
pub(crate) fn target(id: &Id) -> String {
    format!("../../{id}")
}

/// The addresses of a network that are given to containers.
pub(crate) struct Pool {
    pub(crate) folder: PathBuf,
    /// Of the network; its first address is nobody's, nor in IPv4 its last.
    pub(crate) subnet: Subnet,
    /// The part of it that addresses are chosen from.
    pub(crate) range: Subnet,
    /// Never handed out.
    pub(crate) gateway: IpAddr,
}

/// What came of trying an address.
#[derive(PartialEq, Eq)]
enum Try {
    Taken,
    /// It is another's, or nobody's to have.
    Refused,
    /// Its former interface is still there.
    Lingers,
}

impl Pool {
    /// The addresses of one of the network's subnets.
    pub(crate) fn of(bridge: &str, range: &Range) -> Pool {
        Pool {
            folder: folder(bridge),
            subnet: range.subnet,
            range: range.range.unwrap_or(range.subnet),
            gateway: range.gateway,
        }
    }

    /// The address that is tried first.
    pub(crate) fn first(&self, id: &Id) -> Option<IpAddr> {
        let start = self.range.place_of(id);
        let places = (start..=self.range.last_place()).chain(0..start);
        let mut addresses = places.filter_map(|place| self.range.nth(place));
        addresses.find(|address| !self.is_nobodys(*address))
    }

    /// Whether no container can have it.
    fn is_nobodys(&self, address: IpAddr) -> bool {
        address == self.gateway || self.subnet.reserves(address) || !self.subnet.contains(address)
    }

    /// Takes an address that nobody has: the `earlier` one of this container if it is free, else near the one that the id
    /// picks. One for which `lingers` holds is passed over: its former interface is still there.
    pub(crate) fn take(
        &self,
        id: &Id,
        earlier: Option<IpAddr>,
        mut lingers: impl FnMut(IpAddr) -> Result<bool>,
    ) -> Result<IpAddr> {
        let range = self.range;
        let earlier = earlier.filter(|address| self.subnet.contains(*address));
        if let Some(address) = earlier
            && self.attempt(address, id, &mut lingers)? == Try::Taken
        {
            return Ok(address);
        }
        let start = range.place_of(id);
        for step in 0..TRIES.min(range.last_place().saturating_add(1)) {
            // The number of places is a power of two.
            let place = (start + step) & range.last_place();
            if let Some(address) = range.nth(place)
                && self.attempt(address, id, &mut lingers)? == Try::Taken
            {
                return Ok(address);
            }
        }
        let mut place = 0;
        while let Some(first) = range.nth(place) {
            if let Some(address) = self.take_by_index(first, id, &mut lingers)? {
                return Ok(address);
            }
            place += 1 << BLOCK_BITS;
        }
        Err(self.is_full())
    }

    fn is_full(&self) -> Error {
        let what = format!("every address of {} is taken", self.range);
        Error::new(Kind::InUse, what).hint(
            "remove containers, free forgotten leases with 'bocker-net gc', or make a larger network with 'bocker network create'",
        )
    }

    /// Takes this address. Fails with [`Kind::InUse`] when it is another's, and with [`Kind::Invalid`] when no container can
    /// have it. Its former interface is waited for.
    pub(crate) fn take_this(
        &self,
        address: IpAddr,
        id: &Id,
        mut lingers: impl FnMut(IpAddr) -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.attempt(address, id, &mut lingers)? {
                Try::Taken => return Ok(()),
                Try::Refused => return Err(self.refusal(address)),
                Try::Lingers if start.elapsed() < netns::ENDS_WITHIN => {
                    std::thread::sleep(netns::PAUSE);
                }
                Try::Lingers => {
                    let what =
                        format!("{address} is still on the interface of a container that is gone");
                    return Err(Error::new(Kind::InUse, what)
                        .hint("a process is in its network namespace: see 'lsns -t net'"));
                }
            }
        }
    }

    fn refusal(&self, address: IpAddr) -> Error {
        let lease = self.folder.join(address.to_string());
        if self.is_nobodys(address) {
            let what = format!("{address} is no container's to have on {}", self.subnet);
            return Error::new(Kind::Invalid, what)
                .hint("it has to be in the subnet, but not its first or last, nor the gateway's");
        }
        match holder(&lease) {
            Some(id) => Error::new(Kind::InUse, format!("{address} is the address of {id}"))
                .hint("choose another, or remove that container"),
            None => damaged(&lease),
        }
    }

    fn attempt(
        &self,
        address: IpAddr,
        id: &Id,
        lingers: &mut impl FnMut(IpAddr) -> Result<bool>,
    ) -> Result<Try> {
        if self.is_nobodys(address) {
            return Ok(Try::Refused);
        }
        let lease = self.folder.join(address.to_string());
        match self.link(&lease, id) {
            Ok(()) => {}
            // A killed create of the same container has left its lease.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if holder(&lease).as_ref() != Some(id) {
                    return Ok(Try::Refused);
                }
            }
            Err(error) => return Err(error).doing(|| format!("lease {}", lease.display())),
        }
        match lingers(address) {
            Ok(false) => Ok(Try::Taken),
            Ok(true) => remove(&lease).map(|()| Try::Lingers),
            Err(error) => {
                remove(&lease)?;
                Err(error)
            }
        }
    }

    fn link(&self, lease: &Path, id: &Id) -> std::io::Result<()> {
        match symlink(target(id), lease) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.folder)?;
                symlink(target(id), lease)
            }
            result => result,
        }
    }

    /// Takes a free address of the block that holds `first`. `None` when there is none in it.
    fn take_by_index(
        &self,
        first: IpAddr,
        id: &Id,
        lingers: &mut impl FnMut(IpAddr) -> Result<bool>,
    ) -> Result<Option<IpAddr>> {
        let block = block(first);
        let begin = block.place(first);
        let end = block.last_place().min(begin + self.range.last_place());
        let mut index = Index::open(&self.folder, block)?;
        loop {
            let Some(place) = index.first_free(begin, end) else {
                match index.is_new {
                    true => return Ok(None),
                    false => index.build(&self.folder)?,
                }
                continue;
            };
            let Some(address) = block.nth(place) else {
                return Ok(None);
            };
            match self.attempt(address, id, lingers)? {
                // It is free as soon as its interface has gone.
                Try::Lingers => index.mark(place, true),
                Try::Refused => index.write(place, true)?,
                Try::Taken => {
                    index.write(place, true)?;
                    return Ok(Some(address));
                }
            }
        }
    }
}

/// The addresses that have one index.
fn block(address: IpAddr) -> Subnet {
    let width = Subnet::of(address, u8::MAX).prefix();
    Subnet::of(address, width - BLOCK_BITS)
}

/// Which addresses of a block are taken, locked as long as this lives.
struct Index {
    file: Flock<File>,
    path: PathBuf,
    block: Subnet,
    bits: Vec<u8>,
    /// It was made from the leases just now.
    is_new: bool,
}

impl Index {
    fn path(folder: &Path, block: Subnet) -> PathBuf {
        folder.join(format!("{INDEX}{}", block.network()))
    }

    /// The index, made if there is none or it is damaged.
    fn open(folder: &Path, block: Subnet) -> Result<Index> {
        let path = Index::path(folder, block);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).mode(0o600);
        let mut index = Index::lock(options, path, block)?;
        if index.bits.len() != BLOCK_BYTES {
            index.build(folder)?;
        }
        Ok(index)
    }

    fn lock(options: &OpenOptions, path: PathBuf, block: Subnet) -> Result<Index> {
        let what = || format!("read {}", path.display());
        let file = options.open(&path).doing(what)?;
        let mut file = host::flock(file, FlockArg::LockExclusive).doing(what)?;
        let mut bits = Vec::with_capacity(BLOCK_BYTES);
        file.read_to_end(&mut bits).doing(what)?;
        Ok(Index {
            file,
            path,
            block,
            bits,
            is_new: false,
        })
    }

    fn build(&mut self, folder: &Path) -> Result<()> {
        self.bits = vec![0; BLOCK_BYTES];
        self.is_new = true;
        for address in addresses(folder)? {
            if self.block.contains(address) {
                self.mark(self.block.place(address), true);
            }
        }
        self.file
            .set_len(BLOCK_BYTES as u64)
            .and_then(|()| self.file.write_all_at(&self.bits, 0))
            .doing(|| format!("write {}", self.path.display()))
    }

    /// The first of these places whose bit is not set, found by eight at once.
    fn first_free(&self, begin: u128, end: u128) -> Option<u128> {
        let is_free = |place: &u128| self.byte(*place) & bit(*place) == 0;
        let mut place = begin;
        while place <= end {
            if self.byte(place) == u8::MAX {
                place = (place | 7) + 1;
                continue;
            }
            let of_byte = (place..=(place | 7).min(end)).find(is_free);
            if of_byte.is_some() {
                return of_byte;
            }
            place = (place | 7) + 1;
        }
        None
    }

    fn byte(&self, place: u128) -> u8 {
        let byte = usize::try_from(place >> 3).ok();
        byte.and_then(|byte| self.bits.get(byte).copied())
            .unwrap_or(u8::MAX)
    }

    fn mark(&mut self, place: u128, taken: bool) {
        let byte = usize::try_from(place >> 3).ok();
        if let Some(byte) = byte.and_then(|byte| self.bits.get_mut(byte)) {
            *byte = match taken {
                true => *byte | bit(place),
                false => *byte & !bit(place),
            };
        }
    }

    /// Marks it for those who come later, too.
    fn write(&mut self, place: u128, taken: bool) -> Result<()> {
        self.mark(place, taken);
        // A block has 65,536 places.
        let at = (place >> 3) as u64;
        self.file
            .write_all_at(&[self.byte(place)], at)
            .doing(|| format!("write {}", self.path.display()))
    }

    /// Says in an index that is there that an address is free.
    fn free(folder: &Path, address: IpAddr) -> Result<()> {
        let block = block(address);
        let path = Index::path(folder, block);
        let mut options = OpenOptions::new();
        match Index::lock(options.read(true).write(true), path, block) {
            Ok(mut index) if index.bits.len() == BLOCK_BYTES => {
                index.write(block.place(address), false)
            }
            Ok(_) => Ok(()),
            Err(error) if error.is(nix::errno::Errno::ENOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn bit(place: u128) -> u8 {
    1 << (place & 7)
}

/// Gives an address back. Already gone, or another's by now, is success.
pub(crate) fn release(folder: &Path, address: IpAddr, id: &Id) -> Result<()> {
    let lease = folder.join(address.to_string());
    if holder(&lease).as_ref() != Some(id) {
        return Ok(());
    }
    remove(&lease)?;
    Index::free(folder, address)
}

fn remove(lease: &Path) -> Result<()> {
    match fs::remove_file(lease) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("release {}", lease.display())),
    }
}

fn holder(lease: &Path) -> Option<Id> {
    let id = Id::parse(fs::read_link(lease).ok()?.file_name()?.to_str()?).ok()?;
    id.is_container().then_some(id)
}

/// The error for a lease that no tool of ours has made.
fn damaged(lease: &Path) -> Error {
    let what = format!("the lease {} names no container", lease.display());
    Error::new(Kind::Invalid, what).hint(format!(
        "if no container has the address, remove it with 'rm {}'",
        lease.display()
    ))
}

/// The addresses for which there is something in the folder.
fn addresses(folder: &Path) -> Result<Vec<IpAddr>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(|| format!("read {}", folder.display())),
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

/// All leases in a folder: address and id, sorted. What is no lease is left out, see [`check`].
pub(crate) fn list(folder: &Path) -> Result<Vec<(IpAddr, Id)>> {
    let with_holder = |address: IpAddr| Some((address, holder(&folder.join(address.to_string()))?));
    let mut leases: Vec<_> = addresses(folder)?
        .into_iter()
        .filter_map(with_holder)
        .collect();
    leases.sort();
    Ok(leases)
}

/// Fails with [`Kind::Invalid`] when a lease in a folder names no container: it was edited by hand. Its address is given to nobody.
pub(crate) fn check(folder: &Path) -> Result<()> {
    for address in addresses(folder)? {
        let lease = folder.join(address.to_string());
        // One that was released meanwhile is none.
        if holder(&lease).is_none() && fs::symlink_metadata(&lease).is_ok() {
            return Err(damaged(&lease));
        }
    }
    Ok(())
}

/// Removes a folder without leases, indices and all. Already gone is success.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    let what = || format!("remove {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).doing(what),
    };
    for entry in entries.flatten() {
        let is_index = entry.file_name().to_string_lossy().starts_with(INDEX);
        if is_index {
            remove(&entry.path())?;
        }
    }
    host::remove_empty(folder)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pool(folder: &Path, subnet: &str) -> Pool {
        let subnet: Subnet = subnet.parse().unwrap();
        Pool {
            folder: folder.join("leases"),
            subnet,
            range: subnet,
            gateway: subnet.gateway(),
        }
    }

    fn id(number: u32) -> Id {
        Id::parse(&format!("ps_{number:06}")).unwrap()
    }

    fn take(pool: &Pool, number: u32) -> Result<IpAddr> {
        pool.take(&id(number), None, |_| Ok(false))
    }

    #[test]
    fn addresses_are_unique_until_none_is_left_and_the_gateways_is_never_given() {
        for (subnet, hosts) in [
            ("10.9.8.0/29", 5),
            ("10.9.8.0/23", 509),
            ("fd00::/120", 254),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let pool = pool(folder.path(), subnet);
            let given: HashSet<_> = (0..hosts).map(|n| take(&pool, n).unwrap()).collect();
            assert_eq!(given.len(), hosts as usize);
            assert!(!given.contains(&pool.gateway));
            assert!(!given.iter().any(|address| pool.subnet.reserves(*address)));
            assert_eq!(take(&pool, hosts).unwrap_err().kind(), &Kind::InUse);
            let one = *given.iter().next().unwrap();
            (0..hosts).for_each(|n| release(&pool.folder, one, &id(n)).unwrap());
            assert_eq!(take(&pool, hosts).unwrap(), one);
        }
    }

    #[test]
    fn the_last_free_address_of_a_whole_16_is_found_wherever_it_is() {
        // 65,533 links take seconds on a disk.
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let pool = pool(folder.path(), "10.9.0.0/16");
        take(&pool, 0).unwrap();
        for place in 2..=pool.subnet.last_place() {
            let address = pool.subnet.nth(place).unwrap();
            let _ = symlink(target(&id(1)), pool.folder.join(address.to_string()));
        }
        assert_eq!(take(&pool, 2).unwrap_err().kind(), &Kind::InUse);
        for address in ["10.9.0.2", "10.9.200.77", "10.9.255.254"] {
            let address = address.parse().unwrap();
            release(&pool.folder, address, &id(1)).unwrap();
            assert_eq!(take(&pool, 2).unwrap(), address);
        }
        // Nor is one forgotten that somebody has removed by hand, whatever the index says.
        fs::remove_file(pool.folder.join("10.9.3.4")).unwrap();
        assert_eq!(take(&pool, 3).unwrap().to_string(), "10.9.3.4");
    }

    #[test]
    fn a_damaged_index_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "10.9.8.0/26");
        let given: Vec<_> = (0..40).map(|n| take(&pool, n).unwrap()).collect();
        let index = Index::path(&pool.folder, block(given[0]));
        assert!(index.exists());
        for damage in [&b""[..], b"short", &[0; BLOCK_BYTES], &[0xff; BLOCK_BYTES]] {
            fs::write(&index, damage).unwrap();
            let address = take(&pool, 100).unwrap();
            assert!(!given.contains(&address));
            release(&pool.folder, address, &id(100)).unwrap();
        }
    }

    #[test]
    fn an_address_whose_former_interface_lingers_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "10.9.8.0/29");
        let first = take(&pool, 1).unwrap();
        release(&pool.folder, first, &id(1)).unwrap();
        let second = pool.take(&id(1), None, |address| Ok(address == first));
        let second = second.unwrap();
        assert_ne!(first, second);
        assert_eq!(list(&pool.folder).unwrap(), [(second, id(1))]);
    }

    #[test]
    fn the_same_container_gets_the_same_address_again() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "10.9.8.0/24");
        let first = take(&pool, 7).unwrap();
        assert_eq!(
            take(&pool, 7).unwrap(),
            first,
            "the lease of a killed create is taken over"
        );
        release(&pool.folder, first, &id(7)).unwrap();
        assert_eq!(take(&pool, 7).unwrap(), first);
        // Another one that it had, as it was asked for or its own was taken.
        let earlier = "10.9.8.200".parse().unwrap();
        let again = pool.take(&id(7), Some(earlier), |_| Ok(false));
        assert_eq!(again.unwrap(), earlier);
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_or_the_reason_told() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "10.9.8.0/24");
        let ask = |address: &str, number| {
            pool.take_this(address.parse().unwrap(), &id(number), |_| Ok(false))
        };
        ask("10.9.8.7", 1).unwrap();
        ask("10.9.8.7", 1).unwrap();
        let error = ask("10.9.8.7", 2).unwrap_err();
        assert!(error.message().contains("ps_000001"), "{error}");
        for address in ["10.9.8.0", "10.9.8.1", "10.9.8.255"] {
            assert_eq!(
                ask(address, 3).unwrap_err().kind(),
                &Kind::Invalid,
                "{address}"
            );
        }
    }

    #[test]
    fn a_lease_that_was_edited_is_told_of_given_to_nobody_and_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "10.9.8.0/24");
        let mine = take(&pool, 1).unwrap();
        let lease = pool.folder.join("10.9.8.7");
        for damage in ["", "ps_000002"] {
            fs::write(&lease, damage).unwrap();
            assert_eq!(list(&pool.folder).unwrap(), [(mine, id(1))]);
            let error = check(&pool.folder).unwrap_err();
            assert!(error.message().contains("10.9.8.7"), "{error}");
            let asked = pool.take_this("10.9.8.7".parse().unwrap(), &id(2), |_| Ok(false));
            assert_eq!(asked.unwrap_err().kind(), &Kind::Invalid);
            release(&pool.folder, "10.9.8.7".parse().unwrap(), &id(2)).unwrap();
            assert!(lease.exists());
            fs::remove_file(&lease).unwrap();
        }
        check(&pool.folder).unwrap();
    }

    #[test]
    fn a_lease_of_another_is_not_released() {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), "10.9.8.0/29");
        let address = take(&pool, 1).unwrap();
        release(&pool.folder, address, &id(2)).unwrap();
        assert_eq!(list(&pool.folder).unwrap(), [(address, id(1))]);
    }

    #[test]
    fn addresses_come_from_the_range_alone() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool {
            range: "10.9.8.128/29".parse().unwrap(),
            ..pool(folder.path(), "10.9.8.0/24")
        };
        let given: HashSet<_> = (0..8).map(|n| take(&pool, n).unwrap()).collect();
        assert!(given.iter().all(|address| pool.range.contains(*address)) && given.len() == 8);
        assert_eq!(take(&pool, 8).unwrap_err().kind(), &Kind::InUse);
    }
}
