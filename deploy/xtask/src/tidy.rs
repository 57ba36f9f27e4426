//! The house style, as far as no compiler checks it: sizes, headers, bans, links, commits.
//!
//! It looks at what git tracks. Of files it is also a unit test, so that plain `cargo test` sees it.

mod bans;
mod commits;
mod markdown;
mod source;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::phases::read;
use source::Source;

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// Kinds of files whose text is ours to keep clean; fixtures are as they were found.
const TEXT: [&str; 6] = ["c", "md", "proto", "rs", "sh", "toml"];

/// Something to mend.
struct Fault {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// One tracked text file.
struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn fault(&self, line: usize, what: impl Into<String>) -> Fault {
        Fault { file: self.path.to_owned(), line, what: what.into() }
    }
}

/// Fails with every fault, one per line.
pub(crate) fn run(root: &Path) -> Result<()> {
    let (files, mut faults) = check(root)?;
    let (commits, of_commits) = commits::check(root)?;
    faults.extend(of_commits);
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} places are not tidy", faults.len());
    }
    println!("tidy: {files} files and {commits} commits are well");
    Ok(())
}

/// How many files there were, and their faults.
fn check(root: &Path) -> Result<(usize, Vec<Fault>)> {
    let files = tracked(root)?;
    let sources: Vec<(File<'_>, Source)> = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| (File { path, text }, Source::new(text)))
        .collect();
    let for_tests: Vec<String> = sources.iter().flat_map(|(f, s)| test_files(f.path, s)).collect();
    let mut faults = Vec::new();
    for (path, text) in &files {
        let file = File { path, text };
        faults.extend(text_faults(&file));
        if path.ends_with(".md") {
            faults.extend(markdown::faults(root, &file));
        }
    }
    for (file, source) in &sources {
        let for_tests = for_tests.iter().any(|place| file.path.starts_with(place));
        faults.extend(rust_faults(file, source));
        faults.extend(bans::faults(file, source, for_tests));
    }
    faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok((files.len(), faults))
}

/// Paths and texts of the files that are checked.
fn tracked(root: &Path) -> Result<Vec<(String, String)>> {
    let listed = read(Command::new("git").args(["ls-files", "-z"]).current_dir(root))?;
    let listed = String::from_utf8(listed).context("a file's name is not UTF-8")?;
    let ours = |path: &&str| {
        let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
        path.starts_with(".ci/") || extension.is_some_and(|kind| TEXT.contains(&kind))
    };
    listed
        .split_terminator('\0')
        .filter(ours)
        // What is deleted but not yet committed is still listed.
        .filter(|path| root.join(path).exists())
        .map(|path| {
            let text = fs::read_to_string(root.join(path)).with_context(|| path.to_owned())?;
            Ok((path.to_owned(), text))
        })
        .collect()
}

/// Beginnings of the paths of a file's modules that exist only under test.
fn test_files(path: &str, source: &Source) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let base = if ["lib", "main", "mod"].contains(&name) { folder } else { stem };
    let modules = source.test_modules();
    modules.flat_map(|name| [format!("{base}/{name}.rs"), format!("{base}/{name}/")]).collect()
}

fn text_faults(file: &File<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (line, text) in (1..).zip(file.text.lines()) {
        if text.contains('\t') {
            faults.push(file.fault(line, "a tab; indent with spaces"));
        }
        if text.ends_with(char::is_whitespace) {
            faults.push(file.fault(line, "space at the end of the line"));
        }
        if let Some(path) = machine_path(text) {
            faults.push(file.fault(
                line,
                format!("{path} is a path of one machine; use a relative one or a parameter"),
            ));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        faults.push(file.fault(file.text.lines().count(), "no end of line at the end of the file"));
    }
    faults
}

/// A path below someone's home or working directory.
fn machine_path(line: &str) -> Option<&str> {
    // In parts, so that this very line does not match.
    let places = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "Users/")];
    let home = concat!("/", "home/");
    places.into_iter().chain([home]).find_map(|place| {
        let at = line.find(place)?;
        // The end of a longer, relative path or of an address is none.
        let before = line[..at].chars().next_back();
        let inside = before.is_some_and(|c| c.is_alphanumeric() || "._-}/>".contains(c));
        let rest = &line[at..];
        let end = rest.find(|c: char| c.is_whitespace() || "\"'`)<>,;".contains(c));
        (!inside).then(|| &rest[..end.unwrap_or(rest.len())])
    })
}

fn rust_faults(file: &File<'_>, source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !file.text.starts_with("//! ") {
        faults.push(file.fault(1, "no header; open with `//! ` and why this file exists"));
    }
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push(file.fault(
            FILE_LINES_MAX + 1,
            format!("{lines} lines, not at most {FILE_LINES_MAX}; split where a name appears"),
        ));
    }
    if source.code.matches('{').count() != source.code.matches('}').count() {
        faults.push(file.fault(1, "braces do not match; is tidy/source.rs misled?"));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES_MAX {
            faults.push(file.fault(
                function.line,
                format!(
                    "`{}` has {} lines, not at most {FUNCTION_LINES_MAX}; name its steps",
                    function.name, function.lines
                ),
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        let file = File { path, text };
        let mut faults = text_faults(&file);
        faults.extend(rust_faults(&file, &Source::new(text)));
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_tree_is_tidy() {
        let (files, faults) = check(&crate::root()).unwrap();
        let said: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert!(said.is_empty(), "not tidy:\n{}", said.join("\n"));
        assert!(files > 10, "only {files} files seen");
    }

    #[test]
    fn modules_for_tests_are_found() {
        let source = Source::new("#[cfg(test)]\nmod tests;\nmod other;\n");
        assert_eq!(test_files("a/src/lib.rs", &source), ["a/src/tests.rs", "a/src/tests/"]);
        assert_eq!(test_files("a/src/b.rs", &source), ["a/src/b/tests.rs", "a/src/b/tests/"]);
    }

    #[test]
    fn sizes_and_headers_are_checked() {
        assert!(said("a/src/a.rs", "//! Why.\nfn f() {}\n").is_empty());
        assert_eq!(said("a/src/a.rs", "fn f() {}\n").len(), 1);
        let long = format!("//! Why.\nfn f() {{\n{}}}\n", "    f();\n".repeat(69));
        assert_eq!(
            said("a/src/a.rs", &long),
            ["a/src/a.rs:2: `f` has 71 lines, not at most 70; name its steps"]
        );
        let longer = format!("//! Why.\n{}", "const A: u8 = 0;\n".repeat(400));
        assert_eq!(said("a/src/a.rs", &longer).len(), 1);
    }

    #[test]
    fn blanks_and_paths_are_checked() {
        let home = concat!("/", "home/me/x");
        assert_eq!(said("a/src/a.rs", &format!("//! Why: {home}.\n")).len(), 1);
        assert!(
            said("a/src/a.rs", &format!("//! Why: https://a.org{home}, a{home}.\n")).is_empty()
        );
        assert_eq!(said("a/src/a.rs", "//! Why. \n\tlet x;\nlet y;").len(), 3);
    }
}
