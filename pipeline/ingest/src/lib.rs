//! From the log into the tables, each record exactly once.
