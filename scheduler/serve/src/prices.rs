//! What nodes cost, by the price book in force.

use std::sync::Arc;

use nilometer_contract::{Catalogue, Precedence, Resource, Timestamp};
use nilometer_rating::{PriceBook, SHOWN_DIGITS};

/// Prices of nodes: what the price book asks for their allocations.
#[derive(Clone, Debug)]
pub struct NodePrices {
    book: Arc<PriceBook>,
    catalogue: Arc<Catalogue>,
}

impl NodePrices {
    /// The prices of this book for meters of a catalogue.
    pub fn new(book: PriceBook, catalogue: Arc<Catalogue>) -> Self {
        NodePrices { book: Arc::new(book), catalogue }
    }

    /// The catalogue's order of sources.
    pub(crate) fn precedence(&self) -> &Arc<Precedence> {
        self.catalogue.precedence()
    }

    /// Price of a node per hour at an instant, a decimal number in the book's currency; `None`
    /// where the book has no price for it.
    pub fn per_hour(&self, node: &Resource, at: Timestamp) -> Option<String> {
        let (text, _) = self.book.hourly_price(node, at, &self.catalogue)?.truncated(SHOWN_DIGITS);
        Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use nilometer_contract::{ResourceKind, catalogue};

    use super::*;

    #[test]
    fn nodes_cost_what_the_book_says_and_vms_what_they_are_sold_for() {
        let book = "name = 'b'\ncurrency = 'EUR'\n\
            [[price]]\nmeter = 'lifetime'\nkind = 'node'\nprice = '1.50'\nper = 'hour'\n\
            [[price]]\nmeter = 'lifetime'\nkind = 'vm'\nprice = '20'\nper = '2*hour'\n\
            [[price]]\nmeter = 'lifetime'\nkind = 'pod'\nprice = '1'\nper = '3*hour'\n";
        let prices =
            NodePrices::new(PriceBook::parse(book).unwrap(), Arc::new(catalogue().clone()));
        let of = |kind| {
            let at = "2026-01-01T12:00:00Z".parse().unwrap();
            prices.per_hour(&Resource::new("r", kind), at)
        };
        assert_eq!(of(ResourceKind::NODE).as_deref(), Some("1.5"));
        assert_eq!(of(ResourceKind::VM).as_deref(), Some("10"));
        assert_eq!(of(ResourceKind::POD).as_deref(), Some("0.333333333333"), "cut off");
        assert_eq!(of(ResourceKind::DISK), None);
    }
}
