//! What is known to be missing, as usage asks: from which instants on does a reading say nothing?

use std::collections::{BTreeSet, HashMap};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use nilometer_contract::{Gap, GapKind, SAMPLES, partition_of};

/// Gaps of samples: times that nobody observed, and records that are gone.
///
/// Kept are the first instants of gaps, by whom they may concern: a level that was read before
/// one does not reach into it.
#[derive(Clone, Debug, Default)]
pub struct KnownGaps {
    /// Starts in microseconds, by node (empty: any) and partition (none: all).
    starts: HashMap<(String, Option<u32>), BTreeSet<i64>>,
    partitions: u32,
}

impl KnownGaps {
    /// Says over how many partitions samples are spread.
    pub(crate) fn set_partitions(&mut self, partitions: u32) {
        self.partitions = partitions;
    }

    /// Adds a gap, if it is one of samples.
    pub(crate) fn add(&mut self, gap: &Gap) {
        if gap.topic == SAMPLES && gap.kind != GapKind::Late {
            self.add_start(&gap.node, gap.partition, gap.start.0);
        }
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
            if topics.value(row) == SAMPLES && kinds.value(row) != GapKind::Late.as_str() {
                let partition = u32::try_from(partitions.value(row)).ok();
                self.add_start(nodes.value(row), partition, starts.value(row));
            }
        }
    }

    fn add_start(&mut self, node: &str, partition: Option<u32>, start: i64) {
        self.starts.entry((node.to_owned(), partition)).or_default().insert(start);
    }

    /// First instants, in order, of the gaps within `[low, high)` that may concern a resource on
    /// one of these nodes.
    pub fn of<'a>(
        &self,
        resource: &str,
        nodes: impl Iterator<Item = &'a str>,
        (low, high): (i64, i64),
    ) -> Vec<i64> {
        if self.starts.is_empty() || low >= high {
            return Vec::new();
        }
        let own = (self.partitions > 0).then(|| partition_of(resource, self.partitions));
        let mut starts = BTreeSet::new();
        for node in nodes.chain([""]) {
            for partition in [None, own] {
                let key = (node.to_owned(), partition);
                let found = self.starts.get(&key);
                starts.extend(found.into_iter().flat_map(|starts| starts.range(low..high)));
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
        gaps.add(&gap("a", None, GapKind::Unobserved, 10));
        gaps.add(&gap("b", None, GapKind::Unobserved, 20));
        gaps.add(&gap("", Some(own), GapKind::Lost, 30));
        gaps.add(&gap("", Some((own + 1) % 8), GapKind::Lost, 40));
        gaps.add(&gap("a", None, GapKind::Late, 50));
        let of = |nodes: &[&str]| gaps.of("vm", nodes.iter().copied(), (0, 100));
        assert_eq!(of(&["a"]), [10, 30]);
        assert_eq!(of(&["a", "b"]), [10, 20, 30]);
        assert_eq!(gaps.of("vm", ["a"].into_iter(), (11, 30)), Vec::<i64>::new());
    }
}
