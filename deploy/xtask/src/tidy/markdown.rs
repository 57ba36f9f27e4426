//! Links in Markdown, and files that it names between backquotes: those of the tree must exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Fault, File};

/// Folders at the top of the tree.
const FOLDERS: [&str; 6] = ["collectors", "pipeline", "query", "billing", "scheduler", "deploy"];

/// Links to files that do not exist, or to headings that their page does not have.
pub(super) fn faults(root: &Path, file: &File<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (line, target) in links(file.text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, heading) = target.split_once('#').unwrap_or((&target, ""));
        let folder = Path::new(file.path).parent().unwrap_or(Path::new(""));
        let full = match path.strip_prefix('/') {
            Some(from_root) => root.join(from_root),
            None if path.is_empty() => root.join(file.path),
            None => root.join(folder).join(path),
        };
        if !full.exists() {
            faults.push(file.fault(line, format!("{target} leads nowhere")));
        } else if !heading.is_empty() && full.extension().is_some_and(|e| e == "md") {
            let page = fs::read_to_string(&full).unwrap_or_default();
            if !anchors(&page).iter().any(|anchor| anchor == heading) {
                faults.push(file.fault(line, format!("{target}: there is no such heading")));
            }
        }
    }
    for (line, path) in named(file.text) {
        if !root.join(path).exists() {
            faults.push(file.fault(line, format!("there is no {path}")));
        }
    }
    faults
}

/// Paths of the tree between backquotes, with their lines: what begins with one of its folders.
fn named(text: &str) -> Vec<(usize, &str)> {
    let spans = prose(text).flat_map(|(line, text)| {
        let parts = text.split('`').enumerate().filter(|(part, _)| part % 2 == 1);
        parts.map(move |(_, span)| (line, span))
    });
    let is_path = |span: &str| {
        let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        plain && span.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first))
    };
    spans.filter(|(_, span)| is_path(span)).collect()
}

/// Lines (from 1) outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// Targets of inline links and of reference definitions, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, text) in prose(text) {
        let text = without_code(text);
        if let Some((label, target)) = text.split_once("]: ")
            && label.starts_with('[')
        {
            found.push((line, target.split_whitespace().next().unwrap_or_default().to_owned()));
        }
        for (at, _) in text.match_indices("](") {
            let rest = &text[at + 2..];
            let Some(end) = rest.find(')') else { continue };
            // After a space comes a title.
            let target = rest[..end].split_whitespace().next().unwrap_or_default();
            found.push((line, target.trim_matches(['<', '>']).to_owned()));
        }
    }
    found
}

/// A line with what stands between backquotes blanked.
fn without_code(line: &str) -> String {
    let parts = line.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 0 { part } else { "" }).collect::<Vec<_>>().join("`")
}

/// The anchors that a page's headings get: lower case, words joined by hyphens, numbered if equal.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let headings = prose(text).filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.strip_prefix(' ')).flatten()
    });
    headings
        .map(|title| {
            let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
            let anchor: String = title.trim().to_lowercase().chars().filter(kept).collect();
            let anchor = anchor.replace(' ', "-");
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code() {
        let text = "See [a](b.md \"title\") and ![c](<d.png>), `[e](f)`.\n\
                    ```\n[g](h)\n```\n[i]: j#k\n";
        let found = [(1, "b.md"), (1, "d.png"), (5, "j#k")];
        assert_eq!(links(text), found.map(|(line, target)| (line, target.to_owned())));
    }

    #[test]
    fn files_that_are_named_exist() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("deploy/docs")).unwrap();
        let text = "In `deploy/docs`, `deploy/gone.rs` and `nilometer sql`,\n`query/<name>`.\n";
        let found = faults(root.path(), &File { path: "a.md", text });
        let found: Vec<_> = found.iter().map(|fault| (fault.line, fault.what.as_str())).collect();
        assert_eq!(found, [(1, "there is no deploy/gone.rs")]);
    }

    #[test]
    fn headings_become_anchors() {
        let text =
            "# How it *works*\n## Again\n## Again\n```\n# not\n```\n#no\n### What's `up --demo`?\n";
        let expected = ["how-it-works", "again", "again-1", "whats-up---demo"];
        assert_eq!(anchors(text), expected);
    }

    #[test]
    fn links_lead_somewhere() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("docs")).unwrap();
        fs::write(root.path().join("README.md"), "# Top\n").unwrap();
        let text = "[1](../README.md#top) [2](#here) [3](https://a.org/b) [4](/README.md)\n\
                    # Here\n[5](gone.md)\n[6](../README.md#bottom)\n";
        fs::write(root.path().join("docs/a.md"), text).unwrap();
        let found = faults(root.path(), &File { path: "docs/a.md", text });
        assert_eq!(found.iter().map(|fault| fault.line).collect::<Vec<_>>(), [3, 4]);
    }
}
