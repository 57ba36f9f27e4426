//! A user's file laid over documented defaults: unknown keys are refused with a suggestion.

use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;

/// Reads a file (none is an empty one) and takes it in, naming it in errors.
///
/// # Errors
///
/// If it cannot be read, or `parse` refuses it.
pub fn load<T>(
    file: Option<&Path>,
    parse: impl FnOnce(&str) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?,
        None => String::new(),
    };
    let name = file.map_or("the configuration".to_owned(), |path| path.display().to_string());
    parse(&text).with_context(|| format!("{name} is refused"))
}

/// The defaults with a table laid over them, key by key; what is no table replaces.
///
/// # Errors
///
/// If a key is unknown or a value is not of its kind.
pub fn lay_over<T: DeserializeOwned>(defaults: &str, user: toml::Table) -> anyhow::Result<T> {
    let mut table: toml::Table = defaults.parse().context("the built-in defaults")?;
    lay(&mut table, user);
    table
        .try_into()
        .map_err(|error: toml::de::Error| anyhow::anyhow!("{}", with_suggestion(error.message())))
}

fn lay(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Adds the nearest known key to the message about an unknown one.
fn with_suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = quoted.split_first() else { return message.to_owned() };
    if !message.starts_with("unknown ") {
        return message.to_owned();
    }
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, unknown));
    match nearest.filter(|name| strsim::damerau_levenshtein(name, unknown) <= 3) {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}
