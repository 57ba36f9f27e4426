//! Pressure stall information: time in which tasks waited for a resource of the machine.

use std::path::Path;

use nilometer_contract::{BatchBuilder, Timestamp};

use crate::context::Files;

const MICROS: f64 = 1e6;

/// What tasks wait for, with the meters of `some` and of `full`.
pub(crate) const RESOURCES: [(&str, &str, &str); 3] = [
    ("cpu", "pressure.cpu.some.time", "pressure.cpu.full.time"),
    ("memory", "pressure.memory.some.time", "pressure.memory.full.time"),
    ("io", "pressure.io.some.time", "pressure.io.full.time"),
];

/// Samples the three files that `path_of` names; returns how many were there.
pub(crate) fn sample(
    files: &mut Files,
    path_of: impl Fn(&str) -> Box<Path>,
    at: Timestamp,
    subject: u32,
    samples: &mut BatchBuilder,
) -> usize {
    let mut there = 0;
    for (resource, some, full) in RESOURCES {
        let Some(text) = files.read(&path_of(resource)) else { continue };
        there += 1;
        for line in text.lines() {
            let meter = if line.starts_with("some") { some } else { full };
            if let Some(micros) = total_micros(line) {
                samples.push_named(subject, meter, at, micros as f64 / MICROS);
            }
        }
    }
    there
}

fn total_micros(line: &str) -> Option<u64> {
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_and_averages_are_not() {
        let line = "some avg10=37.93 avg60=18.02 avg300=19.61 total=294693166";
        assert_eq!(total_micros(line), Some(294_693_166));
        assert_eq!(total_micros("some avg10=1"), None);
    }
}
