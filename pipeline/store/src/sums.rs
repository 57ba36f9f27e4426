//! Checksums of data files: a bit that flips on the way or on the disk is never a value.
//!
//! The add action of a file has a digest of each of its blocks as a tag. Who reads a part of a
//! file reads the blocks that it lies in whole, and compares them before anything is decoded.
//! They cost 8 bytes for each 256 KiB, in the log and in memory; a reader of few rows reads some
//! hundred KiB more than it needs.

use std::collections::HashMap;
use std::iter;

use bytes::Bytes;
use deltalake_core::kernel::Add;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of all blocks of a file but its last.
pub(crate) const BLOCK: usize = 256 << 10;
const TAG: &str = "nilometer.xxh3.256KiB";
const DIGITS: usize = 16;

/// A digest of each block of a file; none of a file that another program wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums(Box<[u64]>);

/// A file is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("file {path} of table {table} is damaged: {what}; try `nilometer repair`")]
pub(crate) struct Damaged {
    pub(crate) table: &'static str,
    pub(crate) path: String,
    pub(crate) what: String,
}

impl Sums {
    /// Of a file in pieces.
    pub(crate) fn of<'b>(pieces: impl IntoIterator<Item = &'b Bytes>) -> Self {
        let (mut sums, mut block, mut left) = (Vec::new(), Xxh3::new(), BLOCK);
        for mut piece in pieces.into_iter().map(AsRef::<[u8]>::as_ref) {
            while !piece.is_empty() {
                let (part, rest) = piece.split_at(piece.len().min(left));
                block.update(part);
                (piece, left) = (rest, left - part.len());
                if left == 0 {
                    sums.push(block.digest());
                    block.reset();
                    left = BLOCK;
                }
            }
        }
        if left < BLOCK {
            sums.push(block.digest());
        }
        Sums(sums.into())
    }

    pub(crate) fn of_add(add: &Add) -> Self {
        let tag = add.tags.as_ref().and_then(|tags| tags.get(TAG)?.as_deref());
        let text = tag.unwrap_or_default();
        let sums = (0..text.len())
            .step_by(DIGITS)
            .map(|at| u64::from_str_radix(text.get(at..at + DIGITS)?, 16).ok());
        Sums(sums.collect::<Option<_>>().unwrap_or_default())
    }

    pub(crate) fn to_tags(&self) -> Option<HashMap<String, Option<String>>> {
        let text: String = self.0.iter().map(|sum| format!("{sum:016x}")).collect();
        (!text.is_empty()).then(|| iter::once((TAG.to_owned(), Some(text))).collect())
    }

    /// Whether nothing is known of the file.
    pub(crate) fn is_unknown(&self) -> bool {
        self.0.is_empty()
    }

    /// One number for the whole file, positive; none if nothing is known of it.
    pub(crate) fn digest(&self) -> Option<i64> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        (!bytes.is_empty()).then(|| (xxh3_64(&bytes) >> 1) as i64)
    }

    /// Compares whole blocks, of which the first begins at an offset; says what is wrong.
    pub(crate) fn check(&self, start: u64, bytes: &[u8]) -> Result<(), String> {
        let first = start / BLOCK as u64;
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK)) {
            let known = usize::try_from(block).ok().and_then(|block| self.0.get(block));
            if known != Some(&xxh3_64(bytes)) {
                return Err(format!("its block {block} is not what was written"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_how_a_file_comes() {
        let bytes: Bytes = (0..3 * BLOCK + 5).map(|n| (n % 251) as u8).collect();
        let whole = Sums::of([&bytes]);
        assert_eq!(whole.0.len(), 4);
        for size in [1_000, BLOCK - 1, BLOCK, 2 * BLOCK + 1] {
            let pieces: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
            assert_eq!(Sums::of(&pieces), whole);
        }
        assert_eq!(whole.check(0, &bytes), Ok(()));
        assert_eq!(whole.check(2 * BLOCK as u64, &bytes[2 * BLOCK..]), Ok(()));
        assert!(whole.check(BLOCK as u64, &bytes[2 * BLOCK..3 * BLOCK]).is_err());
        assert!(whole.check(0, &bytes[..BLOCK + 1]).is_err());
        let add = Add { tags: whole.to_tags(), ..Add::default() };
        assert_eq!(Sums::of_add(&add), whole);
        assert!(Sums::of_add(&Add::default()).is_unknown());
        assert!(whole.digest().is_some_and(|digest| digest >= 0));
    }
}
