//! Log lines: of what level, and where they go.

use std::io::IsTerminal;
use std::path::Path;

use tracing_subscriber::EnvFilter;

/// Overrides which lines are logged.
const VARIABLE: &str = "NILOMETER_LOG";
/// What is logged unless more is asked for.
const USUAL: &str =
    "warn,nilometer=info,nilometer_process=info,nilometer_ingest=info,nilometer_ledger=info";

/// Log lines go to stderr, or into a file.
///
/// # Errors
///
/// If the file cannot be opened.
pub fn start_logging(verbose: u8, file: Option<&Path>) -> anyhow::Result<()> {
    let level = match verbose {
        0 => USUAL,
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match file {
        Some(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            lines.with_ansi(false).with_writer(std::sync::Mutex::new(file)).init();
        }
        None => {
            lines.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
        }
    }
    Ok(())
}
