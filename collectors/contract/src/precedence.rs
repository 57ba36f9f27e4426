//! Which source comes first where several speak of one thing.
//!
//! Sources describe resources and sample meters; two of them may do so for the same resource.
//! Their order is data: one for all, and others for single attributes and meters. It is total: a
//! source that no list names follows those that are named, by name.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::event::MAX_SOURCE_BYTES;

/// Most sources in one list.
const MAX_LISTED: usize = 256;

/// Sources, the first one first.
type List = Vec<Arc<str>>;

/// The order of sources: in general, by attribute and by meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precedence {
    order: List,
    attributes: BTreeMap<Arc<str>, List>,
    meters: BTreeMap<Arc<str>, List>,
}

/// The part `[sources]` of a catalogue's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourcesEntry {
    #[serde(default)]
    order: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(crate) meters: BTreeMap<String, Vec<String>>,
}

impl Precedence {
    /// An order of sources, the first one first, for everything.
    pub fn of<S: AsRef<str>>(order: impl IntoIterator<Item = S>) -> Self {
        let order = order.into_iter().map(|source| source.as_ref().into()).collect();
        Precedence { order, ..Precedence::default() }
    }

    /// Compares two sources by what they say of a resource's life; the lesser one comes first.
    pub fn compare(&self, one: &str, other: &str) -> Ordering {
        self.compare_in(None, one, other)
    }

    /// Compares them by what they say of an attribute, or of `name`, `project`, `node` or `parent`.
    /// Those that the attribute's own list does not name follow in the general order.
    pub fn compare_for_attribute(&self, attribute: &str, one: &str, other: &str) -> Ordering {
        self.compare_in(self.attributes.get(attribute), one, other)
    }

    /// Compares them by their samples of a meter.
    pub fn compare_for_meter(&self, meter: &str, one: &str, other: &str) -> Ordering {
        self.compare_in(self.meters.get(meter), one, other)
    }

    /// The sources in the order of a meter, as far as lists name them.
    pub fn of_meter(&self, meter: &str) -> Vec<&str> {
        let own = self.meters.get(meter).into_iter().flatten();
        let mut sources: Vec<&str> = Vec::with_capacity(self.order.len());
        for source in own.chain(&self.order) {
            if !sources.contains(&&**source) {
                sources.push(source);
            }
        }
        sources
    }

    fn compare_in(&self, own: Option<&List>, one: &str, other: &str) -> Ordering {
        let rank = |source: &str| (own.map(|own| place(own, source)), place(&self.order, source));
        rank(one).cmp(&rank(other)).then_with(|| one.cmp(other))
    }

    /// Takes in what a file says: its order comes before the one so far, and a list of an attribute
    /// or meter replaces the one so far.
    pub(crate) fn add(&mut self, entry: SourcesEntry) -> Result<(), Refused> {
        let mut order = list("order", entry.order)?;
        let rest: Vec<Arc<str>> =
            self.order.iter().filter(|source| !order.contains(source)).cloned().collect();
        order.extend(rest);
        self.order = order;
        for (attribute, sources) in entry.attributes {
            let sources = list(&format!("attributes.{attribute}"), sources)?;
            self.attributes.insert(attribute.into(), sources);
        }
        for (meter, sources) in entry.meters {
            self.set_meter(&meter, sources)?;
        }
        Ok(())
    }

    /// Sets the order of one meter.
    pub(crate) fn set_meter(&mut self, meter: &str, sources: Vec<String>) -> Result<(), Refused> {
        let sources = list(&format!("meters.{meter}"), sources)?;
        self.meters.insert(meter.into(), sources);
        Ok(())
    }
}

/// A list that is no order of sources: which one, and why.
pub(crate) type Refused = (String, String);

fn list(of: &str, sources: Vec<String>) -> Result<List, Refused> {
    let refused = |reason: String| Err((of.to_owned(), reason));
    if sources.len() > MAX_LISTED {
        return refused(format!("names {} sources, more than {MAX_LISTED}", sources.len()));
    }
    for (place, source) in sources.iter().enumerate() {
        if source.is_empty() || source.len() > MAX_SOURCE_BYTES {
            return refused(format!("a source's name has 1 to {MAX_SOURCE_BYTES} bytes"));
        }
        if sources[..place].contains(source) {
            return refused(format!("names source {source} twice; name it once"));
        }
    }
    Ok(sources.into_iter().map(Into::into).collect())
}

fn place(list: &List, source: &str) -> usize {
    list.iter().position(|listed| **listed == *source).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Catalogue, catalogue};
    use crate::meter::Origin;

    fn sorted(mut sources: Vec<&str>, compare: impl Fn(&str, &str) -> Ordering) -> Vec<&str> {
        sources.sort_by(|one, other| compare(one, other));
        sources
    }

    #[test]
    fn lists_come_first_and_the_rest_follows_by_name() {
        let mut known = catalogue().clone();
        let text = "[sources]\norder = ['z', 'libvirt']\n\
                    [sources.attributes]\nvcpus = ['host']\n\
                    [sources.meters]\n'cpu.time' = ['cri', 'b']\n";
        known.add(text, Origin::BuiltIn).unwrap();
        let order = known.precedence();
        let all = || vec!["b", "a", "host", "cri", "libvirt", "nova", "z"];
        let general = sorted(all(), |one, other| order.compare(one, other));
        assert_eq!(general, ["z", "libvirt", "nova", "cri", "host", "a", "b"]);
        let vcpus = sorted(all(), |one, other| order.compare_for_attribute("vcpus", one, other));
        assert_eq!(vcpus, ["host", "z", "libvirt", "nova", "cri", "a", "b"]);
        let meter = sorted(all(), |one, other| order.compare_for_meter("cpu.time", one, other));
        assert_eq!(meter, ["cri", "b", "z", "libvirt", "nova", "host", "a"]);
        let named = order.of_meter("cpu.time");
        assert_eq!(named, ["cri", "b", "z", "libvirt", "nova", "kubernetes", "host", "cgroup"]);
    }

    #[test]
    fn a_meter_may_state_its_sources_and_lists_are_checked() {
        let meter = "[[meter]]\nname = 'm'\nkind = 'gauge'\nunit = '1'\nsources = ['y', 'x']\n";
        let known = Catalogue::parse(meter).unwrap();
        assert_eq!(known.precedence().of_meter("m"), ["y", "x"]);
        for (text, said) in [
            ("[sources]\norder = ['a', 'a']", "sources order: names source a twice; name it once"),
            ("[sources]\norder = ['']", "sources order: a source's name has 1 to 1024 bytes"),
            (
                "[sources.meters]\nnone = ['a']",
                "sources meters.none: no meter none is declared; add it as [[meter]]",
            ),
            (
                "[sources.attributes]\nvcpus = ['a', 'b', 'a']",
                "sources attributes.vcpus: names source a twice; name it once",
            ),
        ] {
            assert_eq!(Catalogue::parse(text).unwrap_err().to_string(), said, "{text}");
        }
        let many: Vec<String> = (0..=MAX_LISTED).map(|n| n.to_string()).collect();
        assert!(Precedence::default().set_meter("m", many).is_err());
        assert!(Catalogue::parse("[sources]\norders = []").is_err());
    }
}
