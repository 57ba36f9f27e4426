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
    /// The answer in order of size, once it is known.
    pub(crate) values: Vec<f64>,
}

impl Question {
    pub(crate) fn new(resource: String, until: Timestamp) -> Self {
        let after = until.plus_micros(-MICROS_PER_HOUR);
        Question { meter: "cpu.time".to_owned(), resource, after, until, values: Vec::new() }
    }
}

/// The median of the milliseconds from request to the answer's last byte, and the values of an
/// answer in order of size, which are always the same.
pub(crate) async fn ask(
    request: RequestBuilder,
    values: impl Fn(&[u8]) -> serde_json::Result<Vec<f64>>,
) -> anyhow::Result<(f64, Vec<f64>)> {
    let (mut times, mut known) = (Vec::new(), None);
    for _ in 0..TIMES {
        let request = request.try_clone().context("a question can be asked again")?;
        let started = Instant::now();
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let mut found = values(&answer)?;
        found.sort_by(f64::total_cmp);
        ensure!(!found.is_empty(), "the series has rows in its last hour");
        ensure!(*known.get_or_insert(found.clone()) == found, "an answer differs from another");
    }
    Ok((Spread::of(times).median(), known.unwrap_or_default()))
}
