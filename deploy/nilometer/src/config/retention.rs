//! How long each table keeps its rows.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::parts::tables;

const LEAST: Duration = Duration::from_secs(86_400);

/// Of each table that has a time how long its rows are kept; of one that is left out, for ever.
#[derive(Clone, Debug)]
pub(crate) struct Retention(BTreeMap<&'static str, Option<Duration>>);

impl Retention {
    /// Tables that do not keep their rows for ever.
    pub(crate) fn kept(&self) -> BTreeMap<&'static str, Duration> {
        self.0.iter().filter_map(|(name, kept)| Some((*name, (*kept)?))).collect()
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Tables;
        impl<'de> Visitor<'de> for Tables {
            type Value = Retention;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names of tables with how long each keeps its rows")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Retention, A::Error> {
                let mut kept = BTreeMap::new();
                while let Some((name, text)) = map.next_entry::<String, String>()? {
                    kept.insert(table(&name)?, period(&text)?);
                }
                Ok(Retention(kept))
            }
        }
        from.deserialize_map(Tables)
    }
}

/// The name of a table whose rows have a time.
fn table<E: Error>(name: &str) -> Result<&'static str, E> {
    let named = || tables().filter(|table| table.time.is_some()).map(|table| table.name);
    match named().find(|known| *known == name) {
        Some(known) => Ok(known),
        None => {
            let known: Vec<String> = named().map(|known| format!("`{known}`")).collect();
            Err(E::custom(format!("unknown table `{name}`, expected one of {}", known.join(", "))))
        }
    }
}

fn period<E: Error>(text: &str) -> Result<Option<Duration>, E> {
    if text == "forever" {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(kept) if kept >= LEAST => Ok(Some(kept)),
        _ => Err(E::custom(format!(
            "{text:?} is no retention; write \"forever\" or at least a day, like \"400days\""
        ))),
    }
}
