//! Licences: each dependency must offer one that Apache-2.0 software may be built with.

use super::Package;

/// Licences that ask for no more than a notice.
const ALLOWED: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Exceptions only permit more, so that the licence alone decides.
const WITH: &str = "WITH";

/// Packages allowed for a reason of their own.
const EXCEPTIONS: [(&str, &str); 2] = [
    // Of the fuzz targets alone, which nobody is given; NCSA asks for no more than a notice.
    ("libfuzzer-sys", "(MIT OR Apache-2.0) AND NCSA"),
    // Copyleft by file; used as it is, and its source stays where it came from.
    ("option-ext", "MPL-2.0"),
];

/// One line for each package whose licence does not fit.
pub(super) fn check(packages: &[Package]) -> Vec<String> {
    let judged = packages.iter().filter(|package| !fits(package));
    judged
        .map(|package| {
            let licence = package.licence.as_deref().unwrap_or("none stated");
            format!(
                "{} {}: its licence ({licence}) is not on the list; do without it, or give \
                 a reason in deps/licences.rs",
                package.name, package.version
            )
        })
        .collect()
}

fn fits(package: &Package) -> bool {
    let Some(licence) = package.licence.as_deref() else { return false };
    EXCEPTIONS.contains(&(package.name.as_str(), licence)) || is_allowed(licence)
}

/// Judges an SPDX expression; one that cannot be read is not allowed.
fn is_allowed(expression: &str) -> bool {
    // Before SPDX expressions, a slash meant a choice.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words };
    reader.any() == Some(true) && reader.words.is_empty()
}

/// Reads an expression from the left: `OR` binds least, `AND` more, `WITH` most.
struct Reader<'a> {
    words: &'a [&'a str],
}

impl Reader<'_> {
    fn any(&mut self) -> Option<bool> {
        let mut allowed = self.all()?;
        while self.skip("OR") {
            allowed |= self.all()?;
        }
        Some(allowed)
    }

    fn all(&mut self) -> Option<bool> {
        let mut allowed = self.one()?;
        while self.skip("AND") {
            allowed &= self.one()?;
        }
        Some(allowed)
    }

    fn one(&mut self) -> Option<bool> {
        if self.skip("(") {
            let allowed = self.any()?;
            return self.skip(")").then_some(allowed);
        }
        let (licence, rest) = self.words.split_first()?;
        self.words = rest;
        if self.skip(WITH) {
            self.words = self.words.split_first()?.1;
        }
        Some(ALLOWED.contains(licence))
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged() {
        for allowed in [
            "MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "GPL-3.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "ISC AND (GPL-2.0 OR ISC) AND OpenSSL",
            "(Apache-2.0 OR MIT) AND BSD-3-Clause",
            "GPL-2.0 AND MIT OR ISC",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in [
            "GPL-3.0",
            "AGPL-3.0-only",
            "MIT AND GPL-3.0",
            "MIT AND (GPL-3.0 OR SSPL-1.0)",
            "MPL-2.0",
            "",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT WITH",
            "MIT Apache-2.0",
        ] {
            assert!(!is_allowed(refused), "{refused}");
        }
    }
}
