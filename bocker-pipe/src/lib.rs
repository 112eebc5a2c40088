//! The contract that the tools of bocker share, as code: the document that crosses their pipes, steps and undo,
//! errors and exit codes, ids, claims and liveness. It touches no kernel object but files and their locks, and no network.
//!
//! The crate's README is the protocol for those who write a stage in another language.

pub mod claim;
#[cfg(feature = "archive")]
pub mod compression;
pub mod containers;
pub mod document;
pub mod error;
pub mod events;
pub mod files;
#[cfg(all(any(test, fuzzing), feature = "layout"))]
#[doc(hidden)]
pub mod fuzz;
pub mod id;
pub mod incoming;
#[cfg(feature = "layout")]
pub mod layout;
pub mod listed;
pub mod lock;
pub mod part;
pub mod paths;
pub mod pool;
pub mod program;
#[cfg(feature = "layout")]
pub mod reference;
pub mod rotated;
mod signals;
pub mod size;
pub mod state;
pub mod step;
#[cfg(feature = "archive")]
pub mod tar;
pub mod time;
pub mod timing;
pub mod tool;
pub mod watch;
#[cfg(feature = "archive")]
mod zstd;

pub use document::Document;
pub use error::{Doing, Error, Kind, Result};
pub use id::Id;
pub use step::Step;
pub use tool::{Arg, Call, Tool, Verb, VerbKind};
