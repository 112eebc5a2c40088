//! Whether the kernel killed in a container for want of memory: read from its memory cgroup, which is bocker-cg's.

use std::fs;
use std::path::Path;

use crate::plan::Cgroups;

/// cgroup-v1/memory: a line `oom_kill N`.
const V1: &str = "memory.oom_control";
/// cgroup-v2: the same.
const V2: &str = "memory.events";
const KEY: &str = "oom_kill ";

/// Any kill counts, of process 1 or another. Without a memory cgroup there is nothing to know.
pub(crate) fn kills(cgroups: &Cgroups) -> u64 {
    let of = |path: &Path| -> u64 { [V1, V2].iter().map(|name| count(&path.join(name))).sum() };
    // Controllers of v2 share one group, and those of v1 have no such file but one.
    cgroups.unique().into_iter().map(of).sum()
}

fn count(path: &Path) -> u64 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix(KEY))
                .and_then(|count| count.trim().parse().ok())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_versions_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        fs::write(&path, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
        assert_eq!(count(&path), 3);
        fs::write(&path, "low 0\noom 2\noom_kill 0\n").unwrap();
        assert_eq!(count(&path), 0);
        assert_eq!(count(Path::new("/nowhere")), 0);
    }
}
