//! Exact fractions, and the one place where money is rounded (invariant 13).

use std::fmt;
use std::str::FromStr;

use num_bigint::{BigInt, BigUint, Sign};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::currency::Currency;
use crate::decimal::fixed_point;

/// An exact rational number: what a charge amounts to before anything is rounded.
///
/// Kept in lowest terms, so that equal amounts are equal bytes however they were added up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fraction {
    numerator: BigInt,
    denominator: BigUint,
}

/// An amount of money in whole minor units, such as cents. Written as a decimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money {
    minor: BigInt,
    digits: u32,
}

/// A text that is not a fraction or an amount of money.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {expected}: {text:?}")]
pub struct InvalidNumber {
    expected: &'static str,
    text: String,
}

impl Fraction {
    /// `numerator / denominator`.
    ///
    /// # Panics
    /// When the denominator is zero; no price is per nothing.
    pub fn new(numerator: BigInt, denominator: BigUint) -> Self {
        assert!(denominator.bits() > 0, "a fraction has a denominator");
        let divisor = greatest_common_divisor(numerator.magnitude().clone(), denominator.clone());
        Fraction {
            numerator: numerator / BigInt::from(divisor.clone()),
            denominator: denominator / divisor,
        }
    }

    /// Nothing.
    pub fn zero() -> Self {
        Fraction::new(BigInt::ZERO, BigUint::from(1u8))
    }

    /// The exact sum.
    pub fn plus(&self, other: &Fraction) -> Fraction {
        let left = &self.numerator * BigInt::from(other.denominator.clone());
        let right = &other.numerator * BigInt::from(self.denominator.clone());
        Fraction::new(left + right, &self.denominator * &other.denominator)
    }

    /// This number with its sign turned.
    pub fn negated(&self) -> Fraction {
        Fraction { numerator: -&self.numerator, denominator: self.denominator.clone() }
    }

    /// A decimal with `digits` places, the rest cut off, and whether nothing was cut off.
    ///
    /// For showing only: money is rounded by [`round_to_minor_unit`].
    pub fn truncated(&self, digits: u32) -> (String, bool) {
        let scaled = self.numerator.magnitude() * BigUint::from(10u8).pow(digits);
        let exact = (&scaled % &self.denominator).bits() == 0;
        let negative = self.numerator.sign() == Sign::Minus;
        (fixed_point(negative, &(scaled / &self.denominator), digits), exact)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.numerator)?;
        match self.denominator.bits() {
            1 => Ok(()),
            _ => write!(f, "/{}", self.denominator),
        }
    }
}

impl FromStr for Fraction {
    type Err = InvalidNumber;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNumber { expected: "a fraction", text: text.to_owned() };
        let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
        let denominator: BigUint = denominator.parse().map_err(|_| invalid())?;
        if denominator.bits() == 0 {
            return Err(invalid());
        }
        Ok(Fraction::new(numerator.parse().map_err(|_| invalid())?, denominator))
    }
}

/// Rounds an exact amount to the currency's minor unit, half to even.
///
/// The only place where money is rounded; called once for each invoice line.
pub fn round_to_minor_unit(amount: &Fraction, currency: Currency) -> Money {
    let digits = currency.minor_digits();
    let scaled = amount.numerator.magnitude() * BigUint::from(10u8).pow(digits);
    let floor = &scaled / &amount.denominator;
    let twice_the_rest = (scaled % &amount.denominator) * 2u8;
    let up = match twice_the_rest.cmp(&amount.denominator) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => floor.bit(0),
    };
    let magnitude = floor + u8::from(up);
    Money { minor: BigInt::from_biguint(amount.numerator.sign(), magnitude), digits }
}

impl Money {
    /// No money, in a currency.
    pub fn zero(currency: Currency) -> Self {
        Money { minor: BigInt::ZERO, digits: currency.minor_digits() }
    }

