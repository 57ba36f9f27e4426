//! `simulate-faults --planted`: plants known bugs in the product, one at a time, and shows that
//! the simulation finds each.
//!
//! A bug is a file: what it is, where, which kinds of faults bring it out, and what text takes the
//! place of what. A text that is not there once means that the product moved on, and the bug must
//! be planted anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::ci::{self, Env};

const FOLDER: &str = "deploy/simulation/bugs";
/// Most seeds that a bug may take to be found.
const SEEDS: &str = "60";

/// A bug to plant.
struct Bug {
    name: String,
    file: PathBuf,
    /// Kinds of faults to run it with; all when empty.
    only: String,
    from: String,
    to: String,
}

/// A file that is given back what it held.
struct Changed {
    path: PathBuf,
    text: String,
}

impl Drop for Changed {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.text) {
            eprintln!("{} keeps a planted bug: {error}", self.path.display());
        }
    }
}

/// Plants those whose names contain `filter`; fails if one is not found, or cannot be planted.
pub(crate) fn run(root: &Path, filter: &str) -> Result<()> {
    let mut missed = 0;
    for bug in bugs(root)?.iter().filter(|bug| bug.name.contains(filter)) {
        let verdict = match plant(root, bug) {
            Ok(Some(failure)) => format!("found: {failure}"),
            Ok(None) => format!("NOT FOUND in {SEEDS} seeds"),
            Err(error) => format!("NOT PLANTED: {error:#}"),
        };
        missed += usize::from(!verdict.starts_with("found"));
        println!("{} | {verdict}", bug.name);
    }
    if missed > 0 {
        bail!("{missed} bugs were not found");
    }
    Ok(())
}

fn bugs(root: &Path) -> Result<Vec<Bug>> {
    let paths = fs::read_dir(root.join(FOLDER))?.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    paths.sort();
    paths.iter().map(|path| Bug::read(path).with_context(|| path.display().to_string())).collect()
}

impl Bug {
    /// Lines `file:` and `only:`, then a line `<<<`, the text, `===`, what takes its place, `>>>`.
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let part = |from: &str, to: &str| {
            let (_, rest) = text.split_once(from)?;
            Some(rest.split_once(to)?.0.to_owned())
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Bug {
            name,
            file: field("file: ").context("no line `file: …`")?.into(),
            only: field("only: ").unwrap_or_default().to_owned(),
            from: part("<<<\n", "===\n").context("no text to replace")?,
            to: part("===\n", ">>>").context("no text in its place")?,
        })
    }
}

/// The file that a bug goes into, with the text it has now.
fn place(root: &Path, bug: &Bug) -> Result<(PathBuf, String)> {
    let path = root.join(&bug.file);
    let text = fs::read_to_string(&path)?;
    let found = text.matches(&bug.from).count();
    if found != 1 {
        bail!("its text is {found} times in {}", bug.file.display());
    }
    Ok((path, text))
}

/// What the simulation says of a planted bug; none when it says nothing.
fn plant(root: &Path, bug: &Bug) -> Result<Option<String>> {
    let (path, text) = place(root, bug)?;
    let planted = text.replace(&bug.from, &bug.to);
    let _restored = Changed { path: path.clone(), text };
    fs::write(&path, planted)?;
    let mut cargo = ci::cargo(root, &Env::default());
    cargo.args(["test", "--quiet", "--workspace", "--test", "simulation", "--"]);
    cargo.args(["--seeds", SEEDS, "--stop"]);
    if !bug.only.is_empty() {
        cargo.args(["--only", &bug.only]);
    }
    let done = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&done.stdout);
    let failure = said.lines().find(|line| line.contains(" FAILED: "));
    match (failure, said.lines().any(|line| line.starts_with("seeds="))) {
        (Some(failure), _) => Ok(Some(failure.chars().take(300).collect())),
        (None, true) => Ok(None),
        (None, false) => bail!("it does not build"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_can_be_planted() {
        let root = crate::root();
        for bug in bugs(&root).unwrap() {
            place(&root, &bug).unwrap_or_else(|error| panic!("{}: {error}", bug.name));
        }
    }
}
