//! What a price is for: `hour`, `GiB*hour`, `GB`, `1000000`, as a count of a meter's usage units.
//!
//! A price holds per so many base units of usage: `hour` is 3,600 `seconds`, `GiB*hour` is
//! 2³⁰ × 3,600 `byte_seconds`. Only units of constant length are known, so a price means the same
//! in every month and across every change of the clocks.

use std::fmt;

use crate::suggest::nearest;

/// Bytes, seconds and joules that multiply into a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dimensions {
    bytes: u8,
    seconds: u8,
    joules: u8,
}

/// The number of usage units that a price is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Per {
    text: String,
    units: u128,
}

/// Why a text cannot say what a price is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPer {
    /// Not a unit.
    #[error("{unit:?} is not a unit{suggestion}; units are {KNOWN}, or a whole number")]
    UnknownUnit {
        /// What was written.
        unit: String,
        /// The nearest unit, when one is near.
        suggestion: String,
    },
    /// A unit whose length differs from one time to the next.
    #[error(
        "a {0} has no constant length, so a price per {0} would mean something else each time; \
         give the price per hour, or per day of 24 hours"
    )]
    NotConstant(String),
    /// The unit measures something else than the meter does.
    #[error("{per:?} does not measure {meter}, whose usage is in {usage_unit}; write {example:?}")]
    WrongDimension {
        /// What was written.
        per: String,
        /// The meter.
        meter: String,
        /// Unit of the meter's usage.
        usage_unit: Box<str>,
        /// Something that would do.
        example: &'static str,
    },
    /// Zero, or beyond any use.
    #[error("{0:?} is zero or more than 10^27 usage units")]
    OutOfRange(String),
}

const MAX_UNITS: u128 = 10u128.pow(27);
const KNOWN: &str = "second, minute, hour, day, week, B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, \
    PiB, J, kJ, MJ, Wh, kWh, joined by *";
const TIME: Dimensions = Dimensions { bytes: 0, seconds: 1, joules: 0 };
const DATA: Dimensions = Dimensions { bytes: 1, seconds: 0, joules: 0 };
const ENERGY: Dimensions = Dimensions { bytes: 0, seconds: 0, joules: 1 };
const UNITS: [(&str, u128, Dimensions); 21] = [
    ("second", 1, TIME),
    ("minute", 60, TIME),
    ("hour", 3_600, TIME),
    ("day", 86_400, TIME),
    ("week", 604_800, TIME),
    ("B", 1, DATA),
    ("kB", 1_000, DATA),
    ("MB", 1_000_000, DATA),
    ("GB", 1_000_000_000, DATA),
    ("TB", 1_000_000_000_000, DATA),
    ("PB", 1_000_000_000_000_000, DATA),
    ("KiB", 1 << 10, DATA),
    ("MiB", 1 << 20, DATA),
    ("GiB", 1 << 30, DATA),
    ("TiB", 1 << 40, DATA),
    ("PiB", 1 << 50, DATA),
    ("J", 1, ENERGY),
    ("kJ", 1_000, ENERGY),
    ("MJ", 1_000_000, ENERGY),
    ("Wh", 3_600, ENERGY),
    ("kWh", 3_600_000, ENERGY),
];
const NOT_CONSTANT: [&str; 3] = ["month", "quarter", "year"];

impl Per {
    /// Reads what a price of a meter is for, whose usage is in a unit.
    pub fn parse(text: &str, meter: &str, usage_unit: &str) -> Result<Self, InvalidPer> {
        let mut units = 1u128;
        let mut dimensions = Dimensions::default();
        let mut words = Vec::new();
        for factor in text.split('*').map(str::trim) {
            let (count, dimension) = factor_of(factor)?;
            units = units
                .checked_mul(count)
                .filter(|units| (1..=MAX_UNITS).contains(units))
                .ok_or_else(|| InvalidPer::OutOfRange(text.to_owned()))?;
            dimensions.bytes = dimensions.bytes.saturating_add(dimension.bytes);
            dimensions.seconds = dimensions.seconds.saturating_add(dimension.seconds);
            dimensions.joules = dimensions.joules.saturating_add(dimension.joules);
            words.push(factor);
        }
        let (wanted, example) = wanted(usage_unit);
        if dimensions != wanted {
            let (per, meter) = (text.to_owned(), meter.to_owned());
            let usage_unit = usage_unit.into();
            return Err(InvalidPer::WrongDimension { per, meter, usage_unit, example });
        }
        Ok(Per { text: words.join("*"), units })
    }

    /// Usage units that the price is for: 3600 for `hour` of a meter in seconds.
    pub fn units(&self) -> u128 {
        self.units
    }

