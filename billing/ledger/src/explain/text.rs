//! Explanations for reading.

use crate::explain::Explanation;

impl Explanation {
    /// The explanation as text: the sum in words, then step by step what was found, and how to
    /// ask for it.
    pub fn to_text(&self) -> String {
        let line = &self.line.line;
        let mut text = format!("{} of {}: {}\n", line.id, self.line.invoice, line.description);
        text.push_str(&format!("{}\n\n", self.line.arithmetic));
        text.push_str(&format!("Price   {} of {}\n", line.price_entry, line.price_book));
        text.push_str(&format!("Book    SHA-256 {}\n", self.line.price_book_digest));
        for (number, step) in (1..).zip(&self.steps) {
            text.push_str(&format!("\n{number}. {}\n   {}\n", capital(&step.finds), step.sql));
            let Some(rows) = &step.rows else { continue };
            match rows.is_empty() {
                true => text.push_str("   nothing yet\n"),
                false => text.push_str(&step.table),
            }
            if step.more {
                text.push_str("   … and more; the query finds them all\n");
            }
        }
        text
    }

    /// The explanation as indented JSON.
    pub fn to_json(&self) -> String {
        match serde_json::to_string_pretty(self) {
            Ok(text) => text + "\n",
            Err(error) => panic!("an explanation is plain text and numbers: {error}"),
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}
