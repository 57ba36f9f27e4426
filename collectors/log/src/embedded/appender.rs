//! The writing end of a partition, shared by lock with every other process on the machine.
//!
//! Each append takes the partition's lock, looks whether another process moved the end or died
//! in the middle of moving it, repairs that, writes, makes it durable, publishes, and lets go.
//!
//! ```text
//! lock ─► catch up ─► (roll) ─► write ─► sync ─► publish ─► unlock
//!            │                    └──┬─────┴── failed: cut back to where it was
//!            └── torn tail: cut; acknowledged records lost: go on past their offsets
//! ```
//!
//! A kill at any of these points leaves the records of the append whole and unpublished, torn, or
//! absent; the next appender publishes or cuts them. No offset is ever given twice.

use nilometer_contract::Causes;
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    config::{EmbeddedConfig, Fsync},
    files::Files,
    format::{HEADER, Walk, first_at_micros, put},
    segments,
    tail::{self, Note, Tails},
};

/// Most bytes encoded before they are written.
const CHUNK: usize = 1 << 20;

/// The writing end; it is small and has no file open between appends.
pub(super) struct Appender {
    dir: PathBuf,
    partition: u32,
    tails: Arc<Tails>,
    files: Arc<Files>,
    /// The last segment, as this process last saw it.
    known: Option<(u64, Walk)>,
    /// A segment with records that were acknowledged but are perhaps not on disk yet.
    dirty: Option<u64>,
}

/// The last segment, open.
struct Active {
    base: u64,
    file: Arc<File>,
    end: Walk,
}

/// What an append did.
pub(super) struct Appended {
    pub(super) first: u64,
    /// Whether a segment was begun: the time to see what may go.
    pub(super) rolled: bool,
}

impl Appender {
    pub(super) fn new(
        dir: PathBuf,
        partition: u32,
        tails: Arc<Tails>,
        files: Arc<Files>,
    ) -> Appender {
        Appender { dir, partition, tails, files, known: None, dirty: None }
    }

    /// Appends all records or, on an error, none.
    pub(super) fn append(
        &mut self,
        payloads: &[Bytes],
        at_micros: i64,
        config: &EmbeddedConfig,
    ) -> io::Result<Appended> {
        let _lock = tail::lock(&self.dir, config.lock_timeout())?;
        let mut active = self.caught_up()?;
        let bytes: usize = payloads.iter().map(|payload| HEADER + payload.len()).sum();
        let rolled = active.end.next > active.base
            && active.end.at.saturating_add(bytes as u64) > config.segment_bytes;
        if rolled {
            active = self.roll(active)?;
        }
        let first = active.end.next;
        match self.write(&active, payloads, at_micros, config.fsync) {
            Ok(end) => {
                self.known = Some((active.base, end));
                self.dirty = (config.fsync != Fsync::Always).then_some(active.base);
                Ok(Appended { first, rolled })
            }
            Err(e) => {
                // Nobody has read them: they were not published. If even this fails, the next
                // append finds the torn tail.
                match active.file.set_len(active.end.at) {
                    Ok(()) => self.known = Some((active.base, active.end)),
                    Err(e) => {
                        tracing::warn!(dir = %self.dir.display(), error = %Causes(&e), "failed append not cut")
                    }
                }
                Err(e)
            }
        }
    }

    fn write(
        &mut self,
        active: &Active,
        payloads: &[Bytes],
        at_micros: i64,
        fsync: Fsync,
    ) -> io::Result<Walk> {
        let mut end = active.end;
        let mut chunk = Vec::new();
        for (i, payload) in payloads.iter().enumerate() {
            put(&mut chunk, end.next, at_micros, payload);
            end.next += 1;
            if chunk.len() >= CHUNK || i + 1 == payloads.len() {
                active.file.write_all_at(&chunk, end.at)?;
                end.at += chunk.len() as u64;
                chunk.clear();
            }
        }
        if fsync == Fsync::Always {
            active.file.sync_data()?;
        }
        self.tails.publish(self.partition, end.next)?;
        Ok(end)
    }