    /// Digits of the minor unit.
    pub fn digits(&self) -> u32 {
        self.digits
    }

    /// The sum of two amounts of one currency.
    ///
    /// # Panics
    /// When the currencies have different minor units: money of two currencies never adds up.
    pub fn plus(&self, other: &Money) -> Money {
        assert_eq!(self.digits, other.digits, "money of one currency is added");
        Money { minor: &self.minor + &other.minor, digits: self.digits }
    }

    /// This amount less another of the same currency. Panics as [`Money::plus`] does.
    pub fn minus(&self, other: &Money) -> Money {
        self.plus(&Money { minor: -&other.minor, digits: other.digits })
    }

    /// Whether this is no money.
    pub fn is_zero(&self) -> bool {
        self.minor.sign() == Sign::NoSign
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let negative = self.minor.sign() == Sign::Minus;
        f.write_str(&fixed_point(negative, self.minor.magnitude(), self.digits))
    }
}

impl FromStr for Money {
    type Err = InvalidNumber;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNumber { expected: "an amount of money", text: text.to_owned() };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = u32::try_from(fraction.len()).map_err(|_| invalid())?;
        let minor = format!("{whole}{fraction}").parse().map_err(|_| invalid())?;
        let money = Money { minor, digits };
        if money.to_string() == text { Ok(money) } else { Err(invalid()) }
    }
}

fn greatest_common_divisor(mut left: BigUint, mut right: BigUint) -> BigUint {
    while right.bits() > 0 {
        (left, right) = (right.clone(), left % right);
    }
    left
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Fraction);
as_text!(Money);

#[cfg(test)]
mod tests {
    use super::*;

    fn fraction(text: &str) -> Fraction {
        text.parse().unwrap()
    }

    #[test]
    fn rounding_is_half_to_even() {
        let cases = [
            ("0.004", "0.00"),
            ("0.005", "0.00"),
            ("0.0051", "0.01"),
            ("0.015", "0.02"),
            ("0.025", "0.02"),
            ("0.035", "0.04"),
            ("0.045", "0.04"),
            ("2.675", "2.68"),
            ("2.665", "2.66"),
            ("-0.005", "0.00"),
            ("-0.015", "-0.02"),
            ("-0.025", "-0.02"),
            ("-2.6751", "-2.68"),
            ("99999999999999999999.995", "100000000000000000000.00"),
        ];
        let euro = "EUR".parse().unwrap();
        for (text, expected) in cases {
            let digits = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            let exact = fraction(&format!("{}/1{}", text.replace('.', ""), "0".repeat(digits)));
            assert_eq!(round_to_minor_unit(&exact, euro).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn the_minor_unit_is_the_currency_s() {
        for (code, expected) in [("EUR", "0.67"), ("JPY", "1"), ("KWD", "0.667")] {
            let money = round_to_minor_unit(&fraction("2/3"), code.parse().unwrap());
            assert_eq!(money.to_string(), expected);
            assert_eq!(expected.parse::<Money>().unwrap(), money);
        }
    }

    #[test]
    fn sums_are_exact_and_in_lowest_terms() {
        let third = fraction("1/3");
        let one = third.plus(&third).plus(&third);
        assert_eq!(one, fraction("7/7"));
        assert_eq!(one.to_string(), "1");
        assert_eq!(third.plus(&fraction("-2/6")), Fraction::zero());
        assert_eq!(third.truncated(4), ("0.3333".to_owned(), false));
        assert_eq!(fraction("-1/8").truncated(3), ("-0.125".to_owned(), true));
    }

    #[test]
    fn only_what_would_be_written_is_read() {
        for text in ["1/0", "", "/", "1/-2", "a"] {
            assert!(text.parse::<Fraction>().is_err(), "{text}");
        }
        for text in ["", ".5", "1.", "+1.00", "-0.00", "1e2", "01.00"] {
            assert!(text.parse::<Money>().is_err(), "{text}");
        }
    }
}
