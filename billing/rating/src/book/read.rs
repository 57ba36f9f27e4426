//! Reads a price book from TOML and checks every key, so that errors can point at the place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr;
use std::sync::Arc;

use nilometer_contract::{Catalogue, MICROS_PER_HOUR, Meter, ResourceKind, Timestamp, check_name};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::canonical;
use super::error::{BookError, Place, Problem};
use super::{BookHeading, MAX_BOOK_BYTES, MAX_ENTRIES, PROJECT, PriceEntry};
use crate::currency::Currency;
use crate::digest::Fields;
use crate::pattern::Pattern;
use crate::per::Per;
use crate::suggest::nearest;

const BOOK_KEYS: [&str; 3] = ["name", "currency", "price"];
const ENTRY_KEYS: [&str; 10] =
    ["meter", "unit", "kind", "match", "labels", "without", "price", "per", "valid", "description"];
const VALID_KEYS: [&str; 2] = ["start", "end"];
const TEXT: &str = "a text in quotes";
const DECIMAL: &str = "a decimal in quotes, like \"0.020\": a bare number would be a float";

/// A book that is checked but not yet named by its digest.
pub(super) struct Read {
    pub(super) name: String,
    pub(super) currency: Currency,
    pub(super) entries: Vec<PriceEntry>,
}

/// A table, and where it stands in which text.
struct Scope<'t> {
    text: &'t str,
    table: &'t DeTable<'t>,
    offset: usize,
    entry: Option<(usize, String)>,
    prefix: &'static str,
}

type Value<'t> = Spanned<DeValue<'t>>;

/// Reads and checks a whole book.
pub(super) fn read(text: &str, catalogue: &Catalogue) -> Result<Read, BookError> {
    let at_line = |line, problem| BookError {
        place: Place { line, entry: None },
        problem: Box::new(problem),
    };
    if text.len() > MAX_BOOK_BYTES {
        return Err(at_line(1, Problem::TooBig));
    }
    let root = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        at_line(line, Problem::Toml(error.message().to_owned()))
    })?;
    let scope = Scope { text, table: root.get_ref(), offset: 0, entry: None, prefix: "" };
    scope.refuse_unknown(&BOOK_KEYS)?;
    let name = scope.required_text("name")?;
    let currency = scope.required_text("currency")?;
    let currency = Currency::from_str(&currency)
        .map_err(|error| scope.error("currency", Problem::Currency(error)))?;
    let wrong = || scope.wrong("price", "one or more [[price]] entries");
    let prices = scope.table.get("price").ok_or_else(|| scope.missing("[[price]]"))?;
    let prices = prices.get_ref().as_array().ok_or_else(wrong)?;
    if prices.len() > MAX_ENTRIES {
        return Err(scope.error("price", Problem::TooBig));
    }
    let mut entries: Vec<PriceEntry> = Vec::with_capacity(prices.len());
    let mut offsets = Vec::with_capacity(prices.len());
    let mut by_selector = HashMap::new();
    for (position, price) in prices.iter().enumerate() {
        let table = price.get_ref().as_table().ok_or_else(wrong)?;
        let offset = price.span().start;
        let meter = table.get("meter").and_then(|meter| meter.get_ref().as_str());
        let entry = Some((position + 1, meter.unwrap_or_default().to_owned()));
        let scope = Scope { text, table, offset, entry, prefix: "" };
        let entry = scope.entry(position, currency, catalogue)?;
        let selector = (
            entry.meter.clone(),
            entry.kind.clone(),
            entry.matches.clone(),
            entry.labels.clone(),
            entry.without.clone(),
        );
        let same: &mut Vec<usize> = by_selector.entry(selector).or_default();
        if let Some(&other) = same.iter().find(|&&other| entries[other].overlaps(&entry)) {
            let line = line_of(text, offsets[other]);
            return Err(scope.error("", Problem::Overlap { other: other + 1, line }));
        }
        same.push(position);
        offsets.push(offset);
        entries.push(entry);
    }
    Ok(Read { name, currency, entries })
}

