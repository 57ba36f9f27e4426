//! What a side came to in a run, and both sides beside each other.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spread::Spread;

/// How the figures are taken, for whoever reads them.
pub(crate) const COUNTED: &str = "\
counted as CPU, user and system:
  nilometer: its whole process from the first fetch until the last commit
  victoria-metrics: its whole process from the first request until nothing is in memory alone
  not: making the records before; the client that decodes, encodes and sends those records
merged: the same and what then makes few files of many, compaction here and a forced merge there
B/sample: files of samples; with labels: also series and Delta logs here, the whole data folder there;
  nilometer keeps microseconds and whole floats, victoria-metrics milliseconds and about 12 digits
one series over an hour: raw rows, merged files, over HTTP on loopback, median of 50 questions; here
  SQL answered in JSON, there /api/v1/export; here the client is in the same process
memory: peak of the process's resident set until all is durable";

/// What a side came to in a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) samples: u64,
    /// CPU seconds until every sample is durable.
    pub(crate) cpu_seconds: f64,
    /// Seconds on the clock until then. Not compared: the peer waits for its flush interval.
    pub(crate) wall_seconds: f64,
    /// CPU seconds until the files are merged as well.
    pub(crate) merged_cpu_seconds: f64,
    /// Peak of the resident memory until every sample is durable.
    pub(crate) peak_bytes: u64,
    /// Bytes of the files of samples, once durable.
    pub(crate) durable_bytes: u64,
    /// Bytes of the files of samples, merged.
    pub(crate) merged_bytes: u64,
    /// The same with everything that says what the samples are.
    pub(crate) labelled_bytes: u64,
    /// Milliseconds of a question for one series over an hour, median.
    pub(crate) question_millis: f64,
}

impl Figures {
    pub(crate) fn samples_per_core_second(&self) -> f64 {
        self.samples as f64 / self.cpu_seconds
    }

    pub(crate) fn bytes_per_sample(&self) -> f64 {
        self.per_sample(self.merged_bytes)
    }

    fn per_sample(&self, bytes: u64) -> f64 {
        bytes as f64 / self.samples as f64
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} samples, {:.2} CPU-s ({:.2} merged) in {:.1} s",
            self.samples, self.cpu_seconds, self.merged_cpu_seconds, self.wall_seconds
        )?;
        LINES.iter().try_for_each(|line| write!(f, "; {:.2} {}", (line.of)(self), line.name))
    }
}

struct Line {
    name: &'static str,
    better: &'static str,
    of: fn(&Figures) -> f64,
}

const LINES: [Line; 7] = [
    Line {
        name: "M samples/s/core",
        better: "more",
        of: |figures| figures.samples_per_core_second() / 1e6,
    },
    Line {
        name: "M samples/s/core, merged",
        better: "more",
        of: |figures| figures.samples as f64 / figures.merged_cpu_seconds / 1e6,
    },
    Line {
        name: "B/sample",
        better: "less",
        of: |figures| figures.per_sample(figures.durable_bytes),
    },
    Line { name: "B/sample, merged", better: "less", of: Figures::bytes_per_sample },
    Line {
        name: "B/sample, merged, with labels",
        better: "less",
        of: |figures| figures.per_sample(figures.labelled_bytes),
    },
    Line {
        name: "ms one series over an hour",
        better: "less",
        of: |figures| figures.question_millis,
    },
    Line {
        name: "MiB memory",
        better: "less",
        of: |figures| figures.peak_bytes as f64 / f64::from(1 << 20),
    },
];

/// Medians with spread of ours; with a peer also of its, and of the ratios of runs side by side.
pub(crate) fn table(ours: &[Figures], peer: &[Figures]) -> String {
    let mut text = format!("{} runs: median (least to greatest)\n", ours.len());
    let mut row = |name: &str, cells: [&str; 3]| {
        let line = format!("{name:<30} {:<32} {:<32} {}", cells[0], cells[1], cells[2]);
        text.push_str(line.trim_end());
        text.push('\n');
    };
    if !peer.is_empty() {
        row("", ["nilometer", "victoria-metrics", "nilometer / victoria-metrics"]);
    }
    for Line { name, better, of } in LINES {
        let spread = Spread::of(ours.iter().map(of)).to_string();
        if peer.is_empty() {
            row(name, [&spread, "", ""]);
            continue;
        }
        let ratios = ours.iter().zip(peer).map(|(ours, peer)| of(ours) / of(peer));
        let ratio = format!("{}, {better} is better", Spread::of(ratios));
        row(name, [&spread, &Spread::of(peer.iter().map(of)).to_string(), &ratio]);
    }
    text
}
