//! The harness of the end-to-end tests: a private piece of the machine for each test, a real registry in it,
//! images made by hand, and a picture of the machine that can be compared with a later one.
//!
//! ```ignore
//! #[test]
//! fn a_container_leaves_nothing() {
//!     let host = Host::new();
//!     let before = host.fingerprint();
//!     host.run(&["bocker", "run", "--rm", "--rootfs", "/", "true"]).ok();
//!     host.assert_same(&before);
//! }
//! ```

mod bins;
mod cgroups;
mod command;
mod docker;
mod fingerprint;
mod fixture;
mod guest;
mod host;
mod hub;
mod killer;
mod need;
pub mod net;
pub mod peer;
mod reboot;
mod registry;
mod root;
mod session;
mod steps;
mod terminal;
mod tree;

pub use bins::bin_dir;
pub use cgroups::pids_hierarchy;
pub use command::{Call, Output, Running};
pub use docker::Docker;
pub use fingerprint::Fingerprint;
pub use fixture::{Archive, Image, Layer, Node, Platform};
pub use guest::{Guest, need_guest};
pub use host::{Host, is_btrfs, need_hybrid, root_of};
pub use hub::Hub;
pub use killer::Struck;
pub use need::need;
pub use reboot::Run;
pub use registry::Registry;
pub use root::{Container, Root};
pub use session::Session;
pub use steps::step_names;
pub use terminal::Terminal;
pub use tree::{assert_same_tree, tree};