impl<'t> Scope<'t> {
    fn entry(
        &self,
        position: usize,
        currency: Currency,
        catalogue: &Catalogue,
    ) -> Result<PriceEntry, BookError> {
        self.refuse_unknown(&ENTRY_KEYS)?;
        let name = self.required_text("meter")?;
        let declared = catalogue.find(&name).map(|meter| &**meter);
        let usage_unit = self.usage_unit(&name, declared, catalogue)?;
        let kind = self.kind(declared, catalogue)?;
        let price = match self.table.get("price") {
            Some(value) if !value.get_ref().is_str() => return Err(self.wrong("price", DECIMAL)),
            _ => self.required_text("price")?,
        };
        let price = price.parse().map_err(|error| self.error("price", Problem::Price(error)))?;
        let per = Per::parse(&self.required_text("per")?, &name, &usage_unit)
            .map_err(|error| self.error("per", Problem::Per(error)))?;
        let (start, end) = self.validity()?;
        let mut entry = PriceEntry {
            id: String::new(),
            meter: name.into(),
            usage_unit,
            kind,
            matches: self.matches("match")?,
            labels: self.matches("labels")?,
            without: self.without()?,
            price,
            per,
            start,
            end,
            description: self.text("description")?,
            position,
            book: unnamed(currency),
        };
        let text = canonical::entry_text(&entry);
        let digest = Fields::new("nilometer price entry 1").text(&text).short();
        entry.id = format!("{}#{digest}", entry.meter);
        Ok(entry)
    }

    /// The unit of the usage priced: that of the meter, which is declared or states it here.
    fn usage_unit(
        &self,
        name: &str,
        declared: Option<&Meter>,
        catalogue: &Catalogue,
    ) -> Result<Arc<str>, BookError> {
        let stated = self.text("unit")?;
        match (declared, stated) {
            (Some(meter), Some(stated)) if *stated != *meter.usage_unit => {
                let (meter, unit) = (name.to_owned(), meter.usage_unit.to_string());
                Err(self.error("unit", Problem::OtherUnit { stated, meter, unit }))
            }
            (Some(meter), _) => Ok(meter.usage_unit.clone()),
            (None, Some(stated)) => {
                let no_name = |error| self.error("meter", Problem::Name(error));
                check_name("meter", name).map_err(no_name)?;
                Ok(stated.into())
            }
            (None, None) => {
                let suggestion = nearest(name, catalogue.meters().map(|meter| &*meter.name));
                Err(self
                    .error("meter", Problem::UnknownMeter { name: name.to_owned(), suggestion }))
            }
        }
    }

    /// A kind that nobody declared may have a price, unless it looks like one that is misspelt.
    fn kind(
        &self,
        meter: Option<&Meter>,
        catalogue: &Catalogue,
    ) -> Result<Option<ResourceKind>, BookError> {
        let Some(name) = self.text("kind")? else { return Ok(None) };
        let kind: ResourceKind =
            name.parse().map_err(|error| self.error("kind", Problem::Name(error)))?;
        if catalogue.kind(&kind).is_none() {
            let declared = || catalogue.kinds().map(|kind| kind.name.as_str());
            let suggestion = nearest(&name, declared());
            if suggestion.is_empty() {
                return Ok(Some(kind));
            }
            let known = declared().collect::<Vec<_>>().join(", ");
            return Err(self.error("kind", Problem::UnknownKind { name, suggestion, known }));
        }
        if let Some(meter) = meter.filter(|meter| !meter.is_of(&kind)) {
            let known: Vec<&str> = meter.resources.iter().map(ResourceKind::as_str).collect();
            let (known, meter) = (known.join(", "), meter.name.to_string());
            return Err(self.error("kind", Problem::KindWithoutMeter { kind: name, meter, known }));
        }
        Ok(Some(kind))
    }

    /// `match` or `labels`, in which `label.tier` may be one quoted key or a nested table.
    fn matches(&self, of: &'static str) -> Result<BTreeMap<String, Pattern>, BookError> {
        let mut found = BTreeMap::new();
        let Some(value) = self.table.get(of) else { return Ok(found) };
        let wrong = || self.wrong(of, "a table of texts, like { flavor = \"m1.*\" }");
        let mut open = vec![(String::new(), value.get_ref().as_table().ok_or_else(wrong)?)];
        while let Some((prefix, table)) = open.pop() {
            for (key, value) in table {
                let key = format!("{prefix}{}", key.get_ref());
                self.check_text(of, &key)?;
                if let Some(table) = value.get_ref().as_table() {
                    open.push((format!("{key}."), table));
                    continue;
                }
                let pattern = value.get_ref().as_str().ok_or_else(wrong)?;
                if !pattern.is_empty() {
                    self.check_text(&key, pattern)?;
                }
                if found.insert(key, Pattern::new(pattern)).is_some() {
                    return Err(wrong());
                }
            }
        }
        Ok(found)
    }

