//! From floats to integers, once; and exact shares of integers (invariant 9).

/// Scale of counters and deltas: readings in 10⁻⁹ units.
pub(crate) const NANO: u64 = 1_000_000_000;
/// Scale of gauges: levels in 10⁻⁶ units, which times microseconds are pico-unit seconds.
pub(crate) const MICRO: u64 = 1_000_000;
/// Pico-units in a nano-unit.
pub(crate) const PICO_PER_NANO: i128 = 1_000;

const FRACTION_BITS: u32 = 52;
const EXPONENT_MASK: u64 = 0x7ff;
/// Biased exponent of 2⁶³: from here on, and for infinities and NaN, a value is no reading.
const EXPONENT_OF_BOUND: u64 = 1023 + 63;

/// `value × scale`, correctly rounded to an integer, half to even; `None` when the value is not
/// finite or not below 2⁶³ in magnitude. The magnitude of the result is below 2⁹³.
///
/// No float is computed with: the value is taken apart into its mantissa and its exponent. So it
/// is exact for every integer, and for every fraction that has the scale's places.
#[inline]
pub(crate) fn fixed(value: f64, scale: u64) -> Option<i128> {
    debug_assert!(scale <= NANO, "a mantissa times the scale stays below 2^83");
    let bits = value.to_bits();
    let exponent = (bits >> FRACTION_BITS) & EXPONENT_MASK;
    if exponent >= EXPONENT_OF_BOUND {
        return None;
    }
    let fraction = bits & ((1 << FRACTION_BITS) - 1);
    let implied = u64::from(exponent != 0) << FRACTION_BITS;
    let scaled = u128::from(fraction | implied) * u128::from(scale);
    // value = mantissa / 2^shift; a negative shift is at least -10.
    let shift = 1075 - exponent.max(1) as i32;
    let magnitude = match shift {
        ..=0 => scaled << -shift,
        1..=84 => {
            let whole = scaled >> shift;
            let rest = scaled & ((1_u128 << shift) - 1);
            let half = 1_u128 << (shift - 1);
            whole + u128::from(rest > half || (rest == half && whole & 1 == 1))
        }
        // Below 2^83 over at least 2^85: less than a half.
        _ => 0,
    };
    let magnitude = magnitude as i128;
    Some(if value.is_sign_negative() { -magnitude } else { magnitude })
}

/// `floor(whole × part / of)`, exact, for `0 ≤ part ≤ of` and `of > 0`.
///
/// The cumulative share of something spread evenly: shares between consecutive instants
/// telescope, so the parts of any split sum to the whole. With `whole = q × of + r` it is
/// `q × part + floor(r × part / of)`, where nothing exceeds 126 bits beyond `whole` itself.
pub(crate) fn share(whole: i128, part: i64, of: i64) -> i128 {
    assert!(0 <= part && part <= of && of > 0, "a share is between nothing and all");
    if part == of {
        return whole;
    }
    let (part, of) = (i128::from(part), i128::from(of));
    whole.div_euclid(of) * part + whole.rem_euclid(of) * part / of
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quantity::scaled_decimal;

    /// What the standard library's exact decimal formatting says, rounded half to even.
    fn by_text(value: f64, places: u32) -> i128 {
        let text = format!("{value:.0$}", places as usize);
        let digits = text.strip_prefix('-').unwrap_or(&text);
        scaled_decimal(digits, places, text.starts_with('-')).unwrap()
    }

    #[test]
    fn readings_are_exact_or_correctly_rounded() {
        let two_53 = 9_007_199_254_740_992.0_f64;
        for (value, nano) in [
            (0.0, 0),
            (-0.0, 0),
            (0.1, 100_000_000),
            (-2.5, -2_500_000_000),
            (two_53, 9_007_199_254_740_992_000_000_000),
            (two_53 - 1.0, 9_007_199_254_740_991_000_000_000),
            (9_223_372_036_854_774_784.0, 9_223_372_036_854_774_784_000_000_000),
            (f64::MIN_POSITIVE, 0),
            (5e-324, 0),
            // Ties: 2^-10 s is 976562.5 ns, three times that 2929687.5 ns.
            (0.0009765625, 976_562),
            (0.0029296875, 2_929_688),
        ] {
            assert_eq!(fixed(value, NANO), Some(nano), "{value}");
        }
    }

    #[test]
    fn what_is_not_finite_or_too_large_is_no_reading() {
        let two_63 = 9_223_372_036_854_775_808.0;
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, two_63, -two_63, 1e300] {
            assert_eq!(fixed(value, NANO), None, "{value}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn rounding_agrees_with_exact_decimal_text(
            value in prop_oneof![-1e18..1e18_f64, -1e6..1e6_f64, -1.0..1.0_f64, -1e-8..1e-8_f64],
            tie in -1_000_000_000_i64..1_000_000_000,
        ) {
            for value in [value, tie as f64 / 1024.0] {
                prop_assert_eq!(fixed(value, NANO), Some(by_text(value, 9)));
                prop_assert_eq!(fixed(value, MICRO), Some(by_text(value, 6)));
            }
        }

        #[test]
        fn a_share_is_a_floor(whole in -1e12 as i128..1e12 as i128, of in 1..1_000_000_i64, part in any::<prop::sample::Index>()) {
            let part = part.index(of as usize + 1) as i64;
            let floor = (whole * i128::from(part)).div_euclid(i128::from(of));
            prop_assert_eq!(share(whole, part, of), floor);
        }

        #[test]
        fn shares_of_the_largest_things_fit(whole in -(1_i128 << 126)..1_i128 << 126, of in 1..i64::MAX, part in any::<prop::sample::Index>()) {
            let part = part.index(of as usize) as i64;
            let cut = share(whole, part, of);
            prop_assert!((0.min(whole)..=0.max(whole)).contains(&cut));
        }
    }
}
