//! The usage of allocations: a size over the time for which lifecycle events say it was held.
//!
//! Exact to the instant: a VM that lived 61 s is charged 61 s, and a resize or a new owner takes
//! effect at its microsecond. Fully observed, because events and not polls say it.

use std::sync::Arc;

use nilometer_contract::{Labels, Meter, MeterKind, Segment, Timestamp};

use crate::quantity::scaled_decimal;
use crate::row::UsageRow;
use crate::tenure::{Names, Tenure, Window, bounds, owners};
use crate::walk::{Walk, next_hour};

/// Places of a size: micro-units, which times microseconds are pico-unit seconds.
const PLACES: u32 = 6;
const ONE: i128 = 10_i128.pow(PLACES);

/// The usage of one allocation meter by hour and project, appended to `out` in order of time;
/// nothing for a meter that is sampled, or that the resource's kind does not have.
///
/// Counts what lies in `window` and before `as_of`. Periods in which the resource states no size
/// have no row. A size that is not a decimal number below 2⁶³ with at most 6 places counts as
/// nothing and shows as unobserved.
pub fn allocation_usage(
    tenure: &Tenure,
    meter: &Arc<Meter>,
    window: Window,
    as_of: Timestamp,
    out: &mut Vec<UsageRow>,
) {
    let MeterKind::Allocation { attribute } = &meter.kind else { return };
    let metered = |segment: &&Segment| meter.is_of(&segment.state.kind);
    let segments = tenure.segments.iter().filter(metered);
    held(tenure, segments, attribute.as_deref(), meter, window.until(as_of), out);
}

/// What a resource that runs others could have given of a meter in each hour: the size in the
/// attribute that is the meter's capacity, over its life, in the meter's usage unit; nothing for a
/// meter without one. For [`conserve`].
///
/// A core gives one second of `cpu.time` a second, a byte one byte-second of `memory.usage`.
///
/// [`conserve`]: crate::conserve
pub fn capacity_usage(
    tenure: &Tenure,
    meter: &Arc<Meter>,
    window: Window,
    as_of: Timestamp,
    out: &mut Vec<UsageRow>,
) {
    if let Some(attribute) = &meter.capacity {
        held(tenure, tenure.segments.iter(), Some(attribute), meter, window.until(as_of), out);
    }
}

fn held<'a>(
    tenure: &Tenure,
    segments: impl Iterator<Item = &'a Segment>,
    attribute: Option<&str>,
    meter: &Arc<Meter>,
    window: (i64, i64),
    out: &mut Vec<UsageRow>,
) {
    let stated: Vec<(&Segment, Option<i128>)> =
        segments.filter_map(|segment| Some((segment, size(segment, attribute)?))).collect();
    let spans = owners(stated.iter().map(|&(segment, _)| segment), &mut Names::default());
    let mut walk = Walk::new(&spans, window, |piece| {
        // The tenure's copy of the name, so that all rows of a resource share it.
        let owner = tenure.owners.iter().find(|owner| owner.key == piece.span.key);
        out.push(UsageRow {
            start: Timestamp(piece.start),
            end: Timestamp(piece.end),
            resource: Arc::clone(&tenure.resource),
            kind: piece.span.kind.clone(),
            meter: Arc::clone(meter),
            labels: Labels::none(),
            project: Arc::clone(owner.map_or(&piece.span.key, |owner| &owner.key)),
            quantity: piece.quantity,
            observed_micros: piece.observed_micros,
        });
    });
    for (segment, size) in stated {
        let (start, end) = bounds(segment);
        let (mut from, end) = (start.max(window.0), end.min(window.1));
        // Hour by hour: a size below 2^83 times an hour's 2^32 µs always fits.
        while let Some(size) = size.filter(|_| from < end) {
            let to = end.min(next_hour(from));
            walk.spread(from, to, to, size * i128::from(to - from));
            from = to;
        }
    }
    walk.finish();
}

/// The size a segment states, in micro-units; `Some(None)` when what it states is no size.
fn size(segment: &Segment, attribute: Option<&str>) -> Option<Option<i128>> {
    let Some(attribute) = attribute else { return Some(Some(ONE)) };
    let text = segment.state.attributes.get(attribute)?;
    let size = scaled_decimal(text, PLACES, false);
    Some(size.filter(|&size| size < (1 << 63) * ONE))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nilometer_contract::{Resource, ResourceKind};

    use super::*;

    #[test]
    fn sizes_are_exact_decimals() {
        for (text, micro) in [
            ("2", Some(2_000_000)),
            ("0.5", Some(500_000)),
            ("0.000001", Some(1)),
            ("9223372036854775807.999999", Some(9_223_372_036_854_775_807_999_999)),
            ("9223372036854775808", None),
            ("0.0000001", None),
            ("-1", None),
            ("2 GiB", None),
            ("1e9", None),
            ("", None),
        ] {
            let mut state = Resource::new("vm", ResourceKind::VM);
            state.attributes.insert("vcpus".to_owned(), text.to_owned());
            let segment = Segment { start: Timestamp(0), end: None, state: Arc::new(state) };
            assert_eq!(size(&segment, Some("vcpus")), Some(micro), "{text}");
            assert_eq!(size(&segment, Some("disk_bytes")), None);
            assert_eq!(size(&segment, None), Some(Some(ONE)));
        }
    }
}
