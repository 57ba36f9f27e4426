//! What everything costs so far, for a line on a screen.

use std::collections::BTreeMap;

use nilometer_contract::Scope;
use nilometer_engine::Selection;
use nilometer_rating::{Fraction, Money, round_to_minor_unit};
use nilometer_usage::{Quantity, Window};

use crate::error::LedgerError;
use crate::rating::Rating;

impl Rating {
    /// Cost of all projects in a window widened to full hours, the running one as known now.
    /// Rounded once; an invoice rounds each line, so invoices may add up to some cents else.
    pub async fn cost(&self, window: Window) -> Result<Money, LedgerError> {
        let charges = self.charges(&Scope::system(), window, &Selection::default()).await?;
        let mut quantities = BTreeMap::new();
        for charge in &charges {
            let (_, sum) = quantities.entry(&charge.entry.id).or_insert((&charge.entry, 0_i128));
            *sum += charge.usage.quantity.0;
        }
        let amounts = quantities.into_values().map(|(entry, sum)| entry.amount_of(Quantity(sum)));
        let total = amounts.fold(Fraction::zero(), |total, amount| total.plus(&amount));
        Ok(round_to_minor_unit(&total, self.core.books.in_force().currency()))
    }
}
