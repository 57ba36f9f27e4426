//! Rust text, told apart: what is code, what is comment, which lines are only for tests.
//!
//! Not a parser: enough of the lexer that braces and words in literals and comments mislead
//! nobody. Both views keep every character in its place, so that lines and columns agree.

use std::ops::Range;

/// How items begin that exist only under test.
const CONDITIONS: [&str; 3] = ["#[cfg(test", "#[cfg(any(test", "#[cfg(all(test"];

/// A source file in two views of the same shape.
pub(super) struct Source {
    /// The text without comments and without what literals contain.
    pub(super) code: String,
    /// The comments alone.
    pub(super) comments: String,
}

/// A function with a body.
pub(super) struct Function {
    pub(super) name: String,
    /// First line, from 1.
    pub(super) line: usize,
    /// How many lines it takes, from `fn` to its closing brace.
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().collect();
        let mut source =
            Source { code: String::with_capacity(text.len()), comments: String::new() };
        let mut at = 0;
        while at < text.len() {
            let (what, end) = token(&text, at);
            for &c in &text[at..end] {
                let blank = if c == '\n' { '\n' } else { ' ' };
                source.code.push(if what == What::Code { c } else { blank });
                source.comments.push(if what == What::Comment { c } else { blank });
            }
            at = end;
        }
        source
    }

    /// Every function with a body, also those within others.
    pub(super) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for start in words(&self.code, "fn") {
            let after = self.code[start + 2..].trim_start();
            let name = after.split(|c: char| !is_word(c)).next().unwrap_or_default();
            // Without a name it is a type.
            if name.is_empty() {
                continue;
            }
            let Some(body) = self.body(start) else { continue };
            let lines = self.code[start..body.end].matches('\n').count() + 1;
            functions.push(Function { name: name.to_owned(), line: self.line(start), lines });
        }
        functions
    }

    /// Modules in files of their own that exist only under test.
    pub(super) fn test_modules(&self) -> impl Iterator<Item = &str> {
        let after = CONDITIONS.iter().flat_map(|mark| self.code.match_indices(mark));
        after.filter_map(|(at, _)| {
            let item = self.code[at..].split(';').next()?;
            let (before, name) = item.rsplit_once("mod ")?;
            // Nothing but attributes and visibility comes before it.
            let alone = !before.contains('{') && name.chars().all(is_word);
            alone.then_some(name)
        })
    }

    /// Lines (from 1) of items that exist only under test.
    pub(super) fn test_lines(&self) -> Vec<Range<usize>> {
        let marks = CONDITIONS.iter().chain(&["#[test]", "#[tokio::test"]);
        marks
            .flat_map(|mark| self.code.match_indices(mark))
            .filter_map(|(at, _)| {
                let end = self.body(at)?.end;
                Some(self.line(at)..self.line(end) + 1)
            })
            .collect()
    }

    /// Line (from 1) of a byte of the code.
    fn line(&self, byte: usize) -> usize {
        self.code[..byte].matches('\n').count() + 1
    }

    /// The braces of the item that starts at `start`; none if it ends without any.
    fn body(&self, start: usize) -> Option<Range<usize>> {
        let mut outer = 0_usize;
        let mut braces = 0_usize;
        let mut open = start;
        for (at, c) in self.code[start..].char_indices() {
            match c {
                '(' | '[' if braces == 0 => outer += 1,
                ')' | ']' if braces == 0 => outer = outer.checked_sub(1)?,
                ';' if braces == 0 && outer == 0 => return None,
                '{' if outer == 0 => {
                    if braces == 0 {
                        open = start + at;
                    }
                    braces += 1;
                }
                '}' if outer == 0 => {
                    braces = braces.checked_sub(1)?;
                    if braces == 0 {
                        return Some(open..start + at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// Where `word` stands in `text` on its own, in bytes.
pub(super) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let alone = move |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    };
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| alone(at))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Code,
    Comment,
    Literal,
}

/// What starts at `at`, and where it ends.
fn token(text: &[char], at: usize) -> (What, usize) {
    let next = |ahead: usize| text.get(at + ahead).copied();
    match text[at] {
        '/' if next(1) == Some('/') => (What::Comment, find(text, at, |c| c == '\n')),
        '/' if next(1) == Some('*') => (What::Comment, block_comment(text, at)),
        '"' => (What::Literal, quoted(text, at, '"')),
        'r' | 'b' | 'c' if at == 0 || !is_word(text[at - 1]) => prefixed(text, at),
        '\'' if next(1) == Some('\\') || (next(2) == Some('\'') && next(1) != Some('\'')) => {
            (What::Literal, quoted(text, at, '\''))
        }
        _ => (What::Code, at + 1),
    }
}

/// A raw string, or the word that `at` starts; a string after a prefix comes next by itself.
fn prefixed(text: &[char], at: usize) -> (What, usize) {
    let raw = match text[at..] {
        ['r', ..] => at + 1,
        [_, 'r', ..] => at + 2,
        _ => return (What::Code, at + 1),
    };
    let quote = find(text, raw, |c| c != '#');
    if text.get(quote) != Some(&'"') {
        return (What::Code, at + 1);
    }
    let hashes = quote - raw;
    let mut end = quote + 1;
    while end < text.len() {
        let after = text[end + 1..].iter().take(hashes);
        if text[end] == '"' && after.filter(|&&c| c == '#').count() == hashes {
            return (What::Literal, end + 1 + hashes);
        }
        end += 1;
    }
    (What::Literal, end)
}

fn quoted(text: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < text.len() {
        match text[end] {
            '\\' => end += 2,
            c if c == quote => return end + 1,
            _ => end += 1,
        }
    }
    text.len()
}

/// Block comments nest.
fn block_comment(text: &[char], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut end = at;
    while end < text.len() {
        match text[end..] {
            ['/', '*', ..] => {
                depth += 1;
                end += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                end += 2;
                if depth == 0 {
                    return end;
                }
            }
            _ => end += 1,
        }
    }
    end
}

fn find(text: &[char], from: usize, is_it: impl Fn(char) -> bool) -> usize {
    text[from..].iter().position(|&c| is_it(c)).map_or(text.len(), |ahead| from + ahead)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a text, its blanks run together.
    fn code(text: &str) -> String {
        let source = Source::new(text);
        assert_eq!(source.code.chars().count(), text.chars().count());
        source.code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn literals_and_comments_are_not_code() {
        assert_eq!(code("a(\"}\\\"{\") // }"), "a( )");
        assert_eq!(code("/* { /* } */ { */ b"), "b");
        assert_eq!(code("r#\"}\"{\"# c br\"{\" d b\"}\" e"), "c d b e");
        assert_eq!(code("'{' '\\'' '\\u{7d}' b'}' x"), "b x");
        assert_eq!(code("fn f<'a>(x: &'a str, y: char)"), "fn f<'a>(x: &'a str, y: char)");
        assert_eq!(code("r#type = br#\"}\"# + crate"), "r#type = + crate");
        assert_eq!(code("é \"é}\" \"open"), "é");
    }

    #[test]
    fn comments_keep_their_place() {
        let source = Source::new("let x = \"// no\"; // yes\nlet y;");
        assert_eq!(source.comments, "                 // yes\n      ");
    }

    #[test]
    fn functions_are_measured() {
        let text = "fn one() {}\n\
                    struct S { f: fn(u8) -> u8 }\n\
                    trait T { fn none(&self); fn two(&self)\n{ let _ = \"}\"; } }\n\
                    fn three<'a>(x: [u8; { 3 }]) -> impl Fn() \nwhere T: Sized {\n if x { } \n '}' }\n";
        let found: Vec<_> = Source::new(text)
            .functions()
            .into_iter()
            .map(|function| (function.name, function.line, function.lines))
            .collect();
        let expected = [("one", 1, 1), ("two", 3, 2), ("three", 5, 4)];
        assert_eq!(found, expected.map(|(name, line, lines)| (name.to_owned(), line, lines)));
    }

    #[test]
    fn tests_are_told_apart() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n#[test]\nfn b() {}\n}\nfn c() {}\n#[cfg(test)]\npub(crate) mod d;\nmod e;\n";
        let source = Source::new(text);
        assert_eq!(source.test_modules().collect::<Vec<_>>(), ["d"]);
        let lines = source.test_lines();
        let tested: Vec<usize> =
            (1..=10).filter(|line| lines.iter().any(|range| range.contains(line))).collect();
        assert_eq!(tested, [2, 3, 4, 5, 6]);
    }
}
