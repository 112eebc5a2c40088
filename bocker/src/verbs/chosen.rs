//! Which containers a verb is for: those that are named, or in their place the one made last, or of a verb that takes several all to
//! which it can be done.

use bocker_pipe::{Error, Kind, Result};

use crate::container::{self, Container};
use crate::filter::{self, Filter};
use crate::session::Session;

/// The container made last.
pub(crate) fn latest(session: &Session) -> Result<String> {
    let found = container::list(session, |stage| stage)?;
    found
        .first()
        .map(name)
        .ok_or_else(|| Error::new(Kind::NotFound, "there is no container yet"))
}

/// What it is called by.
fn name(one: &Container) -> String {
    match one.name() {
        "" => one.id.to_string(),
        name => name.to_owned(),
    }
}

/// What stands for one container on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// Id or name
    #[arg(required_unless_present = "latest")]
    name: Option<String>,
    /// The one made last
    #[arg(short, long, conflicts_with = "name")]
    latest: bool,
}

impl One {
    /// Its name.
    pub(crate) fn name(&self, session: &Session) -> Result<String> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => latest(session),
        }
    }
}

/// What stands for containers on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Chosen {
    /// Ids or names
    #[arg(required_unless_present_any = ["all", "latest", "filter"])]
    names: Vec<String>,
    /// All to which it can be done
    #[arg(long, conflicts_with_all = ["names", "latest"])]
    all: bool,
    /// The one made last
    #[arg(short, long, conflicts_with = "names")]
    latest: bool,
    /// Of all to which it can be done those of which this holds, see 'bocker help ps'
    #[arg(long, value_name = "KEY=VALUE", value_parser = Filter::parse, conflicts_with = "names")]
    filter: Vec<Filter>,
}

impl Chosen {
    /// Their names; of those that are not named, the oldest first: others may stand on it. `fits` says to which of all it can be
    /// done.
    pub(crate) fn names(
        &self,
        session: &Session,
        fits: impl Fn(&Container) -> bool,
    ) -> Result<Vec<String>> {
        if !self.names.is_empty() {
            return Ok(self.names.clone());
        }
        let mut found = container::list(session, |stage| {
            stage.options("--with", filter::shown(&self.filter))
        })?;
        filter::keep(&mut found, &self.filter)?;
        match self.latest {
            true => found.truncate(1),
            false => found.retain(fits),
        }
        Ok(found.iter().rev().map(name).collect())
    }

    /// Whether they are chosen by when they are begun again.
    pub(crate) fn is_by_policy(&self) -> bool {
        self.filter.iter().any(Filter::is_of_policy)
    }
}
