//! How containers on one user-made network know each other: by lines in their hosts files. A table a network,
//! `/run/bocker/net/names/<bridge>`, which is in the form of hosts(5) itself, says who is there under which names; whenever one
//! comes or goes, everyone on that network is told in its hosts file, by lines that end with our mark. What else stands in these
//! files is the container's own and is kept. Who comes is appended, which costs the same however many are there already.
//!
//! Tables and files are changed under one lock. A table is written before the files when one comes, and after them when one goes,
//! so that whoever was killed in between, the id is in the table and the next `delete` or `gc` does the whole again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bocker_pipe::error::Failures;
use bocker_pipe::step::quote;
use bocker_pipe::{Doing, Error, Id, Kind, Result, containers, paths};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::{files, host};

/// In our folder: the tables.
const FOLDER: &str = "names";
/// What a table is written under before it is whole; no bridge has such a name.
const NEW: &str = ".new";
/// So much of what stands before a change is looked at: a page.
const KNOWN: usize = 4096;
/// How each line ends that is ours, in a hosts file: a comment, hosts(5).
const MARK: &str = " # bocker-net";
/// A container that has made its hosts file larger keeps it as it is.
const HOSTS_MAX: u64 = 16 << 20;

/// One interface of a container, and by which names the others on its network find it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The network's interface on the host.
    pub(crate) bridge: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Its id is one of them.
    pub(crate) names: Vec<String>,
}

impl Entry {
    /// `name` is the container's, if it has one. What could not be told from an id, or not be a word of hosts(5), is left out.
    pub(crate) fn new(
        bridge: &str,
        addresses: Vec<IpAddr>,
        id: &Id,
        name: Option<&str>,
        aliases: &[String],
    ) -> Entry {
        let name = name.filter(|name| containers::is_name(name) && Id::parse(name).is_err());
        let aliases = aliases.iter().map(String::as_str);
        let aliases = aliases.filter(|alias| checked_alias(alias).is_ok());
        let mut names: Vec<String> = Vec::new();
        for one in name.into_iter().chain([id.as_str()]).chain(aliases) {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(one)) {
                names.push(one.to_owned());
            }
        }
        Entry {
            bridge: bridge.to_owned(),
            addresses,
            names,
        }
    }

    /// The lines of its network's table.
    pub(crate) fn lines(&self) -> Vec<String> {
        let names = self.names.join(" ");
        let line = |address: &IpAddr| format!("{address}\t{names}");
        self.addresses.iter().map(line).collect()
    }
}

/// Takes another name for a container. Fails with [`Kind::Invalid`] on what is no host name, and on ids: they are somebody's.
pub(crate) fn checked_alias(name: &str) -> Result<&str> {
    if files::is_domain(name) && Id::parse(name).is_err() {
        return Ok(name);
    }
    let name = name.escape_debug();
    let what = format!("'{name}' cannot be another name of a container");
    Err(Error::new(Kind::Invalid, what)
        .hint("give letters, digits, '-', '_' and single dots between them, but no id"))
}

/// One line of a table: hosts(5), with the id of a container among the names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    of: Id,
    text: String,
}

impl Line {
    /// `None` for what others have put in.
    fn parse(text: &str) -> Option<Line> {
        let mut words = text.split_ascii_whitespace();
        words.next()?.parse::<IpAddr>().ok()?;
        let of = words.find_map(|word| Id::parse(word).ok())?;
        let text = text.trim_end().to_owned();
        Some(Line { of, text })
    }
}

/// Who is on one network.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Table(Vec<Line>);

impl Table {
    fn parse(text: &str) -> Table {
        Table(text.lines().filter_map(Line::parse).collect())
    }

    fn has(&self, id: &Id) -> bool {
        self.0.iter().any(|line| line.of == *id)
    }

    fn remove(&mut self, id: &Id) {
        self.0.retain(|line| line.of != *id);
    }

    fn text(&self) -> String {
        self.0
            .iter()
            .map(|line| format!("{}\n", line.text))
            .collect()
    }

    /// What those on this network are told.
    fn section(&self) -> String {
        self.0.iter().map(|line| marked(&line.text)).collect()
    }
}

