//! One record of the samples topic on its way in: decoded, with the digests of its labels.

use nilometer_contract::{EpochId, SampleBatch, Statement, decode};
use nilometer_log::{Mark, Record};
use nilometer_store::{Description, SeriesId, SeriesKey, subject_hash, text_hash};

use crate::tell::told;

/// A decoded record.
pub(crate) struct Prepared {
    /// Offset in its partition.
    pub(crate) offset: u64,
    /// When it was appended to the log.
    pub(crate) appended_at_micros: i64,
    /// By which it is known again.
    pub(crate) mark: Mark,
    /// The samples, or why there are none, with the bytes.
    pub(crate) content: Result<Content, Refused>,
}

/// A record that is not taken in, with the reason.
pub(crate) struct Refused {
    pub(crate) payload: bytes::Bytes,
    pub(crate) reason: String,
}

/// Samples with what series ids are made of.
pub(crate) struct Content {
    pub(crate) batch: SampleBatch,
    meters: Vec<u64>,
    stated: Vec<Statement>,
    subjects: Vec<u64>,
    source: u64,
    pub(crate) epoch: EpochId,
    /// The record as it came.
    pub(crate) payload: bytes::Bytes,
}

impl Prepared {
    /// Decodes a record; never fails, a bad record is a value.
    pub(crate) fn of(record: Record) -> Self {
        let (mark, offset) = (Mark::of(&record), record.offset);
        let appended_at_micros = record.appended_at_micros;
        let content = match decode(&record.payload) {
            Ok(batch) => Ok(Content::of(batch, record.payload)),
            Err(error) => Err(Refused { payload: record.payload, reason: told(&error) }),
        };
        Prepared { offset, appended_at_micros, mark, content }
    }

    /// Instants of its samples.
    pub(crate) fn instants(&self) -> &[i64] {
        self.content.as_ref().map_or(&[], |content| &content.batch.at)
    }
}

impl Content {
    fn of(batch: SampleBatch, payload: bytes::Bytes) -> Self {
        let (meters, subjects) = (&batch.meters, &batch.subjects);
        let hash = |at: usize| {
            let (id, kind) = (subjects.id.value(at), subjects.kind.value(at));
            let (project, node) = (subjects.project.value(at), subjects.node.value(at));
            subject_hash(id, kind, project, node, subjects.labels.value(at))
        };
        Content {
            meters: meters.name.iter().flatten().map(text_hash).collect(),
            stated: (0..meters.len()).map(|at| meters.statement(at)).collect(),
            subjects: (0..subjects.len()).map(hash).collect(),
            source: text_hash(&batch.source),
            epoch: batch.epoch.id(),
            batch,
            payload,
        }
    }

    /// Series of a row.
    pub(crate) fn series(&self, row: usize) -> SeriesId {
        let meter = self.meters[usize::from(self.batch.meter[row])];
        let subject = self.subjects[self.batch.resource[row] as usize];
        SeriesKey { meter, subject, source: self.source }.id()
    }

    /// Meters with what the record states of them.
    pub(crate) fn meters(&self) -> impl Iterator<Item = (&str, &Statement)> {
        self.batch.meters.name.iter().flatten().zip(&self.stated)
    }

    /// What the record states of a row's meter.
    pub(crate) fn stated(&self, row: usize) -> &Statement {
        &self.stated[usize::from(self.batch.meter[row])]
    }

    /// What describes the series of a row.
    pub(crate) fn description(&self, row: usize) -> Description<&str> {
        let subjects = &self.batch.subjects;
        let at = self.batch.resource[row] as usize;
        Description {
            meter: self.batch.meters.name.value(usize::from(self.batch.meter[row])),
            resource: subjects.id.value(at),
            kind: subjects.kind.value(at),
            project: subjects.project.value(at),
            node: subjects.node.value(at),
            source: &self.batch.source,
            labels: subjects.labels.value(at),
        }
    }

    /// One sample for the dead letters.
    pub(crate) fn sample_json(&self, row: usize) -> bytes::Bytes {
        let series = self.description(row);
        let value = self.batch.value[row];
        let sample = serde_json::json!({
            "meter": series.meter, "resource": series.resource, "kind": series.kind,
            "project": series.project, "node": series.node, "source": series.source,
            "labels": series.labels,
            "at": self.batch.at[row], "value": value.to_string(),
        });
        bytes::Bytes::from(sample.to_string())
    }
}
