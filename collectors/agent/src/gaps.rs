//! What the agent knows to be missing, kept on disk until the log has it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nilometer_contract::{Gap, GapKind, Timestamp};

use crate::entry::Entry;
use crate::file;

/// Most gaps kept apart; past it a gap is joined with another of its place and reason.
const MAX_PENDING: usize = 256;

/// Gaps that the log does not have yet.
pub(crate) struct Gaps {
    path: PathBuf,
    agent: String,
    node: String,
    pending: Vec<Gap>,
    /// How many at the front are on their way.
    handed_out: usize,
}

impl Gaps {
    /// Reads what an agent before left; a file that cannot be read is said and begun anew.
    pub(crate) fn open(dir: &Path, agent: &str, node: &str) -> Self {
        let path = dir.join("gaps.json");
        let pending = match file::read(&path) {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(%error, path = %path.display(), "cannot read pending gaps");
                Vec::new()
            }),
            Ok(None) => Vec::new(),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "cannot read pending gaps");
                Vec::new()
            }
        };
        Gaps { path, agent: agent.to_owned(), node: node.to_owned(), pending, handed_out: 0 }
    }

    /// Whether the log has all of them.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Records that were dropped, one gap for each partition.
    pub(crate) fn dropped(&mut self, topic: &str, entries: &[Entry], reason: &str) {
        let mut gaps: HashMap<u32, Gap> = HashMap::new();
        for entry in entries {
            let gap = gaps.entry(entry.partition).or_insert_with(|| {
                self.gap(topic, Some(entry.partition), entry.start, entry.end, reason)
            });
            join(gap, entry.start, entry.end, 1, u64::from(entry.samples));
        }
        let mut gaps: Vec<Gap> = gaps.into_values().collect();
        gaps.sort_by_key(|gap| gap.partition);
        gaps.into_iter().for_each(|gap| self.add(gap, true));
        self.save();
    }

    /// A time that was not observed as it should have been.
    pub(crate) fn unobserved(&mut self, topic: &str, start: Timestamp, end: Timestamp, why: &str) {
        let gap = Gap { kind: GapKind::Unobserved, ..self.gap(topic, None, start, end, why) };
        self.add(gap, false);
        self.save();
    }

    /// A time whose records came late, and all of them.
    pub(crate) fn late(&mut self, topic: &str, start: Timestamp, end: Timestamp, why: &str) {
        let gap = Gap { kind: GapKind::Late, ..self.gap(topic, None, start, end, why) };
        self.add(gap, false);
        self.save();
    }

    fn gap(
        &self,
        topic: &str,
        partition: Option<u32>,
        start: Timestamp,
        end: Timestamp,
        reason: &str,
    ) -> Gap {
        Gap {
            kind: GapKind::Lost,
            agent: self.agent.clone(),
            node: self.node.clone(),
            sources: Vec::new(),
            topic: topic.to_owned(),
            partition,
            start,
            end,
            records: 0,
            samples: 0,
            reason: reason.to_owned(),
        }
    }

    fn add(&mut self, gap: Gap, joins: bool) {
        let alike = |known: &&mut Gap| {
            (known.kind, &known.topic, known.partition, &known.reason)
                == (gap.kind, &gap.topic, gap.partition, &gap.reason)
        };
        let full = self.pending.len() >= MAX_PENDING;
        let known = self.pending.iter_mut().skip(self.handed_out).find(alike);
        match known {
            Some(known) if joins || full => {
                join(known, gap.start, gap.end, gap.records, gap.samples);
            }
            _ => self.pending.push(gap),
        }
    }

    /// Encoded gaps to send; nothing when there is none.
    pub(crate) fn front(&mut self) -> Vec<Vec<u8>> {
        let encoded: Vec<_> = self.pending.iter().map(Gap::encode).collect();
        self.handed_out = self.pending.len();
        let fine = encoded.into_iter().filter_map(|encoded| {
            encoded.inspect_err(|error| tracing::error!(%error, "a gap cannot be told")).ok()
        });
        fine.collect()
    }

    /// What was handed out is in the log, or not.
    pub(crate) fn landed(&mut self, sent: bool) {
        let handed_out = std::mem::take(&mut self.handed_out);
        if sent && handed_out > 0 {
            self.pending.drain(..handed_out);
            self.save();
        }
    }

    fn save(&self) {
        let bytes = serde_json::to_vec(&self.pending).unwrap_or_default();
        if let Err(error) = file::replace(&self.path, &bytes) {
            tracing::error!(%error, path = %self.path.display(), "cannot keep pending gaps");
        }
    }
}

fn join(gap: &mut Gap, start: Timestamp, end: Timestamp, records: u64, samples: u64) {
    gap.start = gap.start.min(start);
    gap.end = gap.end.max(end);
    gap.records += records;
    gap.samples += samples;
}
