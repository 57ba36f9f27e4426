//! Which statement about which hour counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nilometer_contract::{MICROS_PER_HOUR, Timestamp};
use nilometer_ingest::TableView;
use nilometer_store::{Missing, Table};
use nilometer_usage::Window;

use crate::stored::rows::hour_of;

/// One statement about one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Version of the samples that it rests on; newer statements have larger ones.
    pub(crate) known: i64,
    /// Whether it was rated with the price book in force; always so for usage.
    pub(crate) ours: bool,
    /// Whether it says that the hour is not settled: those before it were made too early.
    pub(crate) is_withdrawn: bool,
}

/// A table of statements as of one version: its files, and what was stated about each hour, the
/// newest last. Copies share the hours until one is changed.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    pub(crate) view: TableView,
    pub(crate) hours: Arc<BTreeMap<i64, Vec<Statement>>>,
    /// Files that were set aside when these statements were learned: theirs are not among them.
    pub(crate) aside: Vec<String>,
}

/// What billing has stored, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) usage: Statements,
    pub(crate) charges: Statements,
    pub(crate) invoices: TableView,
}

/// Which statements a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsOf {
    /// The newest of each hour, if it was rated with the price book in force.
    Newest,
    /// The newest of each hour that is not newer than this, whatever book it was rated with; the
    /// oldest where all are newer, because what was stated before is gone and was stated anew.
    At(i64),
}

/// The statement to read of each hour of a window, where it is not simply the only one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice(pub(crate) HashMap<i64, Option<i64>>);

impl Stored {
    /// Rows of issued invoices that are missing.
    pub(crate) fn lost_invoices(&self) -> impl Iterator<Item = &Missing> {
        self.invoices.files.missing(i64::MIN, i64::MAX)
    }
}

impl Statement {
    /// A statement with the price book in force.
    pub(crate) fn made(known: i64) -> Self {
        Statement { known, ours: true, is_withdrawn: false }
    }
}

impl Statements {
    /// Whether an hour is stated as `known` wants it.
    pub(crate) fn has(&self, hour: i64, known: AsOf) -> bool {
        self.pick(hour, known).is_some()
    }

    /// The newest statement about an hour.
    pub(crate) fn newest(&self, hour: i64) -> Option<Statement> {
        self.hours.get(&hour)?.last().copied()
    }

    /// Hours from one on, and up to and with another, about which a statement stands, of whatever
    /// price book.
    pub(crate) fn stated(&self, from: i64, upto: i64) -> impl DoubleEndedIterator<Item = i64> {
        let hours = self.hours.range(from..=upto.max(from));
        let stands =
            |statements: &[Statement]| statements.last().is_some_and(|it| !it.is_withdrawn);
        hours.filter(move |(_, statements)| stands(statements)).map(|(hour, _)| *hour)
    }

    /// Hours about which a statement stands, while a newer one may have been in a file that was set
    /// aside.
    pub(crate) fn doubtful<'s>(&'s self, table: &'s Table) -> impl Iterator<Item = i64> + 's {
        self.aside.iter().flat_map(|path| {
            let (first, last) = table.span_aside(path).unwrap_or((Timestamp::MIN.0, i64::MAX));
            self.stated(hour_of(first), last)
        })
    }

    fn pick(&self, hour: i64, known: AsOf) -> Option<i64> {
        let statements = self.hours.get(&hour)?;
        match known {
            AsOf::Newest => {
                let last = statements.last().filter(|it| it.ours && !it.is_withdrawn);
                last.map(|it| it.known)
            }
            AsOf::At(most) => {
                let before = statements.iter().rev().find(|it| it.known <= most);
                before.or(statements.first()).map(|it| it.known)
            }
        }
    }

    /// The choices that have to be made over a window.
    pub(crate) fn choice(&self, window: Window, known: AsOf) -> Choice {
        let hours = self.hours.range(hour_of(window.start.0)..window.end.0);
        let chosen = hours.filter_map(|(&hour, statements)| {
            let picked = self.pick(hour, known);
            let simple = statements.len() == 1 && picked.is_some();
            (!simple).then_some((hour, picked))
        });
        Choice(chosen.collect())
    }

