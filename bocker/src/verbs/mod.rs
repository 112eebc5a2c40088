//! One file for each verb: what can be typed after it, and the pipelines it stands for.

pub(crate) mod cleanup;
pub(crate) mod commit;
pub(crate) mod exec;
pub(crate) mod format;
pub(crate) mod help;
pub(crate) mod images;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod other;
pub(crate) mod outcome;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod volume;
