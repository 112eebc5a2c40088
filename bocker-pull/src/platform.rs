//! Platforms and the choice among an index's manifests: names made equal as Go programs do, older variants taken where there is
//! no newer one, in the order of <https://github.com/containerd/platforms>.

use bocker_pipe::layout::{Descriptor, Platform};
use bocker_pipe::{Error, Kind, Result};

/// buildkit's marker on an index entry that describes another entry and is no image.
const ATTESTATION: (&str, &str) = ("vnd.docker.reference.type", "attestation-manifest");
/// What such entries name as their system.
const UNKNOWN_OS: &str = "unknown";
/// The newest variant of 32 bit ARM, and the one meant when none is named.
const ARM_DEFAULT: u8 = 7;
const ARM_OLDEST: u8 = 5;

/// The platform of this host. The variant of amd64 is the newest level that the processor has.
pub(crate) fn host() -> Platform {
    let architecture = std::env::consts::ARCH;
    let mut platform = Platform {
        os: std::env::consts::OS.to_owned(),
        architecture: architecture.to_owned(),
        variant: None,
    };
    if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        "ppc64le".clone_into(&mut platform.architecture);
    }
    let mut platform = normal(&platform);
    if platform.architecture == "amd64" {
        platform.variant = amd64_level();
    }
    platform
}

/// The level of <https://gitlab.com/x86-psABIs/x86-64-ABI> that the processor has, `None` for the first.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> Option<String> {
    macro_rules! all { ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature) &&)* true } }
    let v2 = all!("cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3");
    let v3 = v2 && all!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "xsave");
    let v4 = v3 && all!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => Some("v4".to_owned()),
        (_, true, _) => Some("v3".to_owned()),
        (true, ..) => Some("v2".to_owned()),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> Option<String> {
    None
}

/// Reads `os/arch[/variant]`.
pub(crate) fn parse(text: &str) -> Result<Platform> {
    let wrong = || {
        Error::new(Kind::Usage, format!("'{text}' is not a platform"))
            .hint("name one like linux/arm64 or linux/arm/v7")
    };
    let parts: Vec<&str> = text.split('/').collect();
    let well_formed = |part: &&str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if !parts.iter().all(well_formed) {
        return Err(wrong());
    }
    let (os, architecture, variant) = match parts[..] {
        [os, architecture] => (os, architecture, None),
        [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
        _ => return Err(wrong()),
    };
    Ok(normal(&Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant,
    }))
}

/// `linux/arm/v7`.
pub(crate) fn show(platform: &Platform) -> String {
    let Platform {
        os,
        architecture,
        variant,
    } = platform;
    match variant {
        Some(variant) => format!("{os}/{architecture}/{variant}"),
        None => format!("{os}/{architecture}"),
    }
}

/// One spelling for what has several.
fn normal(platform: &Platform) -> Platform {
    let os = platform.os.to_ascii_lowercase();
    let architecture = platform.architecture.to_ascii_lowercase();
    let variant = platform
        .variant
        .as_deref()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
        ("loongarch64", variant) => ("loong64", variant),
        (architecture, variant) => (architecture, variant),
    };
    let variant = Some(variant.to_owned()).filter(|variant| !variant.is_empty());
    Platform {
        os,
        architecture: architecture.to_owned(),
        variant,
    }
}

/// How well an image for `offered` runs where `wanted` is asked for: 0 is best, `None` not at all.
pub(crate) fn rank(wanted: &Platform, offered: &Platform) -> Option<usize> {
    let (wanted, offered) = (normal(wanted), normal(offered));
    if wanted.os != offered.os {
        return None;
    }
    let offered = (
        offered.architecture.as_str(),
        offered.variant.unwrap_or_default(),
    );
    let runs = acceptable(
        &wanted.architecture,
        wanted.variant.as_deref().unwrap_or_default(),
    );
    runs.iter().position(|(architecture, variant)| {
        (architecture.as_str(), variant) == (offered.0, &offered.1)
    })
}