    /// Makes what was acknowledged durable, where the policy put that off.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(base) = self.dirty {
            self.files.to_write(&self.dir, base)?.sync_data()?;
            self.dirty = None;
        }
        Ok(())
    }

    /// Deletes the segments whose records all lie below `below`. The last one goes only when it
    /// is large enough to be worth a new file.
    pub(super) fn truncate(&mut self, below: u64, config: &EmbeddedConfig) -> io::Result<()> {
        let _lock = tail::lock(&self.dir, config.lock_timeout())?;
        let mut active = self.caught_up()?;
        let worth = active.end.at >= config.segment_bytes / 4;
        if below >= active.end.next && active.end.next > active.base && worth {
            active = self.roll(active)?;
        }
        self.known = Some((active.base, active.end));
        self.delete_first_while(|_, next| Ok(next <= below))
    }

    /// Deletes the segments whose records were all appended before `before_micros`.
    pub(super) fn expire(&mut self, before_micros: i64, config: &EmbeddedConfig) -> io::Result<()> {
        let _lock = tail::lock(&self.dir, config.lock_timeout())?;
        let dir = self.dir.clone();
        // What follows a segment was appended after all of it.
        self.delete_first_while(|_, next| {
            let first = first_at_micros(&segments::open(&dir, next)?, next)?;
            Ok(first.is_some_and(|at| at < before_micros))
        })
    }

    /// Deletes the first segment if it still is the one with this base, and not the last.
    pub(super) fn drop_first(&mut self, base: u64, config: &EmbeddedConfig) -> io::Result<()> {
        let _lock = tail::lock(&self.dir, config.lock_timeout())?;
        self.delete_first_while(|first, _| Ok(first == base))
    }

    /// From the front, so that a crash in between leaves one contiguous run.
    fn delete_first_while(
        &self,
        mut goes: impl FnMut(u64, u64) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut deleted = false;
        for pair in segments::list(&self.dir)?.windows(2) {
            if !goes(pair[0], pair[1])? {
                break;
            }
            segments::delete(&self.dir, pair[0])?;
            deleted = true;
        }
        if deleted {
            self.files.close_deleted();
            segments::sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// The true end of the partition, repaired and published; call with the lock held.
    fn caught_up(&mut self) -> io::Result<Active> {
        let note = self.tails.read(self.partition)?;
        let mut known = None;
        if let Some((base, end)) = self.known.take()
            && let Ok(file) = self.files.to_write(&self.dir, base)
        {
            let active = Active { base, file, end };
            if self.unchanged(&active, note)? {
                return Ok(active);
            }
            known = Some(active);
        }
        let bases = segments::list(&self.dir)?;
        let last = bases[bases.len() - 1];
        let mut active = match known {
            Some(active) if active.base == last => active,
            _ => {
                let file = self.files.to_write(&self.dir, last)?;
                Active { base: last, file, end: Walk::start(last) }
            }
        };
        self.repair(&mut active, note)?;
        if note.next > active.end.next {
            tracing::error!(
                dir = %self.dir.display(),
                first = active.end.next,
                lost = note.next - active.end.next,
                "acknowledged records are gone from the log; going on past their offsets"
            );
            active.end.next = note.next;
            active = self.roll(active)?;
        }
        if !note.current || note.next != active.end.next {
            active.file.sync_data()?;
            self.tails.publish(self.partition, active.end.next)?;
        }
        Ok(active)
    }

    fn unchanged(&self, active: &Active, note: Note) -> io::Result<bool> {
        let stat = active.file.metadata()?;
        let next = active.end.next;
        Ok(note == Note { next, current: true }
            && stat.len() == active.end.at
            && stat.nlink() > 0
            && (active.base == next || !segments::exists(&self.dir, next)?))
    }

    /// Walks to the end over what others appended; cuts what one of them left torn.
    fn repair(&self, active: &mut Active, note: Note) -> io::Result<()> {
        loop {
            active.end.advance(&active.file, u64::MAX)?;
            let size = active.file.metadata()?.len();
            if active.end.at >= size {
                return Ok(());
            }
            let Walk { at, next } = active.end;
            if let Some(later) = active.end.resume(&active.file)? {
                tracing::error!(
                    dir = %self.dir.display(), first = next, until = later.next,
                    "records in the log are damaged"
                );
                active.end = later;
            } else if next >= note.next {
                tracing::warn!(
                    dir = %self.dir.display(), offset = next, bytes = size - at,
                    "torn end of the log cut; it was not acknowledged"
                );
                active.file.set_len(at)?;
                active.file.sync_data()?;
                return Ok(());
            } else {
                // Acknowledged once: the bytes stay as evidence, a new segment follows.
                return Ok(());
            }
        }
    }

    /// Ends the active segment and begins the next one.
    fn roll(&mut self, active: Active) -> io::Result<Active> {
        active.file.sync_data()?;
        self.dirty = None;
        let base = active.end.next;
        segments::create(&self.dir, base)?;
        let file = self.files.to_write(&self.dir, base)?;
        Ok(Active { base, file, end: Walk::start(base) })
    }
}
