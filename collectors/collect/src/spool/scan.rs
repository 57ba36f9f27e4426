//! Finds records in the bytes of a segment, and says what damage lies between them.

use nilometer_contract::Timestamp;

use crate::entry::{Entry, Front, Position};

/// What lies at a place of the spool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A record, and its size.
    Record(Entry, u64),
    /// A record whose payload is damaged, without it, and its size.
    Damaged(Entry, u64),
    /// Bytes that are no record; they held at least one.
    Unknown(Unknown),
}

/// Damage that hides what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) bytes: u64,
    /// Time of the record before it.
    pub(crate) before: Option<Span>,
    /// Time of the record after it.
    pub(crate) after: Option<Span>,
}

/// Start and end of a record.
pub(crate) type Span = (Timestamp, Timestamp);

/// Finds what lies in bytes that lie at `begin`; returns how many it dealt with. `to_end` says that
/// nothing follows the bytes: else what goes on past them is left.
pub(super) fn scan(
    bytes: &[u8],
    begin: Position,
    to_end: bool,
    each: &mut impl FnMut(Position, Found),
) -> usize {
    let (mut at, mut before) = (0, None);
    while at < bytes.len() {
        let position = Position { offset: begin.offset + at as u64, ..begin };
        let rest = &bytes[at..];
        let (entry, found, size) = match Entry::read(rest, position) {
            Front::Whole(entry, size) => {
                let span = (entry.start, entry.end);
                (span, Found::Record(entry, size as u64), size)
            }
            Front::Damaged(entry, size) => {
                let span = (entry.start, entry.end);
                (span, Found::Damaged(entry, size as u64), size)
            }
            Front::Cut(entry, _) if to_end => {
                let (span, size) = ((entry.start, entry.end), rest.len());
                (span, Found::Damaged(entry, size as u64), size)
            }
            Front::Cut(..) => return at,
            Front::Nothing => {
                let next = Entry::next(rest, position);
                let Some(size) = next.or(to_end.then_some(rest.len())) else { return at };
                let offset = position.offset + size as u64;
                let after = Entry::read(&rest[size..], Position { offset, ..position });
                let after = span_of(&after);
                let found = Found::Unknown(Unknown { bytes: size as u64, before, after });
                each(position, found);
                at += size;
                continue;
            }
        };
        before = Some(entry);
        each(position, found);
        at += size;
    }
    at
}

pub(super) fn span_of(front: &Front) -> Option<Span> {
    match front {
        Front::Whole(entry, _) | Front::Damaged(entry, _) | Front::Cut(entry, _) => {
            Some((entry.start, entry.end))
        }
        Front::Nothing => None,
    }
}

impl Unknown {
    /// Of when what it held is: between the records beside it, open where there is none.
    pub(crate) fn span(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        let both = self.before.zip(self.after);
        let span = both.map(|(before, after)| (before.0.min(after.0), before.1.max(after.1)));
        let start = self.before.map(|before| span.map_or(before.0, |span| span.0));
        (start, self.after.map(|after| span.map_or(after.1, |span| span.1)))
    }
}