/// The architectures and variants that run on one, best first.
fn acceptable(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let mut list = vec![(architecture.to_owned(), variant.to_owned())];
    let mut add = |architecture: &str, variant: String| {
        let entry = (architecture.to_owned(), variant);
        if !list.contains(&entry) {
            list.push(entry);
        }
    };
    match architecture {
        "amd64" => {
            for level in (2..level(variant).unwrap_or(1)).rev() {
                add("amd64", format!("v{level}"));
            }
            add("amd64", String::new());
            add("386", String::new());
        }
        "arm" => {
            for level in (ARM_OLDEST..level(variant).unwrap_or(ARM_DEFAULT)).rev() {
                add("arm", format!("v{level}"));
            }
        }
        "arm64" => {
            // v9.x contains v8.(x+5).
            let (major, minor) = arm64_version(variant);
            let mut v8 = if major >= 9 {
                minor.saturating_add(5)
            } else {
                minor
            };
            for minor in (0..minor).rev().filter(|_| major >= 9) {
                add(
                    "arm64",
                    if minor == 0 {
                        "v9".to_owned()
                    } else {
                        format!("v9.{minor}")
                    },
                );
            }
            while v8 > 0 {
                add("arm64", format!("v8.{v8}"));
                v8 -= 1;
            }
            add("arm64", String::new());
            for level in (ARM_OLDEST..=8).rev() {
                add("arm", format!("v{level}"));
            }
        }
        _ => {}
    }
    list
}

/// `v3` is 3. Small numbers only: there are no others, and each is a turn of a loop.
fn level(variant: &str) -> Option<u8> {
    variant
        .strip_prefix('v')?
        .parse()
        .ok()
        .filter(|level| *level < 32)
}

fn arm64_version(variant: &str) -> (u8, u8) {
    let version = variant.strip_prefix('v').unwrap_or("8");
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    (
        major.parse().unwrap_or(8),
        minor.parse().ok().filter(|minor| *minor < 32).unwrap_or(0),
    )
}

/// The entry of an index to follow: the one that fits best, the first of equals; else the first that does not say what it is
/// for, which may be a nested index.
pub(crate) fn choose<'a>(wanted: &Platform, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
    let images = || entries.iter().filter(|entry| !is_attestation(entry));
    let ranked =
        images().filter_map(|entry| Some((rank(wanted, entry.platform.as_ref()?)?, entry)));
    let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    best.or_else(|| images().find(|entry| entry.platform.is_none()))
}

