//! The form of a case: sections of text, of which some are input and some are checked.
//!
//! ```text
//! == book                          a price book; or `== book built-in`, without text
//! == resources                     ID KIND [KEY=VALUE …]
//! == usage                         RESOURCE METER PROJECT START LENGTH QUANTITY [observed LENGTH]
//! == invoice PROJECT START END ZONE [by-resource] [known=N] [issued=AT]
//! == json, csv                     checked: other forms of that invoice
//! == explain N                     checked: the explanation of its line N, from 1
//! == error                         checked: what is wrong with the book or the usage above
//! ```
//!
//! A length of several hours (`720h`) makes a row for each, of the quantity given.

use std::collections::HashMap;

use nilometer_contract::{Labels, Resource, ResourceKind, Timestamp, catalogue};
use nilometer_rating::{
    Charge, Detail, Invoice, Period, PriceBook, TableNames, explain, invoice, rate,
};
use nilometer_usage::{Quantity, UsageRow};

/// Names of tables as the program has them.
pub(crate) const TABLES: TableNames = TableNames {
    usage: "usage",
    usage_history: "usage_history",
    charges: "charges",
    charges_history: "charges_history",
    invoices: "invoices",
    samples: "samples",
    events: "events",
    source_hours: "source_hours",
};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// What a case has built up so far.
#[derive(Default)]
struct Desk {
    book: Option<PriceBook>,
    resources: HashMap<String, Resource>,
    usage: Vec<UsageRow>,
    charges: Vec<Charge>,
    invoice: Option<Invoice>,
    error: String,
}

/// Runs a case; returns it with what really came out in its checked sections.
pub(crate) fn run(text: &str) -> String {
    let mut desk = Desk::default();
    let mut out = String::new();
    let (comment, sections) = text.split_once("== ").unwrap_or((text, ""));
    out.push_str(comment);
    for section in sections.split("\n== ") {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let body = body.trim_end_matches('\n');
        let found = desk.section(title, body);
        out.push_str(&format!("== {title}\n{}\n\n", found.trim_end_matches('\n')));
    }
    out.truncate(out.trim_end_matches('\n').len() + 1);
    out
}

impl Desk {
    fn section(&mut self, title: &str, body: &str) -> String {
        let words: Vec<&str> = title.split_whitespace().collect();
        match words.as_slice() {
            ["book"] => match PriceBook::parse(body) {
                Ok(book) => self.book = Some(book),
                Err(error) => self.error = error.to_string(),
            },
            ["book", "built-in"] => self.book = Some(PriceBook::built_in()),
            ["resources"] => {
                let resources = lines(body).map(resource);
                self.resources = resources.map(|it| (it.id.clone(), it)).collect();
            }
            ["usage"] => {
                self.usage = lines(body).flat_map(|line| self.rows(line)).collect();
                let rated =
                    rate(&self.usage, self.book(), |row| self.resources.get(&*row.resource));
                match rated {
                    Ok(charges) => self.charges = charges,
                    Err(error) => self.error = error.to_string(),
                }
            }
            ["invoice", project, start, end, zone, options @ ..] => {
                return self.draw_up(project, [start, end, zone], options);
            }
            ["json"] => return self.invoice().to_json(),
            ["csv"] => return self.invoice().to_csv().replace("\r\n", "\n"),
            ["explain", number] => {
                let number: usize = number.parse().expect("the number of a line");
                let line = &self.invoice().lines[number - 1].id;
                let explained = explain(line, self.invoice(), &self.charges, catalogue(), &TABLES);
                return explained.map_or_else(|error| error.to_string(), |it| it.to_text());
            }
            ["error"] => return std::mem::take(&mut self.error),
            _ => panic!("unknown section {title:?}"),
        }
        body.to_owned()
    }

    fn draw_up(
        &mut self,
        project: &str,
        [start, end, zone]: [&str; 3],
        options: &[&str],
    ) -> String {
        let detail = match options.contains(&"by-resource") {
            true => Detail::Resources,
            false => Detail::Prices,
        };
        let known = options.iter().find_map(|option| option.strip_prefix("known="));
        let issued = options.iter().find_map(|option| option.strip_prefix("issued="));
        let period = Period::parse(start, end, zone).expect("a period");
        let project = if project == "-" { "" } else { project };
        let drawn = invoice(project, &period, &self.charges, self.book(), detail);
        let drawn = drawn.and_then(|draft| match known {
            Some(known) => draft.as_known(known.parse().expect("a version")),
            None => Ok(draft),
        });
        let drawn = drawn.and_then(|draft| match issued {
            Some(at) => draft.issue(at.parse().expect("an instant")).map(|it| (*it).clone()),
            None => Ok(draft),
        });
        match drawn {
            Ok(invoice) => self.invoice.insert(invoice).to_text(),
            Err(error) => error.to_string(),
        }
    }

    fn rows(&self, line: &str) -> Vec<UsageRow> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (fixed, observed) = words.split_at(6);
        let start: Timestamp = fixed[3].parse().expect("an instant");
        let length = micros(fixed[4]);
        let resource = self.resources.get(fixed[0]).expect("a resource listed above");
        let row = UsageRow {
            start,
            end: start.plus_micros(length),
            resource: resource.id.as_str().into(),
            kind: resource.kind.clone(),
            meter: catalogue().find(fixed[1]).expect("a meter").clone(),
            labels: Labels::none(),
            project: if fixed[2] == "-" { "".into() } else { fixed[2].into() },
            quantity: fixed[5].parse::<Quantity>().expect("a quantity"),
            observed_micros: observed.get(1).map_or(length.min(HOUR), |text| micros(text)),
        };
        match length > HOUR && length % HOUR == 0 {
            true => (0..length / HOUR).map(|hour| later(&row, hour)).collect(),
            false => vec![row],
        }
    }

    fn book(&self) -> &PriceBook {
        self.book.as_ref().expect("a book above")
    }

    fn invoice(&self) -> &Invoice {
        self.invoice.as_ref().expect("an invoice above")
    }
}

fn later(row: &UsageRow, hour: i64) -> UsageRow {
    let start = row.start.plus_micros(hour * HOUR);
    UsageRow { start, end: start.plus_micros(HOUR), ..row.clone() }
}

fn lines(body: &str) -> impl Iterator<Item = &str> {
    body.lines().filter(|line| !line.trim().is_empty())
}

fn resource(line: &str) -> Resource {
    let mut words = line.split_whitespace();
    let (id, kind) = (words.next().expect("an id"), words.next().expect("a kind"));
    let mut resource = Resource::new(id, kind.parse::<ResourceKind>().expect("a kind"));
    for pair in words {
        let (key, value) = pair.split_once('=').expect("KEY=VALUE");
        resource.attributes.insert(key.to_owned(), value.to_owned());
    }
    resource
}

fn micros(length: &str) -> i64 {
    let (number, unit) = length.split_at(length.len() - 1);
    let unit = match unit {
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => HOUR,
        _ => panic!("a length is like 61s, 45m or 720h: {length}"),
    };
    number.parse::<i64>().expect("a number") * unit
}
