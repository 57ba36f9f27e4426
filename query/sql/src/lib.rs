//! SQL over all tables, memory tier included.
