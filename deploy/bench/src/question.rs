//! The question of a dashboard's panel: one series over its last hour.

use std::time::Instant;

use anyhow::{Context, ensure};
use nilometer_contract::{MICROS_PER_HOUR, Timestamp};
use reqwest::RequestBuilder;
use serde::{Deserialize, Serialize};

use crate::spread::Spread;

const TIMES: usize = 50;

/// What is asked of either side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) meter: String,
    pub(crate) resource: String,
    /// The hour is past this instant, up to `until` inclusive.
    pub(crate) after: Timestamp,
    pub(crate) until: Timestamp,
    /// Of the answer, once it is known.
    pub(crate) rows: usize,
}

impl Question {
    pub(crate) fn new(resource: String, until: Timestamp) -> Self {
        let after = until.plus_micros(-MICROS_PER_HOUR);
        Question { meter: "cpu.time".to_owned(), resource, after, until, rows: 0 }
    }
}

/// The median of the milliseconds from request to the answer's last byte, and the rows of an
/// answer, which are always as many.
pub(crate) async fn ask(
    request: RequestBuilder,
    rows: impl Fn(&[u8]) -> anyhow::Result<usize>,
) -> anyhow::Result<(f64, usize)> {
    let (mut times, mut found) = (Vec::new(), None);
    for _ in 0..TIMES {
        let request = request.try_clone().context("a question can be asked again")?;
        let started = Instant::now();
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let count = rows(&answer)?;
        ensure!(count > 0, "the series has rows in its last hour");
        ensure!(*found.get_or_insert(count) == count, "an answer differs from the one before");
    }
    Ok((Spread::of(times).median(), found.unwrap_or_default()))
}
