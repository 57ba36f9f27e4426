//! The agent: polls sources, batches, spools and appends to the log.
