//! Where what was fetched or built once is kept for the next time.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// A folder of ours in the user's cache; not made yet.
///
/// # Errors
///
/// If the environment names neither a cache nor a home.
pub fn folder(name: &str) -> Result<PathBuf> {
    let caches = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(caches.join("nilometer-testbed").join(name))
}
