//! Meters of resources that several sources sample: one of them counts, hour by hour.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use nilometer_contract::{MICROS_PER_HOUR, Meter, MeterKind, Precedence, ResourceKind, Timestamp};
use nilometer_usage::{SOURCE_HOURS, Series, SourceChoice, Window, is_reading};

use crate::plan::{Observed, Out, Plan};
use crate::points::Point;

/// One meter of one resource, and the places of its series by source.
pub(crate) struct Rivals {
    /// The sources in order of the meter's precedence.
    sources: Vec<Arc<str>>,
    /// Places, each with the number of its source.
    places: Vec<(usize, u32)>,
}

/// What one source sampled of a meter of a resource in an hour in which another did so too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contested {
    pub(crate) hour: Timestamp,
    pub(crate) resource: Arc<str>,
    pub(crate) kind: ResourceKind,
    pub(crate) project: Arc<str>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) source: Arc<str>,
    pub(crate) samples: u64,
    pub(crate) counts: bool,
}

/// A pause of one source, of a counter that others sample too, which takes in a whole hour at
/// least. Where it ends says what the counter grew by in the hours at both ends, whoever counts in
/// between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The reading before it.
    pub start: Timestamp,
    /// The reading after it.
    pub end: Timestamp,
}

/// The pauses at the edges of a window of which the other end lies within.
fn pauses(series: &Series<'_>, window: Window) -> Vec<Pause> {
    if series.meter.kind != MeterKind::Counter {
        return Vec::new();
    }
    let from = series.at.partition_point(|&at| at < window.start.0);
    let upto = series.at.partition_point(|&at| at < window.end.0);
    let is_sound = |sample: &usize| is_reading(&series.meter.kind, series.value[*sample]);
    let (first, last) = ((from..upto).find(is_sound), (from..upto).rfind(is_sound));
    let (before, after) = ((0..from).rfind(is_sound), (upto..series.at.len()).find(is_sound));
    let pauses = [before.zip(first), last.zip(after)].into_iter().flatten();
    let at = |sample: usize| Timestamp(series.at[sample]);
    let pauses = pauses.map(|(start, end)| (at(start), at(end)));
    let is_long =
        |(start, end): &(Timestamp, Timestamp)| end.hour().0 - start.hour().0 > MICROS_PER_HOUR;
    pauses.filter(is_long).map(|(start, end)| Pause { start, end }).collect()
}

/// Rows of `source_hours`.
pub(crate) fn contested_batch(rows: &[Contested]) -> RecordBatch {
    let instants = |after: i64| -> ArrayRef {
        let micros = rows.iter().map(|row| row.hour.plus_micros(after).0);
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let texts = |text: fn(&Contested) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
    };
    let counts = |count: fn(&Contested) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| count(row) as i64)))
    };
    SOURCE_HOURS.batch(vec![
        ("start", instants(0)),
        ("end", instants(MICROS_PER_HOUR)),
        ("resource", texts(|row| &row.resource)),
        ("kind", texts(|row| row.kind.as_str())),
        ("meter", texts(|row| &row.meter.name)),
        ("project", texts(|row| &row.project)),
        ("source", texts(|row| &row.source)),
        ("samples", counts(|row| row.samples)),
        ("counted", counts(|row| if row.counts { row.samples } else { 0 })),
    ])
}

impl Plan {
    /// Finds what several sources sample.
    pub(crate) fn find_rivals(&mut self, precedence: &Precedence) {
        let mut by_meter: BTreeMap<(usize, Arc<Meter>), Vec<u32>> = BTreeMap::new();
        for (number, place) in (0..).zip(&self.places) {
            let is_sampled = !matches!(place.meter.kind, MeterKind::Allocation { .. });
            if is_sampled && self.subjects[place.subject].has_several_sources() {
                let of = (place.subject, place.meter.clone());
                by_meter.entry(of).or_default().push(number);
            }
        }
        for ((_, meter), places) in by_meter {
            let source = |place: &u32| self.places[*place as usize].source.clone();
            let mut sources: Vec<Arc<str>> = places.iter().map(source).collect();
            sources.sort_by(|one, other| precedence.compare_for_meter(&meter.name, one, other));
            sources.dedup();
            if sources.len() < 2 {
                continue;
            }
            let number = |place: &u32| sources.iter().position(|one| *one == source(place));
            let places: Vec<(usize, u32)> =
                places.iter().filter_map(|place| Some((number(place)?, *place))).collect();
            for &(_, place) in &places {
                self.places[place as usize].has_rival = true;
            }
            self.rivals.push(Rivals { sources, places });
        }
    }

    /// Leaves only the series of which a source has to be chosen, to find which one counts.
    pub(crate) fn of_rivals(mut self) -> Self {
        self.series.retain(|_, place| self.places[*place as usize].has_rival);
        self.only_choices = true;
        self
    }

    /// Adds the usage of what several sources sampled, of each hour that of the one that counts; or
    /// only which one counts, if nothing else is asked.
    pub(crate) fn rival_usage<'p>(
        &self,
        rivals: &Rivals,
        points_of: impl Fn(u32) -> &'p [Point],
        window: Window,
        as_of: Timestamp,
        by_parent: bool,
        out: &mut Out,
    ) {
        let observed: Vec<(usize, Observed<'_>)> = rivals
            .places
            .iter()
            .map(|&(source, place)| (source, self.observed(place, points_of(place))))
            .collect();
        let mut choice = SourceChoice::default();
        for (source, observed) in &observed {
            choice.note(*source, &observed.series(), observed.tenure(), window, as_of);
        }
        if self.only_choices {
            return self.add_contested(rivals, &observed, &choice, out);
        }
        for (source, observed) in &observed {
            out.pauses.extend(pauses(&observed.series(), window));
            let mut own = Out::default();
            self.usage_of(observed, window, as_of, by_parent, &mut own);
            own.rows.retain(|row| choice.counts(*source, row.start));
            own.by_parent.retain(|row| choice.counts(*source, row.start));
            out.rows.append(&mut own.rows);
            out.by_parent.append(&mut own.by_parent);
        }
    }

    /// Adds the hours in which several sources sampled the same.
    fn add_contested(
        &self,
        rivals: &Rivals,
        observed: &[(usize, Observed<'_>)],
        choice: &SourceChoice,
        out: &mut Out,
    ) {
        let Some((_, first)) = observed.first() else { return };
        let (subject, meter) = (first.subject, first.series().meter.clone());
        // Of an hour that several shared, the counts are nobody's but the operator's.
        let project = |hour| -> Arc<str> {
            let mut owners = observed.iter().flat_map(|(_, one)| one.tenure().projects_in(hour));
            let owner = owners.next().filter(|first| owners.all(|other| other == *first));
            owner.cloned().unwrap_or_default()
        };
        out.contested.extend(choice.contested().map(|found| Contested {
            hour: found.hour,
            resource: subject.resource.clone(),
            kind: subject.kind.clone(),
            project: project(found.hour),
            meter: meter.clone(),
            source: rivals.sources[found.source].clone(),
            samples: found.readings,
            counts: found.counts,
        }));
    }
}
