//! Where the built binaries are.

use std::env;
use std::path::{Path, PathBuf};

/// The programs under test.
pub(crate) const TOOLS: [&str; 6] = [
    "bocker",
    "bocker-pull",
    "bocker-snap",
    "bocker-net",
    "bocker-cg",
    "bocker-spawn",
];

/// The folder of the binaries under test: `BOCKER_BIN_DIR`, else the profile that these tests were built with, else
/// the other one of `release` and `debug` beside it.
///
/// # Panics
/// When none of them holds any of the tools: the tests never build anything themselves.
#[must_use]
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = env::var_os("BOCKER_BIN_DIR") {
        let dir = PathBuf::from(dir);
        assert!(
            has_tools(&dir),
            "BOCKER_BIN_DIR={} holds none of the tools",
            dir.display()
        );
        return dir;
    }
    let own = profile_dir();
    let beside = own.parent().unwrap_or(&own).to_path_buf();
    let candidates = [own, beside.join("release"), beside.join("debug")];
    candidates
        .iter()
        .find(|dir| has_tools(dir))
        .unwrap_or_else(|| {
            panic!(
                "the tools are not built: none of {candidates:?} holds one. \
                 Run `cargo build --release`, or set BOCKER_BIN_DIR"
            )
        })
        .clone()
}

/// A place under the target folder for what is worth keeping between tests and runs.
pub(crate) fn cache_dir() -> PathBuf {
    // <target>/<tuple>/<profile>: the cache is shared by profiles.
    let profile = profile_dir();
    profile.parent().unwrap_or(&profile).join("tmp")
}

/// `<target>/<tuple>/<profile>`, of which a running test is `deps/<name>-<hash>` and a running program `<name>`.
fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("the path of the running test");
    let dir = exe.parent().expect("a program lies in a folder");
    match dir.ends_with("deps") {
        true => dir.parent().unwrap_or(dir),
        false => dir,
    }
    .to_path_buf()
}

fn has_tools(dir: &Path) -> bool {
    TOOLS.iter().any(|tool| dir.join(tool).is_file())
}
