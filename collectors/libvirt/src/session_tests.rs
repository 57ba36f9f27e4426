//! The connection against a server that misbehaves.
