//! What billing has stored: which statement about an hour counts, and rows of the tables.

pub(crate) mod parse;
pub(crate) mod read;
pub(crate) mod rows;
pub(crate) mod statements;
