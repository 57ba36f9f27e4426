//! A wall clock for one process that jumps when told to, by libfaketime.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::skip::skip;

/// A clock that processes started with its [environment](JumpingClock::environment) have.
pub struct JumpingClock {
    library: PathBuf,
    offset: PathBuf,
}

impl JumpingClock {
    /// One that is right, and keeps its offset below `dir`.
    ///
    /// `None`, with a line `SKIPPED: …` on stderr, when libfaketime is not installed.
    ///
    /// # Errors
    ///
    /// If its file cannot be written, or nothing may be skipped.
    pub fn new(dir: &Path) -> Result<Option<JumpingClock>> {
        let Some(library) = library() else { return skip("libfaketime is not installed") };
        let clock = JumpingClock { library, offset: dir.join("clock") };
        clock.set(0)?;
        Ok(Some(clock))
    }

    /// What a process needs to have this clock; its monotonic clock stays as it is.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// Lets it jump to so many seconds past the right time.
    ///
    /// # Errors
    ///
    /// If its file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let next = self.offset.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n"))?;
        fs::rename(&next, &self.offset).context("the clock cannot be set")
    }
}

/// The build for programs with threads, wherever the distribution has it.
fn library() -> Option<PathBuf> {
    let mut places = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let library = |place: PathBuf| place.join("faketime/libfaketimeMT.so.1");
    places.find_map(|place| Some(library(place)).filter(|path| path.is_file()))
}
