//! Killed anywhere: SIGKILL after every change that a tool makes to the machine, and after every step of whole pipelines.
//! Then one ordinary command, and the machine is as before; nothing that was there is damaged or lost, and no address or name
//! is given to two.

mod cg;
mod files;
mod front;
mod net;
mod pull;
mod snap;
mod spawn;
mod store;
mod volumes;

use bocker_tests::{Call, Fingerprint, Host, Struck};

/// All that have a `gc`.
const TOOLS: [&str; 5] = [
    "bocker-spawn",
    "bocker-cg",
    "bocker-net",
    "bocker-snap",
    "bocker-pull",
];

/// Kills a program after its first change to the machine, then one that has not been killed yet after its second, and so on,
/// until one ends by itself. `prepare` gives the program, with what `recover` needs to know to put things right after it.
///
/// # Panics
/// When the program ends before it has changed `least` things: then this would show little.
#[track_caller]
fn at_every_change<T>(
    least: usize,
    mut prepare: impl FnMut() -> (Call, T),
    mut recover: impl FnMut(T),
) {
    for count in 1.. {
        let (program, known) = prepare();
        match program.kill_after_change(count) {
            Struck::Killed(name) => {
                eprintln!("killed after change {count}, {name}");
                recover(known);
            }
            Struck::Ended(output) => {
                assert!(count > least, "only {} changes: {output}", count - 1);
                return recover(known);
            }
        }
    }
}

/// Removes at once what is left of whatever was killed half-way, and checks that nothing else is missing, and nothing left.
#[track_caller]
fn collect(host: &Host, tools: &[&str], before: &Fingerprint) {
    for tool in tools {
        host.run(&[tool, "gc", "--grace", "0"]).ok();
    }
    host.assert_same(before);
}
