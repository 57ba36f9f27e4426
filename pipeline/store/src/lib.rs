//! Delta tables: layout of the samples, exactly-once commits, compaction, retention.