    /// The text without spaces, such as `GiB*hour`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn factor_of(factor: &str) -> Result<(u128, Dimensions), InvalidPer> {
    if !factor.is_empty() && factor.bytes().all(|byte| byte.is_ascii_digit()) {
        let out_of_range = |_| InvalidPer::OutOfRange(factor.to_owned());
        return Ok((factor.parse().map_err(out_of_range)?, Dimensions::default()));
    }
    if let Some((_, count, dimensions)) = UNITS.iter().find(|(name, ..)| *name == factor) {
        return Ok((*count, *dimensions));
    }
    let singular = factor.strip_suffix('s').unwrap_or(factor);
    if NOT_CONSTANT.contains(&singular) {
        return Err(InvalidPer::NotConstant(singular.to_owned()));
    }
    let suggestion = nearest(factor, UNITS.iter().map(|(name, ..)| *name));
    Err(InvalidPer::UnknownUnit { unit: factor.to_owned(), suggestion })
}

fn wanted(usage_unit: &str) -> (Dimensions, &'static str) {
    match usage_unit {
        "seconds" => (TIME, "hour"),
        "bytes" => (DATA, "GiB"),
        "joules" => (ENERGY, "kWh"),
        "byte_seconds" => (Dimensions { seconds: 1, ..DATA }, "GiB*hour"),
        "joule_seconds" => (Dimensions { seconds: 1, ..ENERGY }, "J*hour"),
        "second_seconds" => (Dimensions { seconds: 2, ..TIME }, "second*hour"),
        level if level.ends_with("_seconds") => (TIME, "1000*hour"),
        _ => (Dimensions::default(), "1000000"),
    }
}

#[cfg(test)]
mod tests {
    use nilometer_contract::catalogue;

    use super::*;

    fn parse(meter: &str, text: &str) -> Result<u128, InvalidPer> {
        let usage_unit = &catalogue().find(meter).unwrap().usage_unit;
        Per::parse(text, meter, usage_unit).map(|per| per.units())
    }

    #[test]
    fn units_multiply_out() {
        let cases = [
            ("cpu.allocation", "hour", 3_600),
            ("cpu.time", "1000 * hour", 3_600_000),
            ("memory.allocation", "GiB*hour", 3_600 << 30),
            ("memory.usage", "hour * GB", 3_600_000_000_000),
            ("net.rx.bytes", "GB", 1_000_000_000),
            ("net.rx.packets", "1000000", 1_000_000),
            ("energy", "kWh", 3_600_000),
        ];
        for (meter, text, expected) in cases {
            assert_eq!(parse(meter, text).unwrap(), expected, "{meter} {text}");
        }
    }

    #[test]
    fn levels_of_time_and_energy_are_priced_by_their_time() {
        let units = |usage_unit: &str, text: &str| {
            let per = Per::parse(text, "m", usage_unit);
            per.map(|per| per.units()).map_err(|error| error.to_string())
        };
        assert_eq!(units("second_seconds", "second*hour"), Ok(3_600));
        assert_eq!(units("joule_seconds", "kJ*hour"), Ok(3_600_000));
        assert!(units("second_seconds", "hour").unwrap_err().contains("write \"second*hour\""));
        assert!(units("joule_seconds", "J").unwrap_err().contains("write \"J*hour\""));
    }

    #[test]
    fn units_are_what_si_and_iec_say() {
        let units =
            |usage_unit: &str, text: &str| Per::parse(text, "m", usage_unit).unwrap().units();
        for (n, prefix) in ["k", "M", "G", "T", "P"].into_iter().enumerate() {
            let power = n as u32 + 1;
            assert_eq!(units("bytes", &format!("{prefix}B")), 1_000_u128.pow(power));
            let binary = format!("{}iB", prefix.to_uppercase());
            assert_eq!(units("bytes", &binary), 1_024_u128.pow(power));
        }
        let times = [("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)];
        for (text, seconds) in times.into_iter().chain([("week", 7 * 86_400)]) {
            assert_eq!(units("seconds", text), seconds);
        }
        for (text, joules) in [("J", 1), ("kJ", 1_000), ("MJ", 1_000_000), ("Wh", 3_600)] {
            assert_eq!(units("joules", text), joules);
        }
        assert_eq!(units("joules", "kWh"), 3_600_000);
    }

    #[test]
    fn wrong_units_say_what_would_be_right() {
        let cases = [
            ("cpu.time", "month", "no constant length"),
            ("memory.usage", "GiB*months", "no constant length"),
            ("cpu.time", "huor", "did you mean \"hour\"?"),
            ("cpu.time", "GiB", "write \"hour\""),
            ("memory.allocation", "GiB", "write \"GiB*hour\""),
            ("net.rx.packets", "hour", "write \"1000000\""),
            ("cpu.time", "", "\"\" is not a unit"),
            ("cpu.time", "0*hour", "zero or more"),
            ("cpu.time", "99999999999999999999999999999999999999999*hour", "zero or more"),
        ];
        for (meter, text, expected) in cases {
            let error = parse(meter, text).unwrap_err().to_string();
            assert!(error.contains(expected), "{meter} {text}: {error}");
        }
    }
}
