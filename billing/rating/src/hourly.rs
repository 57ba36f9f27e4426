//! What a resource costs per hour as it stands: its allocations over one hour, rated like any usage.

use nilometer_contract::{
    Catalogue, Change, History, LifecycleEvent, MICROS_PER_HOUR, Resource, Timestamp,
};
use nilometer_usage::{Names, Tenure, Window, allocation_usage};

use crate::book::PriceBook;
use crate::fraction::Fraction;
use crate::rate::rate;

impl PriceBook {
    /// The price of holding `resource` as it stands for one hour, at the prices in force at `at`.
    ///
    /// The sum over its allocation meters, also those of size 1 such as `lifetime`; what it
    /// consumes besides is not known beforehand and left out. The catalogue says what is allocated.
    /// `None` where no entry of the book
    /// prices an allocation of it.
    pub fn hourly_price(
        &self,
        resource: &Resource,
        at: Timestamp,
        catalogue: &Catalogue,
    ) -> Option<Fraction> {
        let start = Timestamp(at.0 - at.0.rem_euclid(MICROS_PER_HOUR));
        let end = start.plus_micros(MICROS_PER_HOUR);
        let mut history = History::default();
        history.apply(LifecycleEvent {
            change: Change::Created,
            at: start,
            resource: resource.clone(),
            source: String::new(),
        });
        let lifetime = history.get(&resource.id)?;
        let id = resource.id.as_str().into();
        let tenure = Tenure::announced(id, lifetime, &mut Names::default());
        let mut usage = Vec::new();
        for meter in self.meters() {
            let Some(meter) = catalogue.find(meter) else { continue };
            allocation_usage(&tenure, meter, Window { start, end }, end, &mut usage);
        }
        let charges = rate(&usage, self, |_| Some(resource)).ok()?;
        charges.iter().map(|charge| charge.amount()).reduce(|sum, amount| sum.plus(&amount))
    }
}

#[cfg(test)]
mod tests {
    use nilometer_contract::{ResourceKind, catalogue};

    use super::*;

    const BOOK: &str = "name = 'b'\ncurrency = 'EUR'\n\
        [[price]]\nmeter = 'lifetime'\nkind = 'node'\nprice = '0.5'\nper = 'hour'\n\
        [[price]]\nmeter = 'lifetime'\nkind = 'node'\nmatch = { rack = 'new*' }\nprice = '0.8'\n\
        per = 'hour'\n\
        [[price]]\nmeter = 'memory.allocation'\nkind = 'node'\nprice = '0.01'\nper = 'GiB*hour'\n\
        [[price]]\nmeter = 'cpu.time'\nprice = '9'\nper = 'hour'\n\
        [[price]]\nmeter = 'lifetime'\nkind = 'vm'\nprice = '1'\nper = 'day'\n\
        valid = { start = '2026-01-01T10:00:00Z' }\n";

    fn price(kind: ResourceKind, attributes: &[(&str, &str)], at: &str) -> Option<String> {
        let mut resource = Resource::new("r", kind);
        let attributes = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        resource.attributes = attributes.collect();
        let book = PriceBook::parse(BOOK).unwrap();
        book.hourly_price(&resource, at.parse().unwrap(), catalogue())
            .map(|price| price.to_string())
    }

    #[test]
    fn the_allocations_of_an_hour_are_added_up() {
        let noon = "2026-01-01T12:34:56Z";
        let memory = ("memory_bytes", "8589934592");
        let node = |attributes: &[(&str, &str)]| price(ResourceKind::NODE, attributes, noon);
        assert_eq!(node(&[]).as_deref(), Some("1/2"));
        assert_eq!(node(&[memory]).as_deref(), Some("29/50"), "0.5 and 8 × 0.01");
        assert_eq!(node(&[memory, ("rack", "new-3")]).as_deref(), Some("22/25"));
        assert_eq!(price(ResourceKind::POD, &[memory], noon), None, "usage alone has no price");
    }

    #[test]
    fn the_price_is_the_one_in_force() {
        let vm = |at| price(ResourceKind::VM, &[], at);
        assert_eq!(vm("2026-01-01T09:59:59Z"), None);
        assert_eq!(vm("2026-01-01T10:00:00Z").as_deref(), Some("1/24"));
    }
}