/// What an index offers, for the error that names it.
pub(crate) fn offers(entries: &[Descriptor]) -> String {
    let images = entries.iter().filter(|entry| !is_attestation(entry));
    let mut names: Vec<String> = images
        .filter_map(|entry| entry.platform.as_ref())
        .map(show)
        .collect();
    names.dedup();
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

/// Whether an entry of an index is a note about an image, and not one.
pub(crate) fn is_attestation(entry: &Descriptor) -> bool {
    entry
        .annotations
        .get(ATTESTATION.0)
        .is_some_and(|kind| kind == ATTESTATION.1)
        || entry
            .platform
            .as_ref()
            .is_some_and(|platform| platform.os == UNKNOWN_OS)
}

#[cfg(test)]
mod tests {
    use bocker_pipe::layout::Digest;

    use super::*;

    fn entry(platform: Option<&str>) -> Descriptor {
        let raw = |text: &str| {
            let mut parts = text.split('/').map(str::to_owned);
            Platform {
                os: parts.next().unwrap(),
                architecture: parts.next().unwrap(),
                variant: parts.next(),
            }
        };
        Descriptor {
            media_type: "m".into(),
            digest: Digest::of(platform.unwrap_or_default().as_bytes()),
            size: 1,
            annotations: Default::default(),
            platform: platform.map(raw),
        }
    }

    fn chosen(wanted: &str, offered: &[&str]) -> Option<String> {
        let entries: Vec<Descriptor> = offered
            .iter()
            .map(|platform| entry(Some(platform)))
            .collect();
        choose(&parse(wanted).unwrap(), &entries)?
            .platform
            .as_ref()
            .map(show)
    }

    #[test]
    fn the_host_is_a_linux_platform_that_runs_its_own_images() {
        let host = host();
        assert_eq!(host.os, "linux");
        assert!(
            rank(
                &host,
                &Platform {
                    variant: None,
                    ..host.clone()
                }
            )
            .is_some()
        );
    }

    #[test]
    fn the_best_fit_is_chosen_and_never_a_newer_variant() {
        for (wanted, offered, expected) in [
            (
                "linux/amd64",
                &["linux/arm64", "linux/amd64"][..],
                Some("linux/amd64"),
            ),
            (
                "linux/amd64",
                &["windows/amd64", "linux/amd64"],
                Some("linux/amd64"),
            ),
            (
                "linux/amd64/v3",
                &["linux/amd64", "linux/amd64/v2"],
                Some("linux/amd64/v2"),
            ),
            (
                "linux/amd64",
                &["linux/amd64/v3", "linux/386"],
                Some("linux/386"),
            ),
            ("linux/amd64", &["linux/amd64/v3"], None),
            (
                "linux/amd64/v2",
                &["linux/amd64/v1"],
                Some("linux/amd64/v1"),
            ),
            ("linux/arm64", &["linux/arm64/v8"], Some("linux/arm64/v8")),
            ("linux/arm64/v8", &["linux/arm64"], Some("linux/arm64")),
            (
                "linux/aarch64",
                &["linux/arm/v7", "linux/arm64/v8"],
                Some("linux/arm64/v8"),
            ),
            (
                "linux/arm64/v9.2",
                &["linux/arm64/v8", "linux/arm64/v8.7", "linux/arm64/v9"],
                Some("linux/arm64/v9"),
            ),
            (
                "linux/arm64/v9",
                &["linux/arm64/v8.5", "linux/arm64/v9.1"],
                Some("linux/arm64/v8.5"),
            ),
            (
                "linux/arm64",
                &["linux/arm/v6", "linux/arm/v7"],
                Some("linux/arm/v7"),
            ),
            (
                "linux/arm",
                &["linux/arm/v6", "linux/arm/v7"],
                Some("linux/arm/v7"),
            ),
            (
                "linux/arm/v6",
                &["linux/arm/v7", "linux/arm/v5"],
                Some("linux/arm/v5"),
            ),
            ("linux/armhf", &["linux/arm/v7"], Some("linux/arm/v7")),
            ("linux/riscv64", &["linux/amd64"], None),
            ("linux/s390x", &["linux/s390x"], Some("linux/s390x")),
        ] {
            assert_eq!(
                chosen(wanted, offered).as_deref(),
                expected,
                "{wanted} of {offered:?}"
            );
        }
    }

    #[test]
    fn attestations_are_never_chosen() {
        let mut marked = entry(None);
        marked
            .annotations
            .insert(ATTESTATION.0.into(), ATTESTATION.1.into());
        let entries = [marked, entry(Some("unknown/unknown"))];
        assert_eq!(choose(&parse("linux/amd64").unwrap(), &entries), None);
        assert_eq!(offers(&entries), "nothing");
    }

    #[test]
    fn an_entry_that_does_not_say_what_it_is_for_is_the_last_choice() {
        let entries = [entry(None), entry(Some("linux/amd64"))];
        assert_eq!(
            choose(&parse("linux/amd64").unwrap(), &entries),
            Some(&entries[1])
        );
        assert_eq!(
            choose(&parse("linux/arm64").unwrap(), &entries),
            Some(&entries[0])
        );
    }

    #[test]
    fn a_variant_of_absurd_size_costs_nothing() {
        assert_eq!(
            chosen("linux/arm64/v9.255", &["linux/arm64"]).as_deref(),
            Some("linux/arm64")
        );
        assert_eq!(
            chosen("linux/amd64/v255", &["linux/amd64"]).as_deref(),
            Some("linux/amd64")
        );
    }

    #[test]
    fn what_is_not_a_platform_is_refused() {
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/amd64/v1/x",
            "linux/am d64",
            "li\nnux/amd64",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
