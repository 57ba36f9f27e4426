//! Quantities: exact integers in pico-units, and their decimal text.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const PLACES: u32 = 12;
const ONE: u128 = 10_u128.pow(PLACES);

/// An exact quantity in pico-units: 10⁻¹² of the meter's usage unit.
///
/// Written as a decimal number without trailing zeros, such as `0.25`; as text in JSON too,
/// because a JSON number would pass through a float.
///
/// Bounds. An `i128` holds 1.7 × 10²⁶ usage units: an exabyte of memory for five years, or
/// a thousand million cores for longer than the universe has been. One reading is below 2⁶³ units,
/// so one pair of readings, or a level held for an hour, stays below 2¹²⁶ pico-units. What still
/// overflows is nonsense in the input: `+` and `-` then panic with `quantity fits in i128`
/// (a biller stops, it never wraps); [`checked_add`](Self::checked_add) tells instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(pub i128);

/// A text that is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a decimal number of at most 12 places: {0:?}")]
pub struct InvalidQuantity(pub String);

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity(0);

    /// The sum, unless it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Quantity)
    }

    /// The difference, unless it does not fit.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Quantity)
    }
}

/// The value that must be there because quantities fit in an `i128`.
pub(crate) fn fits<T>(value: Option<T>) -> T {
    match value {
        Some(value) => value,
        None => panic!("quantity fits in i128"),
    }
}

impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Self) -> Self {
        fits(self.checked_add(other))
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Self) -> Self {
        fits(self.checked_sub(other))
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(quantities: I) -> Self {
        quantities.fold(Quantity::ZERO, Add::add)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let mut text = (magnitude / ONE).to_string();
        let fraction = magnitude % ONE;
        if fraction != 0 {
            let digits = format!("{fraction:012}");
            text.push('.');
            text.push_str(digits.trim_end_matches('0'));
        }
        f.pad_integral(self.0 >= 0, "", &text)
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        // Negative digits are read as such, because i128::MIN has no positive counterpart.
        scaled_decimal(digits, PLACES, negative)
            .map(Quantity)
            .ok_or_else(|| InvalidQuantity(text.to_owned()))
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads unsigned decimal `text` (`12`, `0.5`) times `10^places`, negated if asked; `None` when
/// it is anything else, has more places, or does not fit.
pub(crate) fn scaled_decimal(text: &str, places: u32, negative: bool) -> Option<i128> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    let missing = places.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    let digits = whole.bytes().chain(fraction.bytes());
    if whole.is_empty() || !digits.clone().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let sign = if negative { -1 } else { 1 };
    let value = digits.into_iter().try_fold(0_i128, |value, digit| {
        value.checked_mul(10)?.checked_add(sign * i128::from(digit - b'0'))
    })?;
    value.checked_mul(10_i128.pow(missing))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_decimal_without_trailing_zeros() {
        for (pico, text) in [
            (0, "0"),
            (1, "0.000000000001"),
            (250_000_000_000, "0.25"),
            (-1_500_000_000_000, "-1.5"),
            (100_000_000_000_000, "100"),
            (i128::MAX, "170141183460469231731687303.715884105727"),
            (i128::MIN, "-170141183460469231731687303.715884105728"),
        ] {
            assert_eq!(Quantity(pico).to_string(), text);
            assert_eq!(text.parse(), Ok(Quantity(pico)));
        }
        assert_eq!("007.500".parse(), Ok(Quantity(7_500_000_000_000)));
    }

    #[test]
    fn anything_else_is_refused() {
        let beyond = "170141183460469231731687303.715884105728";
        for text in
            ["", "-", ".", "1.", ".5", "+1", "1e3", " 1", "1,0", "--1", "0.0000000000001", beyond]
        {
            assert_eq!(text.parse::<Quantity>(), Err(InvalidQuantity(text.to_owned())));
        }
    }

    #[test]
    #[should_panic(expected = "quantity fits in i128")]
    fn overflow_stops() {
        let _ = Quantity(i128::MAX) + Quantity(1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn text_round_trips(pico in any::<i128>()) {
            prop_assert_eq!(Quantity(pico).to_string().parse(), Ok(Quantity(pico)));
        }
    }
}
