//! What the agent knows to be missing or late, kept on disk until the log has it.
//!
//! The file `gaps` is written before that of which it tells is removed. Each line of it is there
//! twice, and two of them say how many gaps there are and over what time: damage that hits both
//! copies of a gap leaves a gap of that time.
//!
//! Bound: [`MAX_PENDING`] gaps are kept apart; past it a gap is joined with the one of its kind and
//! topic that is nearest in time. None is dropped.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nilometer_contract::{Causes, Gap, GapKind, MAX_GAP_SOURCES, Timestamp};
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::{file, lines};

/// Most gaps kept apart.
const MAX_PENDING: usize = 256;
/// Most gaps sent at once; those that are under way cannot be joined.
const MAX_SENT: usize = 64;
/// Farthest apart in time that gaps of one cause are joined without need.
const JOINED_MICROS: i64 = 600 * 1_000_000;
/// Longest reason, in characters.
const MAX_REASON: usize = 300;
/// What a gap says of records that may be in the log: how many are lost at most.
pub(crate) const AT_MOST: &str =
    "at most, since an append was tried and it is not known whether the log has them";
/// Longest name of a source.
const MAX_SOURCE_BYTES: usize = 128;

/// Gaps that the log does not have yet.
pub(crate) struct Gaps {
    path: PathBuf,
    agent: String,
    node: String,
    pending: Vec<Gap>,
    /// How many at the front are on their way.
    sending: usize,
    /// How many at the front the log may have: they stay as they are, so that what is sent again is
    /// the same gap and not another that counts the same records.
    tried: usize,
    unsaved: bool,
}

/// Of what a gap tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of<'a> {
    pub(crate) kind: GapKind,
    pub(crate) topic: &'a str,
    pub(crate) partition: Option<u32>,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Head { count: usize, start: Timestamp, end: Timestamp },
    Gap { n: usize, gap: Cow<'a, Gap> },
}

impl Gaps {
    /// Reads what an agent before left. What is damaged becomes a gap of `topic`.
    pub(crate) fn open(dir: &Path, agent: &str, node: &str, topic: &str, now: Timestamp) -> Self {
        let path = dir.join("gaps");
        let (agent, node) = (agent.to_owned(), node.to_owned());
        let mut gaps =
            Gaps { path, agent, node, pending: Vec::new(), sending: 0, tried: 0, unsaved: false };
        match file::read(&gaps.path) {
            Ok(None) => {}
            Ok(Some(bytes)) => gaps.load(&bytes, topic, now),
            Err(error) => {
                tracing::error!(error = %Causes(&error), path = %gaps.path.display(), "cannot read pending gaps");
                gaps.load(b"unreadable\n", topic, now);
            }
        }
        gaps
    }

    fn load(&mut self, bytes: &[u8], topic: &str, now: Timestamp) {
        let (whole, damaged) = lines::read::<Line<'_>>(bytes);
        let (mut head, mut found) = (None, BTreeMap::new());
        for line in whole {
            match line {
                Line::Head { count, start, end } => head = Some((count, start, end)),
                Line::Gap { n, gap } => drop(found.insert(n, gap.into_owned())),
            }
        }
        let written = file::changed_by(&self.path, now);
        let (missing, start, end) = match head {
            Some((count, start, end)) => (count.saturating_sub(found.len()), start, end),
            None => (usize::from(damaged > 0), written, now),
        };
        self.pending = found.into_values().collect();
        self.tried = self.pending.len().min(MAX_SENT);
        if damaged > 0 {
            tracing::error!(damaged, missing, path = %self.path.display(), "damaged gaps");
        }
        if missing > 0 {
            let reason = format!("{missing} gaps that were to be reported are damaged");
            self.add(
                self.gap(Of { kind: GapKind::Lost, topic, partition: None, start, end }, &reason),
            );
        }
        if damaged > 0 || missing > 0 {
            self.save();
        }
    }

    /// Whether the log has all of them.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Records that are lost, one gap for each partition, and another for those that may be in the
    /// log; on disk when this returns.
    pub(crate) fn lost(&mut self, topic: &str, entries: &[Entry], reason: &str) {
        let mut gaps: BTreeMap<(u32, bool), (Gap, BTreeSet<&str>)> = BTreeMap::new();
        let at_most = format!("{reason}; {AT_MOST}");
        for entry in entries {
            let Entry { start, end, partition, tried, .. } = *entry;
            let (gap, sources) = gaps.entry((partition, tried)).or_insert_with(|| {
                let reason = if tried { &at_most } else { reason };
                let of = Of { kind: GapKind::Lost, topic, partition: Some(partition), start, end };
                (self.gap(of, reason), BTreeSet::new())
            });
            (gap.start, gap.end) = (gap.start.min(start), gap.end.max(end));
            gap.records += 1;
            gap.samples += u64::from(entry.samples);
            sources.insert(&entry.source);
        }
        for (gap, sources) in gaps.into_values() {
            let sources = sources.into_iter().map(str::to_owned).collect();
            self.add(Gap { sources, ..gap });
        }
        self.save();
    }

