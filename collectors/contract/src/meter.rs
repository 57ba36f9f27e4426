//! Meters: what can be measured.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::kind::ResourceKind;

/// Longest unit, in bytes.
pub const MAX_UNIT_BYTES: usize = 32;

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

/// Base unit of a meter, such as `seconds`, `bytes`, `joules`, or `1` for a pure number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unit(Arc<str>);

/// A text that is no unit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no unit: 1 to {MAX_UNIT_BYTES} bytes without spaces")]
pub struct InvalidUnit(pub String);

/// Who says what a meter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The catalogue that comes with the program.
    BuiltIn,
    /// A file of the operator's.
    File(Arc<str>),
    /// Samples of a source were the first to name it.
    Learnt {
        /// The source.
        source: Arc<str>,
    },
}

/// One meter. Equal, ordered and hashed by its name: within a catalogue there is one of each.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Unique name, such as `cpu.time`.
    pub name: Arc<str>,
    /// How its samples turn into usage.
    pub kind: MeterKind,
    /// Base unit of its samples.
    pub unit: Unit,
    /// Unit of its usage, see [`usage_unit`].
    pub usage_unit: Arc<str>,
    /// Longest time one observation speaks for: a gauge's level counts no longer, and a
    /// counter's increase over a longer pause is billed but reported as unobserved.
    pub hold_micros: i64,
    /// The attribute of a resource that runs others that bounds its usage: so many units a second
    /// of a counter, such a level of a gauge.
    pub capacity: Option<String>,
    /// One sentence for people.
    pub description: String,
    /// Kinds of resource that have it; any kind where none is listed.
    pub resources: Vec<ResourceKind>,
    /// Who says so.
    pub origin: Origin,
}

impl Unit {
    /// A pure number.
    pub fn one() -> Self {
        Unit("1".into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Unit {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_part = |letter: char| !letter.is_control() && !letter.is_whitespace();
        match (1..=MAX_UNIT_BYTES).contains(&text.len()) && text.chars().all(is_part) {
            true => Ok(Unit(text.into())),
            false => Err(InvalidUnit(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
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

    /// The kind of a meter that is sampled, by name.
    pub fn sampled(name: &str) -> Option<Self> {
        [MeterKind::Counter, MeterKind::Gauge, MeterKind::Delta]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }

    /// Whether usage is a level over time, and not a sum of amounts.
    pub fn is_level(&self) -> bool {
        matches!(self, MeterKind::Gauge | MeterKind::Allocation { .. })
    }
}

impl Origin {
    /// `built-in`, the name of the file, or `learnt`.
    pub fn as_str(&self) -> &str {
        match self {
            Origin::BuiltIn => "built-in",
            Origin::File(path) => path,
            Origin::Learnt { .. } => "learnt",
        }
    }
}

/// Unit of a meter's usage: the base unit itself where amounts add up, base unit × seconds where a
/// level is held over time (`byte_seconds` of `bytes`, `seconds` of `1`).
pub fn usage_unit(kind: &MeterKind, unit: &Unit) -> Arc<str> {
    match (kind.is_level(), unit.as_str()) {
        (false, unit) => unit.into(),
        (true, "1") => "seconds".into(),
        (true, unit) => format!("{}_seconds", unit.strip_suffix('s').unwrap_or(unit)).into(),
    }
}

impl Meter {
    /// Whether resources of a kind have it.
    pub fn is_of(&self, kind: &ResourceKind) -> bool {
        self.resources.is_empty() || self.resources.contains(kind)
    }
}

impl PartialEq for Meter {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Meter {}

impl PartialOrd for Meter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Meter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl Hash for Meter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
