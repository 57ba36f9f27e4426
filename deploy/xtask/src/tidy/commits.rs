//! Commits say why: a short subject, an empty line, a body. Looked at are those that `main` has not
//! yet; on `main` itself those that its newest one brought. Merges only bring others.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Fault;
use crate::phases::read;

const SUBJECT_CHARS_MAX: usize = 60;
/// Where others' work is; the first that is there.
const MAIN: [&str; 2] = ["origin/main", "main"];

/// How many commits were looked at, and their faults. None where there is no history.
pub(super) fn check(root: &Path) -> Result<(usize, Vec<Fault>)> {
    let Some(range) = range(root) else { return Ok((0, Vec::new())) };
    let mut log = git(root);
    let listed = read(log.args(["log", "--no-merges", "--format=%h%x00%B%x1e", &range]))?;
    let listed = String::from_utf8(listed).context("a commit's message is not UTF-8")?;
    let commits: Vec<&str> =
        listed.split('\u{1e}').map(str::trim).filter(|text| !text.is_empty()).collect();
    let faults = commits.iter().flat_map(|commit| {
        let (id, message) = commit.split_once('\0').unwrap_or((commit, ""));
        let what = faults(message).into_iter();
        what.map(move |what| Fault { file: format!("commit {id}"), line: 1, what })
    });
    Ok((commits.len(), faults.collect()))
}

fn git(root: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(root);
    command
}

/// What to look at, as git writes it.
fn range(root: &Path) -> Option<String> {
    let id = |name: &str| {
        let commit = format!("{name}^{{commit}}");
        let found = read(git(root).args(["rev-parse", "--verify", "--quiet", &commit])).ok()?;
        Some(String::from_utf8(found).ok()?.trim().to_owned())
    };
    let head = id("HEAD")?;
    let main = MAIN.iter().find_map(|name| id(name));
    let base = main.and_then(|main| {
        let base = read(git(root).args(["merge-base", "HEAD", &main])).ok()?;
        Some(String::from_utf8(base).ok()?.trim().to_owned())
    });
    match base {
        Some(base) if base != head => Some(format!("{base}..HEAD")),
        _ => id("HEAD^1").map(|parent| format!("{parent}..HEAD")),
    }
}

fn faults(message: &str) -> Vec<String> {
    let mut lines = message.lines();
    let subject = lines.next().unwrap_or_default();
    let mut faults = Vec::new();
    let length = subject.chars().count();
    if length > SUBJECT_CHARS_MAX {
        faults
            .push(format!("its subject has {length} characters, not at most {SUBJECT_CHARS_MAX}"));
    }
    if lines.next().is_some_and(|line| !line.trim().is_empty()) {
        faults.push("no empty line after its subject".to_owned());
    }
    if lines.all(|line| line.trim().is_empty()) {
        faults
            .push("no body; say what the problem was, why this way, how it was checked".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_a_short_subject_and_a_body() {
        assert!(faults("store: read once\n\nIt was read twice.\n").is_empty());
        assert_eq!(faults("store: read once\n").len(), 1);
        assert_eq!(faults("store: read once\nIt was read twice.\n").len(), 2);
        assert_eq!(faults(&format!("{}\n\nWhy.\n", "a".repeat(61))).len(), 1);
    }

    #[test]
    fn what_main_has_not_is_looked_at_and_merges_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let mut command = git(folder.path());
            command.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
            read(command.args(["-c", "init.defaultBranch=main"]).args(arguments)).unwrap();
        };
        let commit = |message: &str| run(&["commit", "-q", "--allow-empty", "-m", message]);
        assert_eq!(check(folder.path()).unwrap().0, 0, "no history");
        run(&["init", "-q"]);
        commit("old");
        assert_eq!(check(folder.path()).unwrap().0, 0, "nothing before the first");
        run(&["checkout", "-q", "-b", "topic"]);
        commit("good\n\nWhy.");
        commit("bad");
        let (seen, faults) = check(folder.path()).unwrap();
        assert_eq!((seen, faults.len()), (2, 1));
        run(&["checkout", "-q", "main"]);
        run(&["merge", "-q", "--no-ff", "-m", "merge", "topic"]);
        let (seen, faults) = check(folder.path()).unwrap();
        assert_eq!((seen, faults.len()), (2, 1), "on main: what the merge brought");
    }
}
