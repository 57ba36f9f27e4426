//! Source: a deterministic fleet of known usage.
