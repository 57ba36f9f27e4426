//! How large folders are.

use std::path::Path;

/// Bytes of all files below a folder, by their length; one that is missing has none.
pub(crate) fn bytes_below(folder: &Path) -> std::io::Result<u64> {
    let missing_is = |error: std::io::Error| match error.kind() {
        // Files come and go while a store merges them.
        std::io::ErrorKind::NotFound => Ok(0),
        _ => Err(error),
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return missing_is(error),
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(about) if about.is_dir() => bytes_below(&entry.path())?,
            Ok(about) => about.len(),
            Err(error) => missing_is(error)?,
        };
    }
    Ok(bytes)
}
