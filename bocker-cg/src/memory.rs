//! The memory controller: a limit that counts swap too, and whether the kernel killed for want of memory.
//! Kernel documentation: admin-guide/cgroup-v1/memory, admin-guide/cgroup-v2 ("Memory").

use std::fs;
use std::path::Path;

use bocker_pipe::Result;
use bocker_pipe::size::{self, show};
use serde_json::{Value, json};

use crate::controller::{Interface, Setting};
use crate::group;
use crate::hierarchies::Version;
use crate::request::{Memory, Request, out_of_range};

pub(crate) const NAME: &str = "memory";
pub(crate) const RESOURCES: &str = "memory";
pub(crate) const WHY: &str =
    "limits memory, so that the container cannot take all of the machine's";

const LIMIT: &str = "memory.limit_in_bytes";
/// Memory and swap together; a kernel without swap accounting lacks it.
const SWAP_LIMIT: &str = "memory.memsw.limit_in_bytes";
const OOM: &str = "memory.oom_control";
const MAX_V2: &str = "memory.max";
/// Swap alone; a kernel without swap accounting lacks it, and the root group does.
const SWAP_MAX: &str = "memory.swap.max";
const EVENTS: &str = "memory.events";
/// What a kernel that can swap has (proc_swaps(5)).
const SWAPS: &str = "/proc/swaps";
/// The line of [`OOM`] and [`EVENTS`] that counts the killed.
const OOM_KILLS: &str = "oom_kill ";

/// Less than this and no command can be started. Docker refuses less than 6 MB, for the sake of its runtime's own needs.
const MIN: u64 = 512 << 10;
/// What a file of the kernel's can hold: LONG_MAX, in whole pages.
const MAX: u64 = i64::MAX as u64;

/// Parses a limit: `512m`, `512MiB` and `512MB`, `1g`, `1048576`, `1048576b`.
pub(crate) fn parse(text: &str) -> Result<u64> {
    let bytes = size::parse(text)?;
    check(bytes).map(|()| bytes)
}

/// Checks a limit in bytes.
pub(crate) fn check(limit: u64) -> Result<()> {
    if (MIN..=MAX).contains(&limit) {
        return Ok(());
    }
    Err(out_of_range("--memory", &show(limit), &range()))
}

fn range() -> String {
    format!("{} or more; leave it out for no limit", show(MIN))
}

/// Whether the kernel counts swap. On v1 the root of the hierarchy shows it; on v2 any other group does, so that before
/// [`parent`](crate::unified::PARENT) is made, what the kernel can do must answer.
pub(crate) fn counts_swap(version: Version, parent: &Path) -> bool {
    match version {
        Version::V1 => parent.join(SWAP_LIMIT).exists(),
        Version::V2 if parent.exists() => parent.join(SWAP_MAX).exists(),
        Version::V2 => Path::new(SWAPS).exists(),
    }
}

pub(crate) const V1: Interface = Interface {
    shown_by: Some(LIMIT),
    settings: v1,
};
pub(crate) const V2: Interface = Interface {
    shown_by: Some(MAX_V2),
    settings: v2,
};

fn v1(request: &Request, parent: &Path) -> Vec<Setting> {
    let Some(memory) = &request.memory else {
        return Vec::new();
    };
    // In this order: the limit with swap may never be less than the one without.
    let mut settings = vec![Setting::new(LIMIT, memory.limit)];
    if counts_swap(Version::V1, parent) {
        settings.push(Setting::new(SWAP_LIMIT, memory.limit));
    }
    settings
}

/// Of memory and swap together nothing is left for swap.
fn v2(request: &Request, parent: &Path) -> Vec<Setting> {
    let Some(memory) = &request.memory else {
        return Vec::new();
    };
    let mut settings = vec![Setting::new(MAX_V2, memory.limit)];
    if counts_swap(Version::V2, parent) {
        settings.push(Setting::new(SWAP_MAX, 0));
    }
    settings
}

/// As the OCI runtime-spec has it for both versions: `swap` is memory and swap together.
pub(crate) fn resources(version: Version, request: &Request, parent: &Path) -> Option<Value> {
    let memory = request.memory.as_ref()?;
    let mut resources = json!({"limit": memory.limit});
    if counts_swap(version, parent) {
        resources["swap"] = memory.limit.into();
    }
    Some(resources)
}

