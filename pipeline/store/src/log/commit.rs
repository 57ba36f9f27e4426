//! One commit: what it changes, as JSON lines, and what it conflicts with.

use std::collections::HashSet;

use deltalake_core::kernel::{Add, Remove, Transaction};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::seal::{BLANK, is_intact, seal};
use super::{Found, Log};
use crate::table::StoreError;

/// What one version changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commit {
    /// By which its writer knows it again.
    pub(crate) id: String,
    /// When it was made, in milliseconds.
    pub(crate) at: i64,
    pub(crate) operation: &'static str,
    pub(crate) adds: Vec<Add>,
    pub(crate) removes: Vec<Remove>,
    pub(crate) positions: Vec<Transaction>,
    /// Protocol and metadata of the table, in their first form.
    pub(crate) head: Map<String, Value>,
}

/// What another writer did that contradicts a commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version {version} of table {table} {what}")]
pub struct Beaten {
    pub(crate) table: &'static str,
    pub(crate) version: i64,
    pub(crate) what: String,
}

#[derive(Default, Deserialize)]
struct Info {
    timestamp: Option<i64>,
    #[serde(rename = "txnId")]
    id: Option<String>,
}

impl Log {
    /// Takes a version for a commit, or says which commit has it.
    pub(crate) async fn append(
        &self,
        version: i64,
        encoded: &[u8],
    ) -> Result<Option<Commit>, StoreError> {
        if self.create(version, encoded).await? {
            return Ok(None);
        }
        Ok(match self.commit(version).await? {
            Found::Good(commit) => Some(commit),
            // It may have said anything, so nothing may come after it unseen.
            Found::Missing | Found::Damaged(_) => Some(Commit {
                head: Map::from_iter([("damaged".to_owned(), Value::Null)]),
                ..Commit::default()
            }),
        })
    }
}

impl Commit {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
            serde_json::from_value(value).map_err(|error| error.to_string())
        }
        if !is_intact(bytes) {
            return Err("it is not what was written".to_owned());
        }
        let mut commit = Commit::default();
        let mut lines = 0;
        for line in serde_json::Deserializer::from_slice(bytes).into_iter::<Map<String, Value>>() {
            lines += 1;
            for (kind, value) in line.map_err(|error| error.to_string())? {
                match kind.as_str() {
                    "add" => commit.adds.push(typed(value)?),
                    "remove" => commit.removes.push(typed(value)?),
                    "txn" => commit.positions.push(typed(value)?),
                    "protocol" | "metaData" => drop(commit.head.insert(kind, value)),
                    "commitInfo" => {
                        let info: Info = typed(value)?;
                        commit.at = info.timestamp.unwrap_or(0);
                        commit.id = info.id.unwrap_or_default();
                    }
                    _ => {}
                }
            }
        }
        if lines == 0 {
            return Err("it is empty".to_owned());
        }
        Ok(commit)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let info = json!({
            "timestamp": self.at,
            "operation": self.operation,
            "engineInfo": concat!("nilometer/", env!("CARGO_PKG_VERSION")),
            "txnId": self.id,
            "seal": BLANK,
        });
        let head = self.head.iter().map(|(kind, value)| json!({ kind.as_str(): value }));
        let positions = self.positions.iter().map(|position| json!({ "txn": position }));
        let removes = self.removes.iter().map(|remove| json!({ "remove": remove }));
        let adds = self.adds.iter().map(|add| json!({ "add": add }));
        let lines = head.chain(positions).chain(removes).chain(adds);
        let lines = lines.chain(std::iter::once(json!({ "commitInfo": info })));
        let lines: Vec<String> = lines.map(|line| line.to_string()).collect();
        seal(lines.join("\n").into_bytes())
    }

    /// What a commit that came first did that this one must not come after: it moved one of the
    /// same positions, or dropped one of the same files.
    pub(crate) fn contradicted_by(&self, first: &Commit) -> Option<String> {
        if !first.head.is_empty() {
            return Some("changed the table itself".to_owned());
        }
        let moved: HashSet<&str> = first.positions.iter().map(|it| it.app_id.as_str()).collect();
        let dropped: HashSet<&str> = first.removes.iter().map(|it| it.path.as_str()).collect();
        let position = self.positions.iter().find(|it| moved.contains(it.app_id.as_str()));
        let file = self.removes.iter().find(|it| dropped.contains(it.path.as_str()));
        match (position, file) {
            (Some(position), _) => Some(format!("moved {}", position.app_id)),
            (None, Some(file)) => Some(format!("dropped {}", file.path)),
            (None, None) => None,
        }
    }
}
