//! The catalogue: which meters and kinds of resource there are.
//!
//! What comes with the program is `meters.toml`; an operator's files add to it; and a meter that
//! nobody declared is learnt from the first sample that names it, with the kind and unit that the
//! sample states, else as a gauge of unit `1`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use crate::kind::{Kind, ResourceKind};
use crate::meter::{Meter, MeterKind, Origin, Unit, usage_unit};
use crate::name::{InvalidName, check_name};
use crate::precedence::{Precedence, Refused, SourcesEntry};
use crate::time::MICROS_PER_SECOND;

const BUILT_IN: &str = include_str!("../meters.toml");
/// Most meters that are declared.
const MAX_METERS: usize = 65_536;
/// Hold time of meters that state none, in seconds.
const HOLD_SECONDS: i64 = 300;

/// The meters and kinds in force, by name.
#[derive(Clone, Debug)]
pub struct Catalogue {
    meters: BTreeMap<Arc<str>, Arc<Meter>>,
    kinds: BTreeMap<ResourceKind, Kind>,
    precedence: Arc<Precedence>,
}

/// What a record says of a meter; what it leaves out is as the catalogue has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// How its samples turn into usage.
    pub kind: Option<MeterKind>,
    /// Base unit.
    pub unit: Option<Unit>,
}

/// Why a text is not a catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not TOML of the right shape.
    #[error("not a meter catalogue: {0}")]
    Toml(String),
    /// A meter or kind contradicts itself or another.
    #[error("{of} {name}: {reason}")]
    Entry {
        /// `meter`, `kind` or `sources`.
        of: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// A record states something else of a meter than what is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The meter.
    pub meter: Arc<str>,
    /// What is known: kind and unit, and who says so.
    pub known: String,
    /// What the record states.
    pub stated: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "hold_seconds")]
    default_hold_seconds: i64,
    #[serde(default)]
    sources: SourcesEntry,
    #[serde(default)]
    kind: Vec<KindEntry>,
    #[serde(default)]
    meter: Vec<MeterEntry>,
}