    /// `without`: names of attributes that the resource must not have.
    fn without(&self) -> Result<BTreeSet<String>, BookError> {
        let Some(value) = self.table.get("without") else { return Ok(BTreeSet::new()) };
        let wrong = || self.wrong("without", "a list of attribute names, like [\"vcpus\"]");
        let mut found = BTreeSet::new();
        for name in value.get_ref().as_array().ok_or_else(wrong)? {
            let name = name.get_ref().as_str().ok_or_else(wrong)?;
            self.check_text("without", name)?;
            if name == PROJECT || !found.insert(name.to_owned()) {
                return Err(wrong());
            }
        }
        Ok(found)
    }

    fn validity(&self) -> Result<(Option<Timestamp>, Option<Timestamp>), BookError> {
        let Some(value) = self.table.get("valid") else { return Ok((None, None)) };
        let wrong = || self.wrong("valid", "a table, like { start = \"2026-11-01T00:00:00Z\" }");
        let table = value.get_ref().as_table().ok_or_else(wrong)?;
        let (offset, entry) = (value.span().start, self.entry.clone());
        let scope = Scope { text: self.text, table, offset, entry, prefix: "valid." };
        scope.refuse_unknown(&VALID_KEYS)?;
        let (start, end) = (scope.instant("start")?, scope.instant("end")?);
        match (start, end) {
            (Some(start), Some(end)) if start >= end => {
                Err(scope.error("end", Problem::NeverValid))
            }
            edges => Ok(edges),
        }
    }

    fn instant(&self, key: &'static str) -> Result<Option<Timestamp>, BookError> {
        let text = match self.table.get(key).map(Spanned::get_ref) {
            None => return Ok(None),
            Some(DeValue::Datetime(at)) => at.to_string(),
            Some(_) => self.required_text(key)?,
        };
        let bad = |_| self.error(key, Problem::BadInstant { key, text: text.clone() });
        let at = text.parse::<Timestamp>().map_err(bad)?;
        match at.0 % MICROS_PER_HOUR {
            0 => Ok(Some(at)),
            _ => Err(self.error(key, Problem::InsideHour { key, text })),
        }
    }

    fn refuse_unknown(&self, known: &[&str]) -> Result<(), BookError> {
        let unknown = self.table.keys().find(|key| !known.contains(&&**key.get_ref()));
        let Some(key) = unknown else { return Ok(()) };
        let suggestion = nearest(key.get_ref(), known.iter().copied());
        let known = known.join(", ");
        let name = format!("{}{}", self.prefix, key.get_ref());
        let problem = Problem::UnknownKey { key: name, suggestion, known };
        Err(self.error_at(key.span().start, problem))
    }

    fn required_text(&self, key: &'static str) -> Result<String, BookError> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    fn text(&self, key: &str) -> Result<Option<String>, BookError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong(key, TEXT))?;
        self.check_text(key, text)?;
        Ok(Some(text.to_owned()))
    }

    fn check_text(&self, key: &str, text: &str) -> Result<(), BookError> {
        match text.is_empty() || text.chars().any(char::is_control) {
            true => Err(self.error(key, Problem::BadText(format!("{}{key}", self.prefix)))),
            false => Ok(()),
        }
    }

    fn missing(&self, key: &'static str) -> BookError {
        self.error_at(self.offset, Problem::Missing(key))
    }

    fn wrong(&self, key: &str, expected: &'static str) -> BookError {
        let name = format!("{}{key}", self.prefix);
        self.error(key, Problem::WrongType { key: name, expected })
    }

    /// An error at the value of `key`, or at this table when it has none.
    fn error(&self, key: &str, problem: Problem) -> BookError {
        let value: Option<&Value<'t>> = self.table.get(key);
        self.error_at(value.map_or(self.offset, |value| value.span().start), problem)
    }

    fn error_at(&self, offset: usize, problem: Problem) -> BookError {
        let place = Place { line: line_of(self.text, offset), entry: self.entry.clone() };
        BookError { place, problem: Box::new(problem) }
    }
}

/// Stands in until the whole book is read and has a digest.
fn unnamed(currency: Currency) -> Arc<BookHeading> {
    let (name, version, digest) = Default::default();
    Arc::new(BookHeading { name, currency, version, digest })
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}
