//! What the commits of a table add up to.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::aside::{Missing, is_aside};
use crate::files::{DataFile, Files};
use crate::log::Commit;
use nilometer_contract::TableDef;

/// A version of a table.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) version: i64,
    /// Time of the newest commit that tells one, in milliseconds.
    pub(crate) at: i64,
    pub(crate) files: Files,
    /// By application id.
    pub(crate) positions: HashMap<String, i64>,
    /// Files that left, and when, in milliseconds.
    pub(crate) dropped: HashMap<String, i64>,
    /// Protocol and metadata.
    pub(crate) head: Map<String, Value>,
    /// Newest checkpoint known.
    pub(crate) checkpoint: Option<i64>,
    /// Commits that could not be read, by version.
    pub(crate) unread: Vec<Unread>,
}

/// A commit that is missing or damaged while later ones are there; what it changed is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Its version.
    pub version: i64,
    /// When the commits on both sides of it were made, in milliseconds; the same twice at the
    /// end of the log.
    pub between: (i64, i64),
    /// What is wrong with it.
    pub reason: String,
}

impl State {
    /// Before the first version.
    pub(crate) fn none() -> Self {
        State {
            version: -1,
            at: 0,
            files: Files::default(),
            positions: HashMap::new(),
            dropped: HashMap::new(),
            head: Map::new(),
            checkpoint: None,
            unread: Vec::new(),
        }
    }

    /// Moves on by one version.
    pub(crate) fn apply(&mut self, def: &'static TableDef, commit: &Commit) {
        self.version += 1;
        if commit.at > 0 {
            self.at = commit.at;
            let unread = self.unread.iter_mut().rev();
            let open = unread.take_while(|unread| unread.between.0 == unread.between.1);
            open.for_each(|unread| unread.between.1 = commit.at);
        }
        let gone: HashSet<&str> = commit.removes.iter().map(|file| file.path.as_str()).collect();
        self.files.remove(&gone);
        let dropped = commit.removes.iter();
        let dropped = dropped.map(|it| (it.path.clone(), it.deletion_timestamp.unwrap_or(0)));
        self.dropped.extend(dropped);
        for add in &commit.adds {
            self.files.insert(DataFile::of_add(def, add));
            self.dropped.remove(&add.path);
        }
        let positions = commit.positions.iter();
        self.positions.extend(positions.map(|it| (it.app_id.clone(), it.version)));
        if commit.positions.iter().any(|it| is_aside(&it.app_id)) {
            self.files.set_missing(Missing::of(def.name, &self.positions));
        }
        self.head.extend(commit.head.clone());
    }

    /// Moves on by one version of which nothing is known.
    pub(crate) fn skip(&mut self, reason: String) {
        self.version += 1;
        let between = (self.at, self.at);
        self.unread.push(Unread { version: self.version, between, reason });
    }
}
