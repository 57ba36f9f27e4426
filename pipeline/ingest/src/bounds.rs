//! Every bound on what the ingester keeps, and what happens at it.

use std::collections::BTreeSet;

use nilometer_contract::{Applied, HistoryBounds, MICROS_PER_DAY};
use serde::Deserialize;

use crate::metrics::Metrics;
use crate::record::Prepared;

/// What would be beyond a bound goes to the dead letters with a reason that names the bound, is
/// counted in `nilometer_ingest_refused_total`, and holds nothing up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Most series. Samples of another are refused.
    pub series: usize,
    /// Most series of one source on one node. Samples of another are refused.
    pub series_per_source: usize,
    /// Most resources that live or ended within the retention of events. Events of another are
    /// refused.
    pub resources: usize,
    /// Most events of one resource within the retention of events. Others are refused;
    /// deletions may be twice as many, so that it can still end.
    pub changes_per_resource: usize,
    /// Most days that the samples of one record may lie in, and those of one commit: those of
    /// further days of a record are refused; a record that would make a commit's days more waits
    /// for the next one.
    pub days_per_commit: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            series: 4_000_000,
            series_per_source: 1_000_000,
            resources: 1_000_000,
            changes_per_resource: 100_000,
            days_per_commit: 32,
        }
    }
}

/// A value beyond a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beyond {
    bound: &'static str,
    most: usize,
    what: &'static str,
}

impl Bounds {
    /// Those of lifetimes.
    pub(crate) fn history(&self) -> HistoryBounds {
        let Bounds { resources, changes_per_resource, .. } = *self;
        HistoryBounds { resources, changes_per_resource }
    }

    /// Whether there may be one more series.
    pub(crate) fn series(&self, all: usize, of_source: usize) -> Result<(), Beyond> {
        if all >= self.series {
            let what = "series are known, and this is of another";
            return Err(Beyond { bound: "series", most: self.series, what });
        }
        if of_source >= self.series_per_source {
            let what = "series are known of this source and node, and this is of another";
            return Err(Beyond { bound: "series_per_source", most: self.series_per_source, what });
        }
        Ok(())
    }

    /// What an event was beyond, if it was.
    pub(crate) fn event(&self, applied: Applied) -> Option<Beyond> {
        match applied {
            Applied::New | Applied::Duplicate => None,
            Applied::TooManyResources => Some(Beyond {
                bound: "resources",
                most: self.resources,
                what: "resources are known, and this is of another",
            }),
            Applied::TooManyChanges => Some(Beyond {
                bound: "changes_per_resource",
                most: self.changes_per_resource,
                what: "events of this resource are known, and this is another",
            }),
        }
    }
}

impl Beyond {
    /// Counts it; the reason for the dead letter.
    pub(crate) fn refused(&self, metrics: &Metrics) -> String {
        metrics.refused.with_label_values(&[self.bound]).inc();
        let Beyond { bound, most, what } = self;
        format!("{most} {what}: ingest.bounds.{bound}")
    }
}

/// Days that samples fall into, of the record being applied and of the next cut.
#[derive(Debug, Default)]
pub(crate) struct Days {
    most: usize,
    /// Most samples are of the day of the one before.
    last: Option<i64>,
    of_record: BTreeSet<i64>,
    of_cut: BTreeSet<i64>,
}

impl Days {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        Days { most: bounds.days_per_commit.max(1), ..Days::default() }
    }

    /// A record begins.
    pub(crate) fn begin_record(&mut self) {
        self.last = None;
        self.of_record.clear();
    }

    /// A cut has been made.
    pub(crate) fn begin_cut(&mut self) {
        self.of_cut.clear();
    }

    /// Takes in a sample's instant.
    pub(crate) fn admit(&mut self, at_micros: i64) -> Result<(), Beyond> {
        let day = at_micros.div_euclid(MICROS_PER_DAY);
        if self.last == Some(day) {
            return Ok(());
        }
        if !self.of_record.contains(&day) && self.of_record.len() >= self.most {
            let what = "days have samples in this record, and this is of another";
            return Err(Beyond { bound: "days_per_commit", most: self.most, what });
        }
        self.last = Some(day);
        self.of_record.insert(day);
        self.of_cut.insert(day);
        Ok(())
    }

    /// How many records from the front fit into the next cut. Into one that has nothing yet one
    /// always does: those of its days that are too many are refused.
    pub(crate) fn room(&self, records: &[Prepared]) -> usize {
        let mut days = self.of_cut.clone();
        let fits = records.iter().take_while(|record| {
            let (first, mut last) = (days.is_empty(), None);
            for day in record.instants().iter().map(|at| at.div_euclid(MICROS_PER_DAY)) {
                if last != Some(day) {
                    last = Some(day);
                    days.insert(day);
                }
            }
            first || days.len() <= self.most
        });
        fits.count()
    }
}
