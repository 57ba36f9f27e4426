//! Source: this machine's own counters and its cgroups.
