//! The files of a table as its log has them, in the order of their time.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use deltalake_core::kernel::Add;
use serde_json::{Map, Value, json};

use crate::aside::Missing;
use crate::sums::Sums;
use nilometer_contract::{ColumnType, TableDef, Timestamp};

/// A file of a table.
#[derive(Clone, Debug)]
pub struct DataFile {
    def: &'static TableDef,
    /// Path below the table's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Value of the partition column, if the table has one.
    pub partition: Option<String>,
    /// When it was written, in milliseconds.
    pub(crate) modified: i64,
    pub(crate) sums: Sums,
    /// By column of the table: smallest and largest value of integers and instants, where known.
    ranges: Box<[Option<(i64, i64)>]>,
    nulls: Box<[Option<u64>]>,
}

/// All files of one version; a copy costs nothing.
///
/// In the order of the latest instant of each, so that a question about lately looks at few of
/// many; files of a table without a time, or without rows, come last.
#[derive(Clone, Debug, Default)]
pub struct Files {
    list: Arc<Vec<Arc<DataFile>>>,
    rows: u64,
    first: Option<i64>,
    missing: Arc<[Missing]>,
}

impl DataFile {
    /// Name of its table.
    pub(crate) fn table(&self) -> &'static str {
        self.def.name
    }

    /// Smallest and largest value of an integer or instant column, where known.
    pub fn range(&self, column: &str) -> Option<(i64, i64)> {
        let place = self.def.columns.iter().position(|of| of.name == column)?;
        self.ranges[place]
    }

    /// First and last instant of its rows, by the time of the table.
    pub fn span(&self) -> Option<(i64, i64)> {
        self.range(self.def.time?)
    }

    /// Whether the file may hold a value of `[low, high]` in an integer or instant column.
    pub fn may_hold(&self, column: &str, low: i64, high: i64) -> bool {
        self.range(column).is_none_or(|(min, max)| min <= high && low <= max)
    }

    /// Reads an add action.
    pub(crate) fn of_add(def: &'static TableDef, add: &Add) -> Self {
        let text = add.stats.as_deref();
        let stats: Value =
            text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let bound = |side: &str, column: &str, kind: ColumnType| -> Option<i64> {
            let value = stats.get(side)?.get(column)?;
            match kind {
                ColumnType::Int => value.as_i64(),
                ColumnType::Instant => Some(value.as_str()?.parse::<Timestamp>().ok()?.0),
                _ => None,
            }
        };
        let columns = || def.columns.iter();
        let ranges = columns().map(|column| {
            let low = bound("minValues", column.name, column.kind)?;
            Some((low, bound("maxValues", column.name, column.kind)?))
        });
        let nulls = columns().map(|column| stats.get("nullCount")?.get(column.name)?.as_u64());
        DataFile {
            def,
            path: add.path.clone(),
            size: u64::try_from(add.size).unwrap_or(0),
            rows: stats.get("numRecords").and_then(Value::as_u64).unwrap_or(0),
            partition: def.partition.and_then(|of| add.partition_values.get(of)?.clone()),
            modified: add.modification_time,
            sums: Sums::of_add(add),
            ranges: ranges.collect(),
            nulls: nulls.collect(),
        }
    }

    /// The add action that tells of it, as of a state: no rows change by it.
    pub(crate) fn to_add(&self) -> Add {
        Add {
            path: self.path.clone(),
            partition_values: self.partition_values(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            modification_time: self.modified,
            data_change: false,
            stats: Some(self.stats()),
            tags: self.sums.to_tags(),
            ..Add::default()
        }
    }

    pub(crate) fn partition_values(&self) -> HashMap<String, Option<String>> {
        let of = self.def.partition.map(|column| (column.to_owned(), self.partition.clone()));
        of.into_iter().collect()
    }

    fn stats(&self) -> String {
        let columns = || self.def.columns.iter();
        let side = |pick: fn((i64, i64)) -> i64| -> Map<String, Value> {
            let known = columns().zip(&self.ranges).filter_map(|(column, range)| {
                let value = match column.kind {
                    ColumnType::Int => json!(pick((*range)?)),
                    _ => json!(Timestamp(pick((*range)?)).to_string()),
                };
                Some((column.name.to_owned(), value))
            });
            known.collect()
        };
        let nulls = columns().zip(&self.nulls);
        let nulls = nulls.filter_map(|(column, nulls)| Some((column.name.to_owned(), (*nulls)?)));
        json!({
            "numRecords": self.rows,
            "minValues": side(|range| range.0),
            "maxValues": side(|range| range.1),
            "nullCount": nulls.collect::<HashMap<_, _>>(),
        })
        .to_string()
    }

    fn last(&self) -> i64 {
        self.span().map_or(i64::MAX, |span| span.1)
    }
}

impl Deref for Files {
    type Target = [Arc<DataFile>];

    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

impl FromIterator<DataFile> for Files {
    fn from_iter<I: IntoIterator<Item = DataFile>>(files: I) -> Self {
        let mut list: Vec<Arc<DataFile>> = files.into_iter().map(Arc::new).collect();
        list.sort_by_key(|file| file.last());
        Files::of(list)
    }
}

impl Files {
    fn of(list: Vec<Arc<DataFile>>) -> Self {
        let rows = list.iter().map(|file| file.rows).sum();
        let first = list.iter().filter_map(|file| Some(file.span()?.0)).min();
        Files { list: Arc::new(list), rows, first, missing: Arc::default() }
    }

    /// Files that may hold rows with a time of `[low, high]`.
    pub fn within(&self, low: i64, high: i64) -> impl Iterator<Item = &Arc<DataFile>> {
        let past = self.list.partition_point(|file| file.last() < low);
        let late = self.list[past..].iter();
        late.filter(move |file| file.span().is_none_or(|(first, _)| first <= high))
    }

    /// Rows that are missing because their file is damaged, of a time within `[low, high]`.
    pub fn missing(&self, low: i64, high: i64) -> impl Iterator<Item = &Missing> {
        let within = move |(first, last): (Timestamp, Timestamp)| first.0 <= high && low <= last.0;
        self.missing.iter().filter(move |missing| missing.span.is_none_or(within))
    }

    pub(crate) fn set_missing(&mut self, missing: Vec<Missing>) {
        self.missing = missing.into();
    }

    /// Rows of all files.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// First and last instant of any row, by the time of the table.
    pub fn extent(&self) -> Option<(i64, i64)> {
        let last = self.list.iter().rev().find_map(|file| Some(file.span()?.1));
        self.first.zip(last)
    }

    pub(crate) fn insert(&mut self, file: DataFile) {
        self.rows += file.rows;
        let first = file.span().map(|span| span.0);
        self.first = self.first.into_iter().chain(first).min();
        let last = file.last();
        let list = Arc::make_mut(&mut self.list);
        let place = list.partition_point(|before| before.last() <= last);
        list.insert(place, Arc::new(file));
    }

    pub(crate) fn remove(&mut self, paths: &HashSet<&str>) {
        if !paths.is_empty() {
            let left = self.list.iter().filter(|file| !paths.contains(file.path.as_str()));
            let missing = self.missing.clone();
            *self = Files { missing, ..Files::of(left.cloned().collect()) };
        }
    }
}
