//! Decimal numbers as text: prices in, quantities and amounts out. No floats.

use std::fmt;
use std::str::FromStr;

use num_bigint::BigUint;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most digits of a price before its decimal point.
pub const MAX_PRICE_INTEGER_DIGITS: usize = 18;
/// Most digits of a price after its decimal point.
pub const MAX_PRICE_FRACTION_DIGITS: usize = 12;

/// A price: an exact, non-negative decimal that remembers how it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Price {
    digits: u128,
    scale: u8,
}

/// Why a text is not a price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrice {
    /// Not digits with at most one point.
    #[error(
        "{0:?} is not a decimal number; write it like \"0.020\": digits and one point, no sign, \
         no exponent, no thousands separators"
    )]
    NotDecimal(String),
    /// More digits than a price may have.
    #[error(
        "{0:?} has too many digits: at most {MAX_PRICE_INTEGER_DIGITS} before the point and \
         {MAX_PRICE_FRACTION_DIGITS} after it"
    )]
    TooLong(String),
}

impl Price {
    /// All digits as one integer: 20 for `0.020`.
    pub fn digits(self) -> u128 {
        self.digits
    }

    /// Number of digits after the point: 3 for `0.020`.
    pub fn scale(self) -> u32 {
        u32::from(self.scale)
    }
}

impl FromStr for Price {
    type Err = InvalidPrice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not_decimal = || InvalidPrice::NotDecimal(text.to_owned());
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(not_decimal()),
            Some(parts) => parts,
            None => (text, ""),
        };
        let digits = format!("{whole}{fraction}");
        if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_decimal());
        }
        let long = whole.len() > MAX_PRICE_INTEGER_DIGITS;
        if long || fraction.len() > MAX_PRICE_FRACTION_DIGITS {
            return Err(InvalidPrice::TooLong(text.to_owned()));
        }
        let scale = u8::try_from(fraction.len()).map_err(|_| not_decimal())?;
        let digits = digits.parse().map_err(|_| not_decimal())?;
        Ok(Price { digits, scale })
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&fixed_point(false, &BigUint::from(self.digits), self.scale()))
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `magnitude / 10^scale` with exactly `scale` digits after the point.
pub(crate) fn fixed_point(negative: bool, magnitude: &BigUint, scale: u32) -> String {
    let scale = scale as usize;
    let digits = format!("{:0>width$}", magnitude.to_string(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if negative && magnitude.bits() > 0 { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    format!("{sign}{whole}{point}{fraction}")
}

/// Removes zeros at the end of a fraction, and the point when nothing is left after it.
pub(crate) fn trimmed(decimal: &str) -> &str {
    match decimal.contains('.') {
        true => decimal.trim_end_matches('0').trim_end_matches('.'),
        false => decimal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_keep_their_text() {
        for text in ["0", "0.020", "1", "12.5", "0.000000000001", "999999999999999999.5"] {
            assert_eq!(text.parse::<Price>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_plain_decimal_is_refused() {
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", "1.2.3", " 1", "٣", "1_000"] {
            let error = text.parse::<Price>().unwrap_err();
            assert!(matches!(error, InvalidPrice::NotDecimal(_)), "{text}: {error}");
        }
        for text in ["0.0000000000001", "1000000000000000000"] {
            let error = text.parse::<Price>().unwrap_err();
            assert!(matches!(error, InvalidPrice::TooLong(_)), "{text}: {error}");
        }
    }

    #[test]
    fn fixed_point_pads_and_signs() {
        let cases = [
            (false, 0u32, 0, "0"),
            (true, 0, 2, "0.00"),
            (true, 5, 2, "-0.05"),
            (false, 12_345, 3, "12.345"),
        ];
        for (negative, magnitude, scale, expected) in cases {
            assert_eq!(fixed_point(negative, &BigUint::from(magnitude), scale), expected);
        }
        assert_eq!(["10", "1.50", "2.000"].map(trimmed), ["10", "1.5", "2"]);
    }
}
