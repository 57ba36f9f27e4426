//! The canonical text of a price book: what its version is a digest of.
//!
//! Plain TOML in fixed order and quoting, written here and not by a library, so that no update of
//! a library changes the version of a book in use.

use crate::book::PriceEntry;
use crate::book::read::Read;

/// Writes a book in canonical form.
pub(super) fn text(book: &Read) -> String {
    let mut text = String::new();
    line(&mut text, "name", &book.name);
    line(&mut text, "currency", book.currency.code());
    for entry in &book.entries {
        text.push_str("\n[[price]]\n");
        text.push_str(&entry_text(entry));
    }
    text
}

/// Writes one entry in canonical form, without its heading.
pub(super) fn entry_text(entry: &PriceEntry) -> String {
    let mut text = String::new();
    line(&mut text, "meter", &entry.meter);
    line(&mut text, "unit", &entry.usage_unit);
    if let Some(kind) = &entry.kind {
        line(&mut text, "kind", kind.as_str());
    }
    for (key, patterns) in [("match", &entry.matches), ("labels", &entry.labels)] {
        if !patterns.is_empty() {
            let pairs = patterns.iter();
            let pairs = pairs.map(|(key, value)| (quoted(key), quoted(value.as_str())));
            text.push_str(&table(key, pairs));
        }
    }
    if !entry.without.is_empty() {
        let names: Vec<String> = entry.without.iter().map(|name| quoted(name)).collect();
        text.push_str(&format!("without = [{}]\n", names.join(", ")));
    }
    line(&mut text, "price", &entry.price.to_string());
    line(&mut text, "per", entry.per.as_str());
    let valid = [("start", entry.start), ("end", entry.end)];
    let mut valid = valid
        .into_iter()
        .filter_map(|(key, at)| at.map(|at| (key.to_owned(), quoted(&at.to_string()))))
        .peekable();
    if valid.peek().is_some() {
        text.push_str(&table("valid", valid));
    }
    if let Some(description) = &entry.description {
        line(&mut text, "description", description);
    }
    text
}

fn line(text: &mut String, key: &str, value: &str) {
    text.push_str(&format!("{key} = {}\n", quoted(value)));
}

fn table(key: &str, pairs: impl Iterator<Item = (String, String)>) -> String {
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{key} = {{ {} }}\n", pairs.join(", "))
}

/// A TOML basic string. Control characters were refused on reading.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