/// How many processes in a group and beneath it the kernel has killed for want of memory.
pub(crate) fn oom_kills(top: &Path) -> u64 {
    let count = |path: &Path| -> Option<u64> {
        let text = fs::read_to_string(path).ok()?;
        let count = |line: &str| line.strip_prefix(OOM_KILLS)?.parse().ok();
        Some(text.lines().find_map(count).unwrap_or(0))
    };
    // On v2 a group counts for those beneath it, those that are gone included.
    count(&top.join(EVENTS)).unwrap_or_else(|| {
        let groups = group::tree(top);
        groups.iter().filter_map(|g| count(&g.join(OOM))).sum()
    })
}

/// What is said when the kernel has killed.
pub(crate) fn oom_message(id: &str, kills: u64, request: Option<&Memory>) -> String {
    let processes = if kills == 1 { "process" } else { "processes" };
    let limit = match request {
        Some(Memory { limit, default }) => {
            let default = if *default { " (default)" } else { "" };
            format!("limit {}{default}", show(*limit))
        }
        None => "no limit of its own".into(),
    };
    format!("{id} ran out of memory, {limit}: the kernel killed {kills} {processes}")
}

#[cfg(test)]
mod tests {
    use bocker_pipe::Kind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them_and_mb_is_decimal() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("1048576b", 1 << 20),
            ("512k", 512 << 10),
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("512MiB", 512 << 20),
            ("512MB", 512_000_000),
            ("512mb", 512_000_000),
            ("1g", 1 << 30),
            ("1GB", 1_000_000_000),
            ("2t", 2 << 40),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for text in [
            "",
            "m",
            "0",
            "1",
            "511k",
            "-1",
            "-512m",
            "+512m",
            "1.5g",
            "1+1",
            "a[$(id)]",
            "0x1000000",
            "512 m",
            "512mm",
            "512p",
            "512bb",
            "512mibb",
            "18446744073709551616",
            "9223372036854775808",
            "16777216t",
            "99999999999g",
            "\u{665}12m",
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), &Kind::Invalid, "{text:?}");
        }
    }

    #[test]
    fn an_oom_kill_names_the_limit_and_that_nobody_chose_it() {
        let memory = |default| Memory {
            limit: 512_000_000,
            default,
        };
        assert_eq!(
            oom_message("ps_3fa0c1", 1, Some(&memory(true))),
            "ps_3fa0c1 ran out of memory, limit 512 MB (default): the kernel killed 1 process"
        );
        assert!(oom_message("ps_3fa0c1", 2, Some(&memory(false))).contains("limit 512 MB: the"));
    }

    #[test]
    fn on_version_2_nothing_is_left_for_swap_where_it_is_counted() {
        let parent = tempfile::tempdir().unwrap();
        let request = Request {
            memory: Some(Memory {
                limit: 64 << 20,
                default: false,
            }),
            ..Request::default()
        };
        let limit = Setting::new("memory.max", 64 << 20);
        assert_eq!(v2(&request, parent.path()), std::slice::from_ref(&limit));
        fs::write(parent.path().join("memory.swap.max"), "max\n").unwrap();
        let both = [limit, Setting::new("memory.swap.max", 0)];
        assert_eq!(v2(&request, parent.path()), both);
        let resources = |version| resources(version, &request, parent.path()).unwrap();
        let total = json!({"limit": 64 << 20, "swap": 64 << 20});
        assert_eq!(resources(Version::V2), total);
        assert_eq!(resources(Version::V1), json!({"limit": 64 << 20}));
    }

    #[test]
    fn kills_are_counted_in_both_versions() {
        let top = tempfile::tempdir().unwrap();
        let (top, beneath) = (top.path(), top.path().join("beneath"));
        fs::create_dir(&beneath).unwrap();
        assert_eq!(oom_kills(top), 0);
        for group in [top, &beneath] {
            fs::write(group.join(OOM), "oom_kill_disable 0\noom_kill 2\n").unwrap();
        }
        assert_eq!(oom_kills(top), 4);
        for group in [top, &beneath] {
            fs::write(group.join(EVENTS), "oom 7\noom_kill 3\noom_group_kill 0\n").unwrap();
        }
        assert_eq!(oom_kills(top), 3, "what is beneath is counted already");
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_in_range_or_an_error(text in "\\PC*") {
            if let Ok(bytes) = parse(&text) {
                prop_assert!((MIN..=MAX).contains(&bytes));
            }
        }

        #[test]
        fn what_is_shown_of_mebibytes_is_read_back(mebibytes in 1u64..1 << 30) {
            let shown = show(mebibytes << 20).replace(' ', "");
            prop_assert_eq!(parse(&shown).unwrap(), mebibytes << 20);
        }
    }
}
