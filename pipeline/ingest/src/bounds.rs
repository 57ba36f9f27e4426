//! Every bound on what the ingester keeps, and what happens at it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use nilometer_contract::{Applied, HistoryBounds, MICROS_PER_DAY};
use nilometer_store::Description;
use serde::Deserialize;

use crate::index::SeriesIndex;
use crate::metrics::Metrics;
use crate::record::Prepared;

/// What would be beyond a bound goes to the dead letters with a reason that names the bound, is
/// counted in `nilometer_ingest_refused_total`, and holds nothing up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Most series. Samples of another are refused.
    pub series: usize,
    /// Most series of one source on one node. Samples of another are refused.
    pub series_per_source: usize,
    /// Most series that are labelled with one project. Samples of another are refused; of the
    /// empty project, which is the operator's own, there may be as many as in all.
    pub series_per_project: usize,
    /// Most values that one source gives one further label in one project. Samples with another
    /// are refused.
    pub values_per_label: usize,
    /// Most meters that are learnt from samples because nobody declared them. Samples of another
    /// are refused.
    pub learnt_meters: usize,
    /// Most resources that live or ended within the retention of events. Events of another are
    /// refused.
    pub resources: usize,
    /// Most events of one resource within the retention of events. Others are refused;
    /// deletions may be twice as many, so that it can still end.
    pub changes_per_resource: usize,
    /// Most sources that describe one resource. Events of another are refused.
    pub sources_per_resource: usize,
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
            series_per_project: 1_000_000,
            values_per_label: 10_000,
            learnt_meters: 10_000,
            resources: 1_000_000,
            changes_per_resource: 100_000,
            sources_per_resource: 8,
            days_per_commit: 32,
        }
    }
}

/// A value beyond a bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beyond {
    bound: &'static str,
    most: usize,
    what: Cow<'static, str>,
}

impl Bounds {
    /// Those of lifetimes.
    pub(crate) fn history(&self) -> HistoryBounds {
        let Bounds { resources, changes_per_resource, sources_per_resource, .. } = *self;
        HistoryBounds { resources, changes_per_resource, sources_per_resource }
    }

    /// Whether there may be one more series.
    pub(crate) fn series(
        &self,
        index: &SeriesIndex,
        series: &Description<&str>,
    ) -> Result<(), Beyond> {
        let Description { meter, project, node, source, .. } = *series;
        let beyond = |bound, most, what: String| Err(Beyond { bound, most, what: what.into() });
        if index.len() >= self.series {
            let what = "series are known, and this is of another".to_owned();
            return beyond("series", self.series, what);
        }
        if index.of_source(source, node) >= self.series_per_source {
            let what = format!(
                "series are known of source {source} on node {node}, and this is of another"
            );
            return beyond("series_per_source", self.series_per_source, what);
        }
        if !project.is_empty() && index.of_project(project) >= self.series_per_project {
            let what = format!("series are known of project {project}, and this is of another");
            return beyond("series_per_project", self.series_per_project, what);
        }
        if let Some(label) = index.full_label(series, self.values_per_label) {
            let what = format!(
                "values of label {label} are known from source {source} in project {project:?}, and \
                 this is another"
            );
            return beyond("values_per_label", self.values_per_label, what);
        }
        let catalogue = index.catalogue();
        if catalogue.find(meter).is_none() && catalogue.learnt().count() >= self.learnt_meters {
            let what = format!("meters were learnt from samples, and {meter} is another");
            return beyond("learnt_meters", self.learnt_meters, what);
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
                what: "resources are known, and this is of another".into(),
            }),
            Applied::TooManyChanges => Some(Beyond {
                bound: "changes_per_resource",
                most: self.changes_per_resource,
                what: "events of this resource are known, and this is another".into(),
            }),
            Applied::TooManySources => Some(Beyond {
                bound: "sources_per_resource",
                most: self.sources_per_resource,
                what: "sources describe this resource, and this is of another".into(),
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
            let what = "days have samples in this record, and this is of another".into();
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
