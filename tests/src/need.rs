//! Programs that a test drives: missing ones skip the test at a desk and fail it where all tests must run.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Variables under which nothing may be skipped.
const MUST_RUN: [&str; 2] = ["CI", "BOCKER_TESTS_MUST_RUN"];

/// Whether all of `programs` (names separated by spaces) are installed; a test begins with
/// `if !need("jq runc") { return; }`.
///
/// # Panics
/// When one is missing and `CI` or `BOCKER_TESTS_MUST_RUN` is set: a skipped test proves nothing there.
#[must_use]
pub fn need(programs: &str) -> bool {
    let missing: Vec<&str> = programs
        .split_whitespace()
        .filter(|p| find(p).is_none())
        .collect();
    require(&missing)
}

/// Whether nothing is missing.
pub(crate) fn require(missing: &[&str]) -> bool {
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(
        MUST_RUN.iter().all(|v| env::var_os(v).is_none()),
        "this test needs {missing}: install it (`make test` does)"
    );
    eprintln!("skipped: this test needs {missing}");
    false
}

/// Looks `program` up in PATH and in the system folders that a user's PATH may lack.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
