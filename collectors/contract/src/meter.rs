//! The meter catalogue: what can be measured, as data in `meters.toml`.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::resource::ResourceKind;
use crate::time::MICROS_PER_SECOND;

const BUILT_IN: &str = include_str!("../meters.toml");
const MAX_METERS: usize = 4_096;

/// Place of a meter in its catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeterId(pub u16);

/// How the samples of one meter turn into usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeterKind {
    /// Only grows. Usage is the increase; a fall means the source restarted from zero.
    Counter,
    /// A level. Usage is level × time; a sample counts for at most the meter's hold time.
    Gauge,
    /// An amount since the sample before. Usage is the sum.
    Delta,
    /// Never sampled: a size that the resource's attribute states, or 1 without one, over the
    /// time that lifecycle events say.
    Allocation {
        /// The attribute that holds the size.
        attribute: Option<String>,
    },
}

/// Base unit of a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Unit {
    /// SI seconds.
    #[serde(rename = "seconds")]
    Seconds,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
    /// Joules.
    #[serde(rename = "joules")]
    Joules,
    /// A pure number.
    #[serde(rename = "1")]
    One,
}

/// One meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Unique name, such as `cpu.time`.
    pub name: String,
    /// How its samples turn into usage.
    pub kind: MeterKind,
    /// Base unit of its samples.
    pub unit: Unit,
    /// Longest time one observation speaks for: a gauge's level counts no longer, and a
    /// counter's increase over a longer pause is billed but reported as unobserved.
    pub hold_micros: i64,
    /// One sentence for people.
    pub description: String,
    /// Kinds of resource that have it.
    pub resources: Vec<ResourceKind>,
}

/// The meters in force.
#[derive(Clone, Debug)]
pub struct Catalogue {
    meters: Vec<Meter>,
    by_name: HashMap<String, MeterId>,
}

/// Why a text is not a catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not TOML of the right shape.
    #[error("not a meter catalogue: {0}")]
    Toml(String),
    /// A meter contradicts itself or another.
    #[error("meter {meter}: {reason}")]
    Meter {
        /// Its name.
        meter: String,
        /// What is wrong.
        reason: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default_hold_seconds: i64,
    meter: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    kind: String,
    unit: Unit,
    hold_seconds: Option<i64>,
    attribute: Option<String>,
    description: String,
    resources: Vec<ResourceKind>,
}

impl Unit {
    /// `seconds`, `bytes`, `joules` or `1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            Unit::Joules => "joules",
            Unit::One => "1",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl MeterKind {
    /// `counter`, `gauge`, `delta` or `allocation`.
    pub fn as_str(&self) -> &'static str {
        match self {
            MeterKind::Counter => "counter",
            MeterKind::Gauge => "gauge",
            MeterKind::Delta => "delta",
            MeterKind::Allocation { .. } => "allocation",
        }
    }
}

impl Meter {
    /// Unit of this meter's usage: the base unit itself where amounts add up, base unit × seconds
    /// where a level is held over time.
    pub fn usage_unit(&self) -> &'static str {
        let level = matches!(self.kind, MeterKind::Gauge | MeterKind::Allocation { .. });
        match (level, self.unit) {
            (false, unit) => unit.as_str(),
            (true, Unit::Seconds) => "second_seconds",
            (true, Unit::Bytes) => "byte_seconds",
            (true, Unit::Joules) => "joule_seconds",
            (true, Unit::One) => "seconds",
        }
    }
}

impl Catalogue {
    /// Reads a catalogue in the form of `meters.toml`.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let file: File =
            toml::from_str(text).map_err(|error| CatalogueError::Toml(error.to_string()))?;
        let mut meters = Vec::with_capacity(file.meter.len());
        let mut by_name = HashMap::new();
        for entry in file.meter {
            let meter = entry.check(file.default_hold_seconds)?;
            let id = MeterId(u16::try_from(meters.len()).unwrap_or(u16::MAX));
            if meters.len() >= MAX_METERS || by_name.insert(meter.name.clone(), id).is_some() {
                let reason = "named twice, or one too many";
                return Err(CatalogueError::Meter { meter: meter.name, reason });
            }
            meters.push(meter);
        }
        Ok(Catalogue { meters, by_name })
    }

    /// The meter at a place that this catalogue handed out.
    pub fn get(&self, id: MeterId) -> &Meter {
        &self.meters[usize::from(id.0)]
    }

    /// Finds a meter by name.
    pub fn find(&self, name: &str) -> Option<MeterId> {
        self.by_name.get(name).copied()
    }

    /// All meters with their places.
    pub fn iter(&self) -> impl Iterator<Item = (MeterId, &Meter)> {
        self.meters.iter().enumerate().map(|(at, meter)| (MeterId(at as u16), meter))
    }
}

impl Entry {
    fn check(self, default_hold_seconds: i64) -> Result<Meter, CatalogueError> {
        let hold_seconds = self.hold_seconds.unwrap_or(default_hold_seconds);
        let kind = match (self.kind.as_str(), &self.attribute) {
            ("counter", None) => Ok(MeterKind::Counter),
            ("gauge", None) => Ok(MeterKind::Gauge),
            ("delta", None) => Ok(MeterKind::Delta),
            ("allocation", _) => Ok(MeterKind::Allocation { attribute: self.attribute }),
            ("counter" | "gauge" | "delta", Some(_)) => Err("only an allocation has an attribute"),
            _ => Err("kind is one of counter, gauge, delta, allocation"),
        };
        let kind = match kind {
            Ok(_) if !(1..=86_400).contains(&hold_seconds) => Err("hold is 1 s to 1 day"),
            Ok(_) if self.resources.is_empty() => Err("no kind of resource has it"),
            other => other,
        };
        let kind =
            kind.map_err(|reason| CatalogueError::Meter { meter: self.name.clone(), reason })?;
        Ok(Meter {
            name: self.name,
            kind,
            unit: self.unit,
            hold_micros: hold_seconds * MICROS_PER_SECOND,
            description: self.description,
            resources: self.resources,
        })
    }
}

/// The catalogue built into this version.
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| match Catalogue::parse(BUILT_IN) {
        Ok(catalogue) => catalogue,
        Err(error) => panic!("the built-in meter catalogue is valid: {error}"),
    })
}
