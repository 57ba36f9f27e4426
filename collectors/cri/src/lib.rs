//! Source: pods and containers of a CRI runtime.
