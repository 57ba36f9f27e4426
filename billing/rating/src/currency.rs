//! Currencies: ISO 4217 codes and how many digits their minor units have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::suggest::nearest;

/// Active national currencies with two digits.
const TWO: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP \
    BYN BZD CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS \
    GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD \
    LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN \
    PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL \
    THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW";
const NONE: &str = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF";
const THREE: &str = "BHD IQD JOD KWD LYD OMR TND";

/// A currency that an invoice can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: [u8; 3],
    digits: u8,
}

/// A text that is not the code of a currency that an invoice can be written in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{code:?} is not a currency an invoice can be in{suggestion}; ISO 4217 codes with no minor \
     unit: {NONE}; with 3 digits: {THREE}; with 2 digits: {TWO}"
)]
pub struct UnknownCurrency {
    /// What was written.
    pub code: String,
    suggestion: String,
}

impl Currency {
    /// Number of digits of the minor unit: 2 for EUR, 0 for JPY, 3 for KWD.
    pub fn minor_digits(self) -> u32 {
        u32::from(self.digits)
    }

    /// The three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or("XXX")
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lists = [(TWO, 2), (NONE, 0), (THREE, 3)];
        for (codes, digits) in lists {
            if codes.split_ascii_whitespace().any(|code| code == text)
                && let Ok(code) = text.as_bytes().try_into()
            {
                return Ok(Currency { code, digits });
            }
        }
        let known = lists.iter().flat_map(|(codes, _)| codes.split_ascii_whitespace());
        let suggestion = nearest(&text.to_uppercase(), known);
        Err(UnknownCurrency { code: text.to_owned(), suggestion })
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_iso_4217_and_unknown_codes_list_the_known() {
        for (code, digits) in [("EUR", 2), ("JPY", 0), ("KWD", 3), ("CHF", 2), ("ISK", 0)] {
            assert_eq!(code.parse::<Currency>().unwrap().minor_digits(), digits, "{code}");
        }
        for wrong in ["", "XXX", "eur", "EURO", "E"] {
            let error = wrong.parse::<Currency>().unwrap_err().to_string();
            assert!(error.contains("JPY") && error.contains("KWD"), "{error}");
        }
        let error = "EURO".parse::<Currency>().unwrap_err().to_string();
        assert!(error.contains("did you mean \"EUR\"?"), "{error}");
    }
}
