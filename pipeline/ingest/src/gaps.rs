//! What is known to be missing, as usage asks: from which instants on does a reading say nothing?

use std::collections::{BTreeSet, HashMap};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use nilometer_contract::{Gap, GapKind, SAMPLES, partition_of};

/// Gaps of samples: times that nobody observed, and records that are gone.
///
/// Kept are the first instants of gaps, by whom they may concern: a level that was read before
/// one does not reach into it. Known is what the table has, and what this process would commit as
/// things are: whoever follows the owner of the tables may take back what it noted.
#[derive(Clone, Debug, Default)]
pub struct KnownGaps {
    stored: Starts,
    pending: Starts,
    partitions: u32,
}

/// Starts in microseconds, by node (empty: any) and partition (none: all).
#[derive(Clone, Debug, Default)]
struct Starts(HashMap<(String, Option<u32>), BTreeSet<i64>>);

impl Starts {
    fn add(&mut self, gap: &Gap) {
        self.add_row((&gap.topic, gap.kind.as_str()), &gap.node, gap.partition, gap.start.0);
    }

    /// Adds a gap, if it is one of samples.
    fn add_row(
        &mut self,
        (topic, kind): (&str, &str),
        node: &str,
        partition: Option<u32>,
        start: i64,
    ) {
        if topic == SAMPLES && kind != GapKind::Late.as_str() {
            self.0.entry((node.to_owned(), partition)).or_default().insert(start);
        }
    }

    fn within<'s>(
        &'s self,
        key: &(String, Option<u32>),
        (low, high): (i64, i64),
    ) -> impl Iterator<Item = i64> + 's {
        let found = self.0.get(key).into_iter();
        found.flat_map(move |starts| starts.range(low..high).copied())
    }
}

impl KnownGaps {
    /// Says over how many partitions samples are spread.
    pub(crate) fn set_partitions(&mut self, partitions: u32) {
        self.partitions = partitions;
    }

    /// What the table has is what another one knows of it.
    pub(crate) fn set_stored(&mut self, of: KnownGaps) {
        self.stored = of.stored;
    }

    /// Gaps that the table has from now on.
    pub(crate) fn add_stored<'g>(&mut self, gaps: impl Iterator<Item = &'g Gap>) {
        gaps.for_each(|gap| self.stored.add(gap));
    }

    /// All gaps that no file has.
    pub(crate) fn set_pending<'g>(&mut self, gaps: impl Iterator<Item = &'g Gap>) {
        self.pending.0.clear();
        gaps.for_each(|gap| self.pending.add(gap));
    }

    /// Adds rows of the table `gaps`.
    pub(crate) fn add_rows(&mut self, rows: &RecordBatch) {
        let text = |name: &str| Some(rows.column_by_name(name)?.as_string::<i32>());
        let parts = || {
            let starts = rows.column_by_name("start")?.as_primitive::<TimestampMicrosecondType>();
            let partitions = rows.column_by_name("of_partition")?.as_primitive::<Int64Type>();
            Some((starts, text("kind")?, text("node")?, text("of_topic")?, partitions))
        };
        let Some((starts, kinds, nodes, topics, partitions)) = parts() else { return };
        for row in 0..rows.num_rows() {
            let of = (topics.value(row), kinds.value(row));
            let partition = u32::try_from(partitions.value(row)).ok();
            self.stored.add_row(of, nodes.value(row), partition, starts.value(row));
        }
    }

    /// First instants, in order, of the gaps within a half-open span that may concern a resource on
    /// one of these nodes.
    pub fn of<'a>(
        &self,
        resource: &str,
        nodes: impl Iterator<Item = &'a str>,
        span: (i64, i64),
    ) -> Vec<i64> {
        let all = [&self.stored, &self.pending];
        if all.iter().all(|starts| starts.0.is_empty()) || span.0 >= span.1 {
            return Vec::new();
        }
        let own = (self.partitions > 0).then(|| partition_of(resource, self.partitions));
        let mut starts = BTreeSet::new();
        for node in nodes.chain([""]) {
            for partition in [None, own] {
                let key = (node.to_owned(), partition);
                starts.extend(all.iter().flat_map(|starts| starts.within(&key, span)));
            }
        }
        starts.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use nilometer_contract::Timestamp;

    use super::*;

    #[test]
    fn a_gap_concerns_its_node_and_its_partition() {
        let gap = |node: &str, partition, kind, start| Gap {
            kind,
            agent: String::new(),
            node: node.to_owned(),
            sources: Vec::new(),
            topic: SAMPLES.to_owned(),
            partition,
            start: Timestamp(start),
            end: Timestamp(start + 9),
            records: 1,
            samples: 1,
            reason: "lost".to_owned(),
        };
        let mut gaps = KnownGaps::default();
        gaps.set_partitions(8);
        let own = partition_of("vm", 8);
        let stored = [
            gap("a", None, GapKind::Unobserved, 10),
            gap("b", None, GapKind::Unobserved, 20),
            gap("", Some((own + 1) % 8), GapKind::Lost, 40),
            gap("a", None, GapKind::Late, 50),
        ];
        gaps.add_stored(stored.iter());
        let pending = [gap("", Some(own), GapKind::Lost, 30)];
        gaps.set_pending(pending.iter());
        let of = |nodes: &[&str]| gaps.of("vm", nodes.iter().copied(), (0, 100));
        assert_eq!(of(&["a"]), [10, 30]);
        assert_eq!(of(&["a", "b"]), [10, 20, 30]);
        assert_eq!(gaps.of("vm", ["a"].into_iter(), (11, 30)), Vec::<i64>::new());
        gaps.set_pending([].into_iter());
        assert_eq!(
            gaps.of("vm", ["a"].into_iter(), (0, 100)),
            [10],
            "what is taken back is not known"
        );
    }
}
