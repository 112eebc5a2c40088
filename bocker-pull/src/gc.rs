//! The verb `gc`: what nothing in the store leads to any more.

use std::time::Duration;

use bocker_pipe::layout::Layout;
use bocker_pipe::listed::Listed;
use bocker_pipe::{Arg, Call, Result};

/// Seconds for which `gc` leaves what it finds alone.
const GRACE: u64 = 600;

/// `gc`: removes files whose writer is dead and blobs that nothing leads to, and names each.
pub(crate) fn gc(call: &mut Call) -> Result<()> {
    let mut grace = GRACE;
    let mut listed = Listed::default();
    while let Some(arg) = call.arg()? {
        match arg {
            Arg::Option(option) if option == "--grace" => grace = call.number()?,
            Arg::Option(option) if option == "--listed" => listed = Listed::from_stdin()?,
            Arg::Option(option) => return Err(call.unknown(&option)),
            Arg::Value(word) => return Err(call.unexpected(&word)),
        }
    }
    let (dry_run, call) = (call.dry_run(), &*call);
    let may_go = |path: &str| listed.has(path);
    Layout::open().gc(Duration::from_secs(grace), dry_run, may_go, |garbage| {
        call.line(&garbage)
    })
}