/// A line of a hosts file.
fn marked(line: &str) -> String {
    format!("{line}{MARK}\n")
}

/// The tables, by bridge.
type Tables = BTreeMap<String, Table>;

/// The tables of a machine, and the claims in which the hosts files are.
pub(crate) struct Names {
    folder: PathBuf,
    claims: PathBuf,
}

/// Held as long as tables and files are changed.
struct Guard(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Names {
    /// Those of this machine.
    pub(crate) fn of_machine() -> Names {
        Names {
            folder: host::folder().join(FOLDER),
            claims: paths::run().to_owned(),
        }
    }

    /// From now on the others find this container by these names alone, and it finds them.
    pub(crate) fn join(&self, id: &Id, entries: &[Entry]) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .doing(|| format!("make {}", self.folder.display()))?;
        let _guard = self.lock()?;
        let former = self.read()?;
        let mut tables = former.clone();
        // What a killed one has left of it is not left beside.
        tables.values_mut().for_each(|table| table.remove(id));
        for entry in entries {
            let lines = entry.lines().into_iter().map(|text| Line {
                of: id.clone(),
                text,
            });
            let table = tables.entry(entry.bridge.clone()).or_default();
            table.0.extend(lines);
        }
        self.write(&former, &tables)?;
        self.spread(&former, &tables, Some(id))
    }

    /// Nobody finds this container any more. Not there is success.
    pub(crate) fn leave(&self, id: &Id) -> Result<()> {
        let _guard = match self.lock() {
            Err(error) if error.is(Errno::ENOENT) => return Ok(()),
            guard => guard?,
        };
        let former = self.read()?;
        let mut tables = former.clone();
        tables.values_mut().for_each(|table| table.remove(id));
        self.spread(&former, &tables, None)?;
        self.write(&former, &tables)
    }

    /// Whether a container is in any table.
    pub(crate) fn knows(&self, id: &Id) -> Result<bool> {
        Ok(self.read()?.values().any(|table| table.has(id)))
    }

    /// Who is in which network's table.
    pub(crate) fn members(&self) -> Result<Vec<(Id, String)>> {
        let mut members = Vec::new();
        for (bridge, table) in self.read()? {
            let of_bridge = table.0.into_iter().map(|line| (line.of, bridge.clone()));
            members.extend(of_bridge);
        }
        members.sort();
        members.dedup();
        Ok(members)
    }

    /// What stands with our mark in the hosts file of this container.
    pub(crate) fn told(&self, id: &Id) -> Result<String> {
        let path = self.claims.join(id).join(files::HOSTS);
        match fs::read(&path) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                let ours = text.lines().filter_map(|line| line.strip_suffix(MARK));
                Ok(ours.map(|line| format!("{line}\n")).collect())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).doing(|| format!("read {}", path.display())),
        }
    }

    /// What should stand there.
    pub(crate) fn to_tell(&self, id: &Id) -> Result<String> {
        let tables = self.read()?;
        let of = tables.values().filter(|table| table.has(id));
        Ok(of.map(Table::text).collect())
    }

    /// Removes what a killed one was about to write.
    pub(crate) fn sweep(&self) -> Result<()> {
        let new = self.folder.join(NEW);
        if !new.exists() {
            return Ok(());
        }
        // Nobody is about to while the lock is held.
        let _guard = self.lock()?;
        bocker_pipe::files::remove(&new)
    }

    /// Removes all of it, for one who knows that nobody is on any network.
    pub(crate) fn remove_all(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.doing(|| format!("remove {}", self.folder.display())),
        }
    }

    /// The commands that write lines into the table of a network.
    pub(crate) fn commands(&self, entry: &Entry) -> Vec<String> {
        let table = self.folder.join(&entry.bridge);
        let lines: Vec<String> = entry.lines().iter().map(|line| quote(line)).collect();
        vec![
            format!("mkdir -p -m 700 {}", self.folder.display()),
            format!("printf '%s\\n' {} >> {}", lines.join(" "), table.display()),
        ]
    }

    /// The folder of the tables.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn lock(&self) -> Result<Guard> {
        let doing = || format!("lock {}", self.folder.display());
        let mut file = File::open(&self.folder).doing(doing)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(guard) => return Ok(Guard(guard)),
                Err((again, Errno::EINTR)) => file = again,
                Err((_, errno)) => return Err(errno).doing(doing),
            }
        }
    }

    fn read(&self) -> Result<Tables> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Tables::new()),
            Err(error) => return Err(error).doing(|| format!("read {}", self.folder.display())),
        };
        let mut tables = Tables::new();
        for entry in entries.flatten() {
            let Ok(bridge) = entry.file_name().into_string() else {
                continue;
            };
            if bridge == NEW {
                continue;
            }
            let path = entry.path();
            let bytes = match fs::read(&path) {
                // The last one on it has gone meanwhile: those who only look take no lock.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes.doing(|| format!("read {}", path.display()))?,
            };
            tables.insert(bridge, Table::parse(&String::from_utf8_lossy(&bytes)));
        }
        Ok(tables)
    }

    /// Writes those that have changed.
    fn write(&self, former: &Tables, tables: &Tables) -> Result<()> {
        for (bridge, table) in tables {
            if former.get(bridge) == Some(table) {
                continue;
            }
            let (path, new) = (self.folder.join(bridge), self.folder.join(NEW));
            match table.0.is_empty() {
                true => bocker_pipe::files::remove(&path)?,
                false => fs::write(&new, table.text())
                    .and_then(|()| fs::rename(&new, &path))
                    .doing(|| format!("write {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// Tells all who are in a table that has changed. The file of the newcomer says nothing yet of what there was before.
    fn spread(&self, former: &Tables, tables: &Tables, newcomer: Option<&Id>) -> Result<()> {
        let mut networks_of: BTreeMap<&Id, Vec<&str>> = BTreeMap::new();
        for (bridge, table) in tables {
            for line in &table.0 {
                let networks = networks_of.entry(&line.of).or_default();
                if networks.last() != Some(&bridge.as_str()) {
                    networks.push(bridge);
                }
            }
        }
        // Most are on one network alone, and all of these are told the same.
        let mut news_of: BTreeMap<Vec<&str>, News> = BTreeMap::new();
        let mut failures = Failures::default();
        for (id, networks) in networks_of {
            let news = news_of
                .entry(networks)
                .or_insert_with_key(|networks| News::of(networks, former, tables));
            let path = self.claims.join(id).join(files::HOSTS);
            failures.note(match newcomer {
                Some(newcomer) if newcomer == id => rewrite(&path, &news.section),
                _ => news.tell(&path),
            });
        }
        failures.into_result()
    }
}

/// What those are told who are on the same networks.
struct News {
    former: String,
    section: String,
    /// How much of both is the same.
    same: usize,
    /// The line from which on a file has to be as it was.
    known: usize,
}

impl News {
    fn of(networks: &[&str], former: &Tables, tables: &Tables) -> News {
        let section = |tables: &Tables| {
            let of = networks.iter().filter_map(|bridge| tables.get(*bridge));
            of.map(Table::section).collect::<String>()
        };
        let (former, section) = (section(former), section(tables));
        let lines = section.split_inclusive('\n');
        let same = lines.zip(former.split_inclusive('\n'));
        let same = same.take_while(|(new, old)| new == old);
        let same: usize = same.map(|(line, _)| line.len()).sum();
        let known = section.as_bytes()[..same.saturating_sub(KNOWN)]
            .iter()
            .rposition(is_newline)
            .map_or(0, |last| last + 1);
        News {
            former,
            section,
            same,
            known,
        }
    }

    /// Changes the end of a hosts file that ends as it did when we wrote it; one that the container has changed is rewritten.
    fn tell(&self, path: &Path) -> Result<()> {
        let doing = || format!("write {}", path.display());
        let (former, section) = (self.former.as_bytes(), self.section.as_bytes());
        let (old, new) = (&former[self.same..], &section[self.same..]);
        if old == new {
            return Ok(());
        }
        let Some(mut file) = open(path, old.is_empty()).doing(doing)? else {
            return Ok(());
        };
        let length = file.seek(SeekFrom::End(0)).doing(doing)?;
        let known = &former[self.known..];
        let is_short = length <= former.len() as u64;
        if is_short || length > HOSTS_MAX || !ends_with(&file, length, known).doing(doing)? {
            return rewrite(path, &self.section);
        }
        put(&file, length - old.len() as u64, old, new).doing(doing)
    }
}

/// Whether a file of this length, which is longer, ends with these lines.
fn ends_with(file: &File, length: u64, lines: &[u8]) -> io::Result<bool> {
    let mut end = vec![0; lines.len() + 1];
    let from = length - end.len() as u64;
    file.read_exact_at(&mut end, from)?;
    Ok(is_newline(&end[0]) && end[1..] == *lines)
}

/// Puts this in place of the end of a file, that in which `old` stands.
fn put(file: &File, at: u64, old: &[u8], new: &[u8]) -> io::Result<()> {
    // Whoever reads meanwhile must not find what is left of the former text after the new one: empty lines cover it first. If
    // we are killed then, they stay until the next time.
    let mut covering = new.to_vec();
    covering.resize(new.len().max(old.len()), b'\n');
    let written = file
        .write_all_at(&covering, at)
        .and_then(|()| match new.len() < old.len() {
            true => file.set_len(at + new.len() as u64),
            false => Ok(()),
        });
    if written.is_err() {
        // The room that it had it still has; the first failure is the one to tell.
        let _ = file.write_all_at(old, at);
        let _ = file.set_len(at + old.len() as u64);
    }
    written
}

/// Opens a hosts file. One that is gone is nobody's any more. What is appended comes after what the container may be writing.
fn open(path: &Path, append: bool) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .append(append)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path);
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

/// Rewrites what a hosts file says of neighbours, in place: the file is bound into the container.
fn rewrite(path: &Path, section: &str) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let Some(mut file) = open(path, false).doing(doing)? else {
        return Ok(());
    };
    let mut former = Vec::new();
    (&mut file)
        .take(HOSTS_MAX + 1)
        .read_to_end(&mut former)
        .doing(doing)?;
    if former.len() as u64 > HOSTS_MAX {
        return Ok(());
    }
    put(&file, 0, &former, &with_section(&former, section)).doing(doing)
}

/// A hosts file with this section as its end. What the container wrote comes first: it keeps its place from now on, whatever
/// becomes of the rest.
fn with_section(former: &[u8], section: &str) -> Vec<u8> {
    // Empty lines at the end are those by which a killed one covered a longer text.
    let text_end = former.iter().rposition(|byte| !is_newline(byte));
    let former = text_end.map_or(&[][..], |last| &former[..=last]);
    let mut text = Vec::with_capacity(former.len() + section.len() + 1);
    for line in former.split(is_newline).filter(|_| !former.is_empty()) {
        if !line.ends_with(MARK.as_bytes()) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    text.extend_from_slice(section.as_bytes());
    text
}

fn is_newline(byte: &u8) -> bool {
    *byte == b'\n'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A machine with folders for these containers.
    struct Machine {
        folder: tempfile::TempDir,
        names: Names,
    }

    impl Machine {
        fn new(ids: &[&str]) -> Machine {
            let folder = tempfile::tempdir().unwrap();
            let names = Names {
                folder: folder.path().join("names"),
                claims: folder.path().to_owned(),
            };
            for id in ids {
                fs::create_dir(folder.path().join(id)).unwrap();
                fs::write(
                    folder.path().join(id).join("hosts"),
                    "127.0.0.1\tlocalhost\n",
                )
                .unwrap();
            }
            Machine { folder, names }
        }

        fn hosts(&self, id: &str) -> String {
            fs::read_to_string(self.folder.path().join(id).join("hosts")).unwrap()
        }

        fn append(&self, id: &str, text: &str) {
            let path = self.folder.path().join(id).join("hosts");
            let text = fs::read_to_string(&path).unwrap() + text;
            fs::write(path, text).unwrap();
        }
    }

    fn id(text: &str) -> Id {
        Id::parse(text).unwrap()
    }

    fn entry(bridge: &str, address: &str, of: &str, name: &str, aliases: &[&str]) -> Entry {
        let aliases: Vec<String> = aliases.iter().copied().map(String::from).collect();
        let address = vec![address.parse().unwrap()];
        Entry::new(bridge, address, &id(of), Some(name), &aliases)
    }

    #[test]
    fn who_comes_is_told_to_all_and_who_goes_is_forgotten() {
        let [a, b] = ["ps_aaaaaa", "ps_bbbbbb"];
        let machine = Machine::new(&[a, b]);
        let (one, other) = (
            entry("net_1", "10.1.0.2", a, "web", &["www"]),
            entry("net_1", "10.1.0.3", b, "db", &[]),
        );
        machine.names.join(&id(a), &[one]).unwrap();
        machine.names.join(&id(b), &[other]).unwrap();
        let told = format!(
            "127.0.0.1\tlocalhost\n10.1.0.2\tweb ps_aaaaaa www{MARK}\n10.1.0.3\tdb ps_bbbbbb{MARK}\n"
        );
        assert_eq!(machine.hosts(a), told);
        assert_eq!(machine.hosts(b), told);
        assert_eq!(
            machine.names.told(&id(a)).unwrap(),
            machine.names.to_tell(&id(a)).unwrap()
        );
        machine.names.leave(&id(b)).unwrap();
        machine.names.leave(&id(b)).unwrap();
        assert!(!machine.hosts(a).contains("db"));
        machine.names.leave(&id(a)).unwrap();
        assert!(machine.names.members().unwrap().is_empty());
        machine.names.remove_all().unwrap();
        machine.names.leave(&id(a)).unwrap();
    }

    #[test]
    fn each_is_told_of_those_on_its_own_networks_alone() {
        let [a, b, c] = ["ps_aaaaaa", "ps_bbbbbb", "ps_cccccc"];
        let machine = Machine::new(&[a, b, c]);
        machine
            .names
            .join(&id(a), &[entry("net_1", "10.1.0.2", a, "a1", &[])])
            .unwrap();
        let both = [
            entry("net_1", "10.1.0.3", b, "both", &[]),
            entry("net_2", "10.2.0.3", b, "both", &[]),
        ];
        machine.names.join(&id(b), &both).unwrap();
        machine
            .names
            .join(&id(c), &[entry("net_2", "10.2.0.4", c, "c1", &[])])
            .unwrap();
        assert!(machine.hosts(a).contains("10.1.0.3\tboth"));
        assert!(!machine.hosts(a).contains("10.2.0"));
        assert!(machine.hosts(b).contains("a1") && machine.hosts(b).contains("c1"));
        assert!(!machine.hosts(c).contains("10.1.0"));
        machine.names.leave(&id(b)).unwrap();
        assert!(!machine.hosts(a).contains("both") && !machine.hosts(c).contains("both"));
    }

    #[test]
    fn what_the_container_wrote_is_kept_wherever_it_stands() {
        let [a, b] = ["ps_aaaaaa", "ps_bbbbbb"];
        let machine = Machine::new(&[a, b]);
        machine
            .names
            .join(&id(a), &[entry("net_1", "10.1.0.2", a, "web", &[])])
            .unwrap();
        machine.append(a, "192.0.2.7\tmine");
        machine
            .names
            .join(&id(b), &[entry("net_1", "10.1.0.3", b, "db", &[])])
            .unwrap();
        machine.append(a, "192.0.2.8\tmine-too\n");
        machine.names.leave(&id(b)).unwrap();
        assert_eq!(
            machine.hosts(a),
            format!(
                "127.0.0.1\tlocalhost\n192.0.2.7\tmine\n192.0.2.8\tmine-too\n10.1.0.2\tweb ps_aaaaaa{MARK}\n"
            )
        );
    }

    #[test]
    fn what_the_container_took_out_is_told_again_to_it_and_nothing_twice() {
        let [a, b, c] = ["ps_aaaaaa", "ps_bbbbbb", "ps_cccccc"];
        let machine = Machine::new(&[a, b, c]);
        let join = |of: &str, address: &str| {
            let entry = entry("net_1", address, of, of, &[]);
            machine.names.join(&id(of), &[entry]).unwrap();
        };
        join(a, "10.1.0.2");
        machine.append(a, "192.0.2.7\tmine\n");
        join(b, "10.1.0.3");
        let line = |address: &str, of: &str| format!("{address}\t{of}{MARK}\n");
        let (one, other, third) = (
            line("10.1.0.2", a),
            line("10.1.0.3", b),
            line("10.1.0.4", c),
        );
        let kept = format!("127.0.0.1\tlocalhost\n192.0.2.7\tmine\n{one}{other}");
        assert_eq!(machine.hosts(a), kept);
        fs::write(machine.folder.path().join(a).join("hosts"), "anew\n").unwrap();
        fs::write(machine.folder.path().join(b).join("hosts"), "").unwrap();
        join(c, "10.1.0.4");
        let all = format!("{one}{other}{third}");
        assert_eq!(machine.hosts(a), format!("anew\n{all}"));
        assert_eq!(machine.hosts(b), all);
        // Who joins once more, as after a create that was killed, does not stand there twice.
        join(b, "10.1.0.3");
        assert_eq!(machine.hosts(c).matches(b).count(), 1);
        assert_eq!(machine.names.told(&id(a)).unwrap().lines().count(), 3);
    }

    #[test]
    fn two_with_one_alias_are_both_found_by_it() {
        let [a, b] = ["ps_aaaaaa", "ps_bbbbbb"];
        let machine = Machine::new(&[a, b]);
        for (of, address) in [(a, "10.1.0.2"), (b, "10.1.0.3")] {
            machine
                .names
                .join(&id(of), &[entry("net_1", address, of, of, &["pool"])])
                .unwrap();
        }
        let end = format!(" pool{MARK}\n");
        assert_eq!(machine.hosts(a).matches(&end).count(), 2);
    }

    #[test]
    fn a_name_that_is_an_id_or_no_word_is_nobodys() {
        let of = entry(
            "net_1",
            "10.1.0.2",
            "ps_aaaaaa",
            "ps_bbbbbb",
            &["ps_cccccc", "x y", "a\nb", "www", "WWW", ""],
        );
        assert_eq!(of.lines(), ["10.1.0.2\tps_aaaaaa www"]);
    }

    #[test]
    fn a_table_edited_by_hand_is_read_as_far_as_it_goes() {
        let [a, b] = ["ps_aaaaaa", "ps_bbbbbb"];
        let machine = Machine::new(&[a, b]);
        machine
            .names
            .join(&id(a), &[entry("net_1", "10.1.0.2", a, "web", &[])])
            .unwrap();
        let path = machine.names.folder.join("net_1");
        let cut = fs::read_to_string(&path).unwrap()
            + "\u{fffd}\n10.1.0.9\n10.1.0.9\tnobody\nx\tps_zzzzzz\n10.1.0.7 ps_zz";
        fs::write(&path, cut).unwrap();
        machine
            .names
            .join(&id(b), &[entry("net_1", "10.1.0.3", b, "db", &[])])
            .unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "10.1.0.2\tweb ps_aaaaaa\n10.1.0.3\tdb ps_bbbbbb\n"
        );
    }

    #[test]
    fn a_file_keeps_its_inode_and_one_that_is_no_file_is_left_alone() {
        use std::os::unix::fs::MetadataExt;
        let [a, b] = ["ps_aaaaaa", "ps_bbbbbb"];
        let machine = Machine::new(&[a, b]);
        let path = machine.folder.path().join(a).join("hosts");
        let before = fs::metadata(&path).unwrap().ino();
        machine
            .names
            .join(&id(a), &[entry("net_1", "10.1.0.2", a, "web", &[])])
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        let precious = machine.folder.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(
            machine
                .names
                .join(&id(b), &[entry("net_1", "10.1.0.3", b, "db", &[])])
                .is_err()
        );
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_the_section_is_its_end_once_and_the_rest_stays(
            lines in proptest::collection::vec("[a-z#\\PC]{0,6}|10.0.0.1\tps_abcdef # bocker-net", 0..8),
            newline: bool,
        ) {
            let mut former = lines.join("\n");
            if newline {
                former.push('\n');
            }
            let section = format!("10.1.0.2\tweb ps_aaaaaa{MARK}\n");
            let once = with_section(former.as_bytes(), &section);
            prop_assert!(once.ends_with(section.as_bytes()));
            if !former.contains(MARK) {
                prop_assert!(once.starts_with(former.trim_end_matches('\n').as_bytes()));
            }
            let twice = with_section(&once, &section);
            prop_assert_eq!(&twice, &once);
        }
    }
}