    /// Hours of a window that are not stated as wanted, in runs `[start, end)`.
    pub(crate) fn open(&self, window: Window, known: AsOf) -> Vec<Window> {
        let mut runs: Vec<Window> = Vec::new();
        let mut hour = window.start.hour();
        while hour < window.end {
            let next = hour.plus_micros(MICROS_PER_HOUR);
            if !self.has(hour.0, known) {
                match runs.last_mut() {
                    Some(run) if run.end == hour => run.end = next,
                    _ => runs.push(Window { start: hour, end: next }),
                }
            }
            hour = next;
        }
        runs
    }

    /// Notes a new statement.
    pub(crate) fn note(&mut self, hour: i64, statement: Statement) {
        let statements = Arc::make_mut(&mut self.hours).entry(hour).or_default();
        statements.push(statement);
        statements.sort_by_key(|statement| statement.known);
        statements.dedup_by_key(|statement| statement.known);
    }
}

impl Choice {
    /// Whether a row of a statement is to be read.
    pub(crate) fn takes(&self, start: i64, known: i64) -> bool {
        self.0.get(&hour_of(start)).is_none_or(|picked| *picked == Some(known))
    }
}

#[cfg(test)]
mod tests {
    use nilometer_contract::Timestamp;

    use super::*;

    const HOUR: i64 = MICROS_PER_HOUR;

    fn statements(of: &[(i64, i64, bool)]) -> Statements {
        let view = TableView {
            def: &nilometer_usage::USAGE,
            version: 0,
            files: Default::default(),
            memory: Vec::new(),
        };
        let mut statements = Statements { view, hours: Arc::default(), aside: Vec::new() };
        for &(hour, known, ours) in of {
            statements.note(hour * HOUR, Statement { known, ours, is_withdrawn: false });
        }
        statements
    }

    #[test]
    fn the_newest_statement_counts_unless_an_older_one_is_asked_for() {
        let said = statements(&[(1, 5, true), (2, 9, true), (2, 5, true), (3, 5, false)]);
        let window = Window { start: Timestamp(0), end: Timestamp(5 * HOUR) };
        let newest = said.choice(window, AsOf::Newest);
        assert!(newest.takes(HOUR + 1, 5), "the only one");
        assert!(newest.takes(2 * HOUR, 9) && !newest.takes(2 * HOUR + 7, 5));
        assert!(!newest.takes(3 * HOUR, 5), "rated with another book");
        let before = said.choice(window, AsOf::At(8));
        assert!(before.takes(2 * HOUR, 5) && !before.takes(2 * HOUR, 9));
        assert!(before.takes(3 * HOUR, 5));
        let first = said.choice(window, AsOf::At(4));
        assert!(first.takes(HOUR, 5) && first.takes(2 * HOUR, 5) && !first.takes(2 * HOUR, 9));
        let open = said.open(window, AsOf::Newest);
        let run = |from: i64, upto: i64| Window {
            start: Timestamp(from * HOUR),
            end: Timestamp(upto * HOUR),
        };
        assert_eq!(open, [run(0, 1), run(3, 5)]);
    }

    #[test]
    fn what_is_withdrawn_is_not_settled_and_stays_readable() {
        let mut said = statements(&[(1, 5, true), (2, 5, true)]);
        let withdrawn = Statement { known: 6, ours: true, is_withdrawn: true };
        said.note(2 * HOUR, withdrawn);
        assert!(!said.has(2 * HOUR, AsOf::Newest) && said.has(2 * HOUR, AsOf::At(5)));
        assert_eq!(said.stated(0, 9 * HOUR).collect::<Vec<_>>(), [HOUR]);
        said.note(2 * HOUR, Statement::made(7));
        assert!(said.has(2 * HOUR, AsOf::Newest));
        assert_eq!(said.stated(0, 9 * HOUR).collect::<Vec<_>>(), [HOUR, 2 * HOUR]);
    }
}
