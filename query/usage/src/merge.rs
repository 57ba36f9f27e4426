//! Puts rows together that were computed apart.

use crate::row::UsageRow;

/// Sorts rows and joins those of one hour, resource, meter, labels and project that touch, so that
/// windows cut anywhere give the rows of the uncut window.
///
/// Rows do not overlap unless the same usage was computed twice. Then merging pieces in any
/// order and grouping gives the same rows.
pub fn merge(mut rows: Vec<UsageRow>) -> Vec<UsageRow> {
    rows.sort_unstable_by(|a, b| {
        let of = |row: &UsageRow| (row.start, row.end);
        (&a.resource, &a.project, &a.meter, &a.labels, &a.kind, of(a)).cmp(&(
            &b.resource,
            &b.project,
            &b.meter,
            &b.labels,
            &b.kind,
            of(b),
        ))
    });
    let mut merged: Vec<UsageRow> = Vec::with_capacity(rows.len());
    for row in rows {
        match merged.last_mut() {
            Some(last) if touches(last, &row) => {
                last.end = row.end;
                last.quantity += row.quantity;
                last.observed_micros += row.observed_micros;
            }
            _ => merged.push(row),
        }
    }
    merged.sort_unstable();
    merged
}

fn touches(earlier: &UsageRow, later: &UsageRow) -> bool {
    earlier.end == later.start
        && earlier.start.hour() == later.start.hour()
        && earlier.meter == later.meter
        && earlier.labels == later.labels
        && earlier.kind == later.kind
        && earlier.resource == later.resource
        && earlier.project == later.project
}
