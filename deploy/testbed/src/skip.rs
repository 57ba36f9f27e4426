//! What a machine cannot do is skipped, and said.

use std::io::Write as _;

use anyhow::{Result, bail};

/// Where this is `required`, nothing may be skipped.
const REQUIRED: &str = "NILOMETER_TESTBED";

/// None, with a line `SKIPPED: …` on stderr; an error where nothing may be skipped.
pub(crate) fn skip<T>(reason: &str) -> Result<Option<T>> {
    if std::env::var_os(REQUIRED).is_some_and(|value| value == "required") {
        bail!("{REQUIRED}=required, but {reason}");
    }
    writeln!(std::io::stderr(), "SKIPPED: {reason}")?;
    Ok(None)
}
