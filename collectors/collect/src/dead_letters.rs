//! Records that the log refuses for good, kept in a folder for people to look at.
//!
//! One file for each: a line of JSON that says what it is, then the record as it was to be appended.
//! A gap tells of each as well, so what goes from here at the bound is not forgotten.
//!
//! Bounds: [`MAX_LETTERS`] files, and as many bytes as configured; past them the oldest go.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::entry::Entry;
use crate::file;

/// Most files.
const MAX_LETTERS: usize = 1_000;

/// The folder of dead letters.
pub(crate) struct DeadLetters {
    dir: PathBuf,
    max_bytes: u64,
    /// Numbers and sizes of the files, oldest first.
    letters: VecDeque<(u64, u64)>,
    bytes: u64,
    next: u64,
}

impl DeadLetters {
    /// Opens a folder, made where it is missing.
    pub(crate) fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        file::create_folder(dir)?;
        let mut letters = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let number = name.strip_suffix(".letter").map(|number| u64::from_str_radix(number, 16));
            if let Some(Ok(number)) = number {
                letters.push((number, entry.metadata()?.len()));
            }
        }
        letters.sort_unstable();
        let next = letters.last().map_or(0, |(number, _)| number + 1);
        let bytes = letters.iter().map(|(_, bytes)| bytes).sum();
        Ok(DeadLetters { dir: dir.to_owned(), max_bytes, letters: letters.into(), bytes, next })
    }

    /// Keeps a record; on disk when this returns.
    pub(crate) fn keep(&mut self, topic: &str, entry: &Entry, reason: &str) -> io::Result<()> {
        let head = json!({
            "topic": topic, "partition": entry.partition, "source": &*entry.source,
            "samples": entry.samples, "start": entry.start, "end": entry.end, "reason": reason,
        });
        let mut bytes = head.to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&entry.payload);
        let size = bytes.len() as u64;
        while self.letters.len() >= MAX_LETTERS || self.bytes + size > self.max_bytes {
            let Some((number, bytes)) = self.letters.pop_front() else { break };
            self.bytes -= bytes;
            fs::remove_file(self.path(number))?;
        }
        file::replace(&self.path(self.next), &bytes)?;
        self.letters.push_back((self.next, size));
        self.bytes += size;
        self.next += 1;
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}.letter"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nilometer_contract::Timestamp;

    fn entry(byte: u8) -> Entry {
        let (start, end) = (Timestamp::from_seconds(1), Timestamp::from_seconds(2));
        let (source, payload) = ("s".into(), vec![byte; 1_000].into());
        Entry { partition: 3, samples: 7, start, end, source, payload, tried: false }
    }

    #[test]
    fn letters_outlive_their_owner_and_the_oldest_go_at_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        for byte in 0..5 {
            let mut letters = DeadLetters::open(dir.path(), 3_600).unwrap();
            letters.keep("t", &entry(byte), "too long").unwrap();
        }
        let letters = DeadLetters::open(dir.path(), 3_600).unwrap();
        let numbers: Vec<u64> = letters.letters.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [2, 3, 4]);
        let kept = fs::read(letters.path(4)).unwrap();
        let end = kept.iter().position(|&byte| byte == b'\n').unwrap();
        let head: serde_json::Value = serde_json::from_slice(&kept[..end]).unwrap();
        assert_eq!((&head["reason"], &head["partition"]), (&json!("too long"), &json!(3)));
        assert_eq!(kept[end + 1..], [4; 1_000]);
    }
}