    /// Something of which no record tells is lost; on disk when this returns.
    pub(crate) fn lost_somehow(
        &mut self,
        (topic, partition): (&str, Option<u32>),
        (start, end): (Timestamp, Timestamp),
        (records, sources): (u64, Vec<String>),
        reason: &str,
    ) {
        let gap = self.gap(Of { kind: GapKind::Lost, topic, partition, start, end }, reason);
        self.add(Gap { records, sources, ..gap });
        self.save();
    }

    /// A time that was not observed as it should have been.
    pub(crate) fn unobserved(&mut self, topic: &str, start: Timestamp, end: Timestamp, why: &str) {
        let of = Of { kind: GapKind::Unobserved, topic, partition: None, start, end };
        self.add(self.gap(of, why));
        self.save();
    }

    /// A time whose records came late, and all of them.
    pub(crate) fn late(
        &mut self,
        (topic, partition): (&str, Option<u32>),
        (start, end): (Timestamp, Timestamp),
        why: &str,
    ) {
        let of = Of { kind: GapKind::Late, topic, partition, start, end };
        self.add(self.gap(of, why));
        self.save();
    }

    fn gap(&self, of: Of<'_>, reason: &str) -> Gap {
        let Of { kind, topic, partition, start, end } = of;
        Gap {
            kind,
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

    fn add(&mut self, mut gap: Gap) {
        within_bounds(&mut gap);
        let full = self.pending.len() >= MAX_PENDING;
        let same = |known: &Gap| {
            (known.partition, &known.reason) == (gap.partition, &gap.reason)
                && gap.kind == GapKind::Lost
                && distance(known, &gap) <= JOINED_MICROS
        };
        let waiting = self.pending.iter_mut().skip(self.sending.max(self.tried));
        let alike = waiting.filter(|known| (known.kind, &known.topic) == (gap.kind, &gap.topic));
        let mut alike: Vec<&mut Gap> = alike.collect();
        let known = match alike.iter().position(|known| same(known)) {
            Some(place) => Some(alike.swap_remove(place)),
            None if full => alike.into_iter().min_by_key(|known| distance(known, &gap)),
            None => None,
        };
        match known {
            Some(known) => join(known, gap),
            None => self.pending.push(gap),
        }
        self.unsaved = true;
    }

    /// Gaps to send, the oldest; they are pending until they are acknowledged.
    pub(crate) fn front(&mut self) -> &[Gap] {
        self.sending = self.pending.len().min(MAX_SENT);
        &self.pending[..self.sending]
    }

    /// What was handed out is in the log.
    pub(crate) fn acknowledged(&mut self) {
        let sent = std::mem::take(&mut self.sending);
        self.pending.drain(..sent);
        self.tried = self.tried.saturating_sub(sent);
        self.unsaved = true;
        self.save();
    }

    /// What was handed out may not be in the log.
    pub(crate) fn failed(&mut self) {
        self.tried = self.tried.max(std::mem::take(&mut self.sending));
    }

    /// Writes them if that is due; what cannot be written is tried again with every call.
    pub(crate) fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        let start = self.pending.iter().map(|gap| gap.start).min().unwrap_or_default();
        let end = self.pending.iter().map(|gap| gap.end).max().unwrap_or_default();
        let head = Line::Head { count: self.pending.len(), start, end };
        let lines = self.pending.iter().enumerate();
        let lines = lines.map(|(n, gap)| Line::Gap { n, gap: Cow::Borrowed(gap) });
        let mut bytes = Vec::new();
        for line in [head].into_iter().chain(lines) {
            if let Err(error) = lines::write(&line, &mut bytes) {
                tracing::error!(error = %Causes(&error), "a pending gap cannot be written");
            }
        }
        bytes.extend_from_within(..);
        match file::replace(&self.path, &bytes) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                tracing::error!(error = %Causes(&error), path = %self.path.display(), "cannot keep pending gaps");
            }
        }
    }
}

/// Makes a gap one that can be encoded: better inexact than unsaid.
fn within_bounds(gap: &mut Gap) {
    let latest = Timestamp::MAX.plus_micros(-1);
    gap.start = gap.start.clamp(Timestamp::MIN, latest);
    gap.end = gap.end.clamp(gap.start, latest);
    if let Some((end, _)) = gap.reason.char_indices().nth(MAX_REASON) {
        gap.reason.truncate(end);
    }
    let too_long = gap.sources.iter().any(|source| source.len() > MAX_SOURCE_BYTES);
    if too_long || gap.sources.len() > MAX_GAP_SOURCES {
        gap.sources.clear();
    }
}

/// Time between two gaps, none where they touch.
fn distance(a: &Gap, b: &Gap) -> i64 {
    let between = a.start.max(b.start).0.saturating_sub(a.end.min(b.end).0);
    between.max(0)
}

fn join(known: &mut Gap, gap: Gap) {
    known.start = known.start.min(gap.start);
    known.end = known.end.max(gap.end);
    known.records += gap.records;
    known.samples += gap.samples;
    if known.partition != gap.partition {
        known.partition = None;
    }
    if !known.reason.contains(&gap.reason) {
        known.reason = format!("{}; {}", known.reason, gap.reason);
    }
    // No source named means any.
    if known.sources.is_empty() || gap.sources.is_empty() {
        known.sources.clear();
    } else {
        let all: BTreeSet<String> = known.sources.drain(..).chain(gap.sources).collect();
        known.sources = all.into_iter().collect();
    }
    within_bounds(known);
}

#[cfg(test)]
mod tests;
