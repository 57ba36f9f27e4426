//! Price books, charges, invoices and their explanation.
