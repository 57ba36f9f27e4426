//! Who asks, and what of the estate the answer may hold (invariants 20a and 21).
//!
//! A scope is an argument of everything that reads. What reads for the program itself names the
//! system scope, so that no caller gets all rows by leaving something out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::time::Timestamp;

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads and changes everything.
    Operator,
    /// Reads the rows of its account and manages the account's users and keys.
    AccountAdministrator,
    /// Reads the rows of its account.
    Viewer,
    /// Sends samples and events; reads nothing.
    Agent,
    /// Asks for placements; reads nodes, plans and decisions.
    Scheduler,
}

/// A role that this version does not know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown role {0:?}; the roles are operator, account_administrator, viewer, agent, scheduler"
)]
pub struct UnknownRole(pub String);

/// Half-open period of time in which a project belongs to whom a scope is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Validity {
    /// First instant.
    pub start: Timestamp,
    /// First instant past it; [`Timestamp::MAX`] where none is known.
    pub end: Timestamp,
}

/// Which rows a principal may see: all of them, or those of some projects, each in its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(Extent);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Extent {
    System,
    Projects(Arc<BTreeMap<Arc<str>, Vec<Validity>>>),
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Unique name for logs and the audit, such as `user:alice` or `key:3f9c…`; never a secret.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// The account that it belongs to; none of an operator, an agent or a scheduler.
    pub account: Option<Arc<str>>,
    /// What it may see.
    pub scope: Scope,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] =
        [Role::Operator, Role::AccountAdministrator, Role::Viewer, Role::Agent, Role::Scheduler];

    /// The name in configuration, tokens and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::AccountAdministrator => "account_administrator",
            Role::Viewer => "viewer",
            Role::Agent => "agent",
            Role::Scheduler => "scheduler",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Validity {
    /// All of time.
    pub const ALWAYS: Validity = Validity { start: Timestamp(i64::MIN), end: Timestamp(i64::MAX) };

    /// Whether an instant lies in it.
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

impl Scope {
    /// Everything: what the program itself and operators see.
    pub const fn system() -> Self {
        Scope(Extent::System)
    }

    /// The rows of some projects while they are valid; nothing if there are none.
    ///
    /// The operator's own project, the empty one, is nobody's and is left out.
    pub fn projects(projects: impl IntoIterator<Item = (Arc<str>, Validity)>) -> Self {
        let mut map: BTreeMap<Arc<str>, Vec<Validity>> = BTreeMap::new();
        for (project, validity) in projects {
            if !project.is_empty() && validity.start < validity.end {
                map.entry(project).or_default().push(validity);
            }
        }
        map.values_mut().for_each(|periods| periods.sort_unstable());
        Scope(Extent::Projects(Arc::new(map)))
    }

    /// Whether every row may be seen.
    pub fn is_system(&self) -> bool {
        matches!(self.0, Extent::System)
    }

    /// Whether a row of a project at an instant may be seen.
    pub fn admits(&self, project: &str, at: Timestamp) -> bool {
        match &self.0 {
            Extent::System => true,
            Extent::Projects(map) => map
                .get(project)
                .is_some_and(|periods| periods.iter().any(|period| period.contains(at))),
        }
    }

    /// Whether what covers a whole period of a project, such as a bill, may be seen: it tells of all
    /// of it, so the project has to be valid throughout.
    pub fn covers(&self, project: &str, start: Timestamp, end: Timestamp) -> bool {
        match &self.0 {
            Extent::System => true,
            Extent::Projects(map) => map.get(project).is_some_and(|periods| {
                periods.iter().any(|period| period.start <= start && end <= period.end)
            }),
        }
    }

    /// Projects and when they are valid, in order; none of the system scope, which has all.
    pub fn iter(&self) -> Option<impl Iterator<Item = (&Arc<str>, &[Validity])>> {
        match &self.0 {
            Extent::System => None,
            Extent::Projects(map) => Some(map.iter().map(|(name, of)| (name, of.as_slice()))),
        }
    }
}

impl Principal {
    /// An operator, who sees everything.
    pub fn operator(name: &str) -> Self {
        Principal { name: name.into(), role: Role::Operator, account: None, scope: Scope::system() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(of: &[(&str, i64, i64)]) -> Scope {
        Scope::projects(of.iter().map(|&(project, start, end)| {
            (project.into(), Validity { start: Timestamp(start), end: Timestamp(end) })
        }))
    }

    #[test]
    fn rows_are_seen_of_valid_projects_only() {
        let scope = scope(&[("blue", 10, 20), ("blue", 30, 40), ("red", 0, 5)]);
        let seen = |project, at| scope.admits(project, Timestamp(at));
        assert!(seen("blue", 10) && seen("blue", 19) && seen("blue", 30) && seen("red", 0));
        assert!(!seen("blue", 9) && !seen("blue", 20) && !seen("blue", 40) && !seen("red", 5));
        assert!(!seen("green", 10) && !seen("", 10) && !seen("blu", 10));
        assert!(!scope.is_system());
        let covers = |start, end| scope.covers("blue", Timestamp(start), Timestamp(end));
        assert!(covers(10, 20) && covers(12, 18) && covers(30, 40));
        assert!(!covers(9, 20) && !covers(10, 21) && !covers(15, 35));
        assert!(!scope.covers("green", Timestamp(10), Timestamp(20)));
    }

    #[test]
    fn nobody_owns_what_is_the_operators_own() {
        let scope = scope(&[("", 0, 100), ("late", 7, 7)]);
        assert!(!scope.admits("", Timestamp(50)) && !scope.admits("late", Timestamp(7)));
        assert_eq!(scope.iter().map(Iterator::count), Some(0));
    }

    #[test]
    fn the_system_sees_all() {
        let system = Scope::system();
        assert!(system.admits("any", Timestamp(0)) && system.admits("", Timestamp(0)));
        assert!(system.covers("any", Timestamp(i64::MIN), Timestamp(i64::MAX)));
        assert!(system.is_system() && system.iter().is_none());
    }

    #[test]
    fn roles_have_names() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(UnknownRole("root".to_owned())));
    }
}