fn hold_seconds() -> i64 {
    HOLD_SECONDS
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KindEntry {
    name: ResourceKind,
    #[serde(default)]
    computes: bool,
    #[serde(default)]
    contains: bool,
    #[serde(default)]
    costs_idle: bool,
    parent: Option<ResourceKind>,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MeterEntry {
    name: String,
    kind: String,
    unit: String,
    hold_seconds: Option<i64>,
    attribute: Option<String>,
    capacity: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    resources: Vec<ResourceKind>,
    sources: Option<Vec<String>>,
}

impl Catalogue {
    /// A catalogue without entries.
    pub fn empty() -> Self {
        let (meters, kinds) = (BTreeMap::new(), BTreeMap::new());
        Catalogue { meters, kinds, precedence: Arc::default() }
    }

    /// Reads a catalogue in the form of `meters.toml`.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let mut catalogue = Catalogue::empty();
        catalogue.add(text, Origin::BuiltIn)?;
        Ok(catalogue)
    }

    /// Adds a file of the form of `meters.toml`; what is declared already may not be declared
    /// again. Of sources, the order that it states comes before the one so far.
    pub fn add(&mut self, text: &str, origin: Origin) -> Result<(), CatalogueError> {
        let file: File =
            toml::from_str(text).map_err(|error| CatalogueError::Toml(error.to_string()))?;
        for KindEntry { name, computes, contains, costs_idle, parent, description } in file.kind {
            let kind =
                Kind { name: name.clone(), computes, contains, costs_idle, parent, description };
            if self.kinds.insert(name.clone(), kind).is_some() {
                return Err(refused("kind", name.as_str(), "declared twice"));
            }
        }
        let precedence = Arc::make_mut(&mut self.precedence);
        let out_of_order = |(name, reason): Refused| refused("sources", &name, reason);
        for mut entry in file.meter {
            if let Some(sources) = entry.sources.take() {
                precedence.set_meter(&entry.name, sources).map_err(out_of_order)?;
            }
            let meter = entry.check(file.default_hold_seconds, &origin)?;
            if let Some(kind) = meter.resources.iter().find(|kind| !self.kinds.contains_key(kind)) {
                let reason = format!("no kind {kind} is declared; add it as [[kind]]");
                return Err(refused("meter", &meter.name, reason));
            }
            let name = meter.name.clone();
            if self.meters.insert(name.clone(), Arc::new(meter)).is_some() {
                return Err(refused("meter", &name, "declared twice"));
            }
        }
        let mut ordered = file.sources.meters.keys();
        if let Some(meter) = ordered.find(|meter| !self.meters.contains_key(meter.as_str())) {
            let reason = format!("no meter {meter} is declared; add it as [[meter]]");
            return Err(refused("sources", &format!("meters.{meter}"), reason));
        }
        precedence.add(file.sources).map_err(out_of_order)?;
        match self.meters.keys().nth(MAX_METERS) {
            None => Ok(()),
            Some(name) => Err(refused("meter", name, "one too many")),
        }
    }

    /// The order of sources where several speak of one thing.
    pub fn precedence(&self) -> &Arc<Precedence> {
        &self.precedence
    }

    /// Finds a meter by name.
    pub fn find(&self, name: &str) -> Option<&Arc<Meter>> {
        self.meters.get(name)
    }

    /// All meters, by name.
    pub fn meters(&self) -> impl Iterator<Item = &Arc<Meter>> {
        self.meters.values()
    }

    /// Meters that were learnt and not declared.
    pub fn learnt(&self) -> impl Iterator<Item = &Arc<Meter>> {
        self.meters().filter(|meter| matches!(meter.origin, Origin::Learnt { .. }))
    }

    /// What is declared of a kind; one that is not declared has none of the traits.
    pub fn kind(&self, name: &ResourceKind) -> Option<&Kind> {
        self.kinds.get(name)
    }

    /// All kinds that are declared, by name.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.values()
    }

    /// Checks what a record states of a meter against what is known of it; of an unknown one
    /// anything may be stated, and of one that is never sampled nothing.
    pub fn check(&self, name: &str, stated: &Statement) -> Result<(), Conflict> {
        let Some(known) = self.meters.get(name) else { return Ok(()) };
        let same_kind = stated.kind.as_ref().is_none_or(|kind| *kind == known.kind);
        let same_unit = stated.unit.as_ref().is_none_or(|unit| *unit == known.unit);
        if same_kind && same_unit && !matches!(known.kind, MeterKind::Allocation { .. }) {
            return Ok(());
        }
        let or = |text: Option<&str>| text.unwrap_or("unstated").to_owned();
        let kind = or(stated.kind.as_ref().map(MeterKind::as_str));
        let unit = or(stated.unit.as_ref().map(Unit::as_str));
        let (known_kind, known_unit) = (known.kind.as_str(), &known.unit);
        let origin = match &known.origin {
            Origin::Learnt { source } => format!("learnt from {source}"),
            other => other.as_str().to_owned(),
        };
        Err(Conflict {
            meter: known.name.clone(),
            known: format!("{known_kind} in {known_unit} ({origin})"),
            stated: format!("{kind} in {unit}"),
        })
    }

    /// Makes a meter known as what is stated of it; one that is known stays as it is.
    pub fn learn(
        &mut self,
        name: &str,
        stated: Statement,
        source: &str,
    ) -> Result<(), InvalidName> {
        if self.meters.contains_key(name) {
            return Ok(());
        }
        check_name("meter", name)?;
        let name: Arc<str> = name.into();
        let kind = stated.kind.unwrap_or(MeterKind::Gauge);
        let unit = stated.unit.unwrap_or_else(Unit::one);
        let meter = Meter {
            name: name.clone(),
            usage_unit: usage_unit(&kind, &unit),
            kind,
            unit,
            hold_micros: HOLD_SECONDS * MICROS_PER_SECOND,
            capacity: None,
            description: String::new(),
            resources: Vec::new(),
            origin: Origin::Learnt { source: source.into() },
        };
        self.meters.insert(name, Arc::new(meter));
        Ok(())
    }
}

impl Statement {
    /// All that a meter is.
    pub fn of(meter: &Meter) -> Self {
        Statement { kind: Some(meter.kind.clone()), unit: Some(meter.unit.clone()) }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conflict { meter, known, stated } = self;
        write!(f, "meter {meter} is known as {known}, and the record states {stated}")
    }
}

fn refused(of: &'static str, name: &str, reason: impl Into<String>) -> CatalogueError {
    CatalogueError::Entry { of, name: name.to_owned(), reason: reason.into() }
}

impl MeterEntry {
    fn check(self, default_hold_seconds: i64, origin: &Origin) -> Result<Meter, CatalogueError> {
        let wrong = |reason: &str| refused("meter", &self.name, reason);
        check_name("meter", &self.name).map_err(|error| wrong(&error.to_string()))?;
        let hold_seconds = self.hold_seconds.unwrap_or(default_hold_seconds);
        if !(1..=86_400).contains(&hold_seconds) {
            return Err(wrong("hold is 1 s to 1 day"));
        }
        let kind = match (self.kind.as_str(), &self.attribute) {
            ("allocation", attribute) => MeterKind::Allocation { attribute: attribute.clone() },
            (name, attribute) => match (MeterKind::sampled(name), attribute) {
                (Some(kind), None) => kind,
                (Some(_), Some(_)) => return Err(wrong("only an allocation has an attribute")),
                (None, _) => return Err(wrong("kind is one of counter, gauge, delta, allocation")),
            },
        };
        let unit: Unit = self.unit.parse().map_err(|error: crate::meter::InvalidUnit| {
            refused("meter", &self.name, error.to_string())
        })?;
        Ok(Meter {
            name: self.name.into(),
            usage_unit: usage_unit(&kind, &unit),
            kind,
            unit,
            hold_micros: hold_seconds * MICROS_PER_SECOND,
            capacity: self.capacity,
            description: self.description,
            resources: self.resources,
            origin: origin.clone(),
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
