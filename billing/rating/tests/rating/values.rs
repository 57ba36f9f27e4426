//! What values say of themselves.

use nilometer_contract::Timestamp;
use nilometer_rating::{
    Currency, Fraction, MAX_BOOK_BYTES, MAX_ENTRIES, Money, Pattern, Period, Price, PriceBook,
};
use nilometer_usage::Quantity;

const BOOK: &str = "name = 'b'\ncurrency = 'JPY'\n\
    [[price]]\nmeter = 'memory.usage'\nprice = '0.5'\nper = ' GiB * hour'\n\
    match = { flavor = 'm1.*' }\ndescription = 'memory'\n\
    [[price]]\nmeter = 'cpu.time'\nprice = '3'\nper = 'hour'\n";

#[test]
fn a_book_says_what_it_holds() {
    let book = PriceBook::parse(BOOK).unwrap();
    assert_eq!(book.currency(), "JPY".parse().unwrap());
    assert_eq!(book.heading().name, "b");
    assert_eq!(book.version(), book.heading().version);
    assert_eq!(book.entries().len(), 2);
    assert_eq!(book.meters().collect::<Vec<_>>(), ["cpu.time", "memory.usage"]);
    assert!(book.has_meter("cpu.time") && !book.has_meter("energy"));
    for entry in book.entries() {
        assert_eq!(book.entry(&entry.id), Some(entry));
    }
    assert_eq!(book.entry("none"), None);
    assert!(PriceBook::built_in_text().starts_with("# An example price book"));
    let built_in = PriceBook::parse(PriceBook::built_in_text()).unwrap();
    assert_eq!(built_in.version(), PriceBook::built_in().version());
}

#[test]
fn a_book_holds_no_more_than_its_bounds() {
    let padded = |bytes: usize| {
        let text = format!("{BOOK}#{}", "x".repeat(bytes - BOOK.len() - 1));
        PriceBook::parse(&text).is_ok()
    };
    assert!(padded(MAX_BOOK_BYTES) && !padded(MAX_BOOK_BYTES + 1));
    let entries = |count: usize| {
        let heading = "name = 'b'\ncurrency = 'EUR'\n".to_owned();
        let entry = |n| {
            format!(
                "[[price]]\nmeter = 'cpu.time'\nprice = '1'\nper = 'hour'\nmatch = {{ a = '{n}' }}\n"
            )
        };
        let text = (0..count).map(entry).fold(heading, |text, entry| text + &entry);
        PriceBook::parse(&text).is_ok()
    };
    assert!(entries(MAX_ENTRIES) && !entries(MAX_ENTRIES + 1));
}

#[test]
fn an_entry_says_what_it_prices() {
    let book = PriceBook::parse(BOOK).unwrap();
    let entry = &book.entries()[0];
    assert_eq!((&*entry.meter, &*entry.usage_unit), ("memory.usage", "byte_seconds"));
    assert_eq!((entry.per.as_str(), entry.per.to_string()), ("GiB*hour", "GiB*hour".to_owned()));
    assert_eq!(entry.per.units(), 3_600 << 30);
    assert_eq!(entry.description.as_deref(), Some("memory"));
    let pattern = &entry.matches["flavor"];
    assert_eq!((pattern.as_str(), pattern.to_string()), ("m1.*", "m1.*".to_owned()));
    let gib_hours = |count: i128| Quantity(count * (3_600 << 30) * 1_000_000_000_000);
    assert_eq!(entry.count_in(gib_hours(3)).to_string(), "3");
    assert_eq!(entry.amount_of(gib_hours(3)).to_string(), "3/2");
    let price: Price = "0.50".parse().unwrap();
    assert_eq!((price.digits(), price.scale(), price.to_string()), (50, 2, "0.50".to_owned()));
    assert_eq!(Pattern::new("a*").to_string(), "a*");
}

#[test]
fn money_keeps_the_digits_of_its_currency() {
    let money = |text: &str| text.parse::<Money>().unwrap();
    let euro: Currency = "EUR".parse().unwrap();
    assert_eq!((euro.code(), euro.to_string(), euro.minor_digits()), ("EUR", "EUR".to_owned(), 2));
    assert_eq!(Money::zero(euro), money("0.00"));
    assert_eq!((money("1.25").digits(), money("7").digits()), (2, 0));
    assert!(money("0.00").is_zero() && !money("-0.01").is_zero());
    assert_eq!(money("1.25").plus(&money("0.80")), money("2.05"));
    assert_eq!(money("1.25").minus(&money("2.00")), money("-0.75"));
    for wrong in ["", "1,25", "01", "1.", ".5", "+1", "-0.00", "1.2.3", "1e3"] {
        assert!(wrong.parse::<Money>().is_err(), "{wrong}");
    }
    let texts = ["3/2", "-1/3", "7", "0"];
    for text in texts {
        assert_eq!(text.parse::<Fraction>().unwrap().to_string(), text);
    }
    assert_eq!("6/4".parse::<Fraction>().unwrap().to_string(), "3/2", "in lowest terms");
    for wrong in ["", "1/0", "a", "1/-2", "1/2/3"] {
        assert!(wrong.parse::<Fraction>().is_err(), "{wrong}");
    }
    assert_eq!(Fraction::zero().to_string(), "0");
    assert_eq!("1/3".parse::<Fraction>().unwrap().negated().to_string(), "-1/3");
}

#[test]
fn a_period_holds_what_lies_between_its_ends() {
    let period = Period::parse("2026-11-01", "2026-11-02", "Europe/Berlin").unwrap();
    let hour = |hours: i64| Timestamp(period.start().0 + hours * 3_600_000_000);
    assert_eq!(period.start().to_string(), "2026-10-31T23:00:00Z");
    assert_eq!((period.end(), period.zone()), (hour(24), "Europe/Berlin"));
    assert_eq!(period.to_string(), "2026-10-31T23:00:00Z to 2026-11-01T23:00:00Z (Europe/Berlin)");
    for (start, end, expected) in [(0, 24, true), (-1, 24, false), (0, 25, false), (3, 4, true)] {
        assert_eq!(period.contains(hour(start), hour(end)), expected, "{start} {end}");
    }
    let length = |start: &str, end: &str| Period::parse(start, end, "UTC").is_ok();
    assert!(length("2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"));
    assert!(!length("2026-01-01T01:00:00Z", "2026-01-01T01:00:00Z"));
    assert!(!length("2026-01-02", "2026-01-01"));
    assert!(length("2026-01-01", "2035-12-31") && !length("2026-01-01", "2036-02-01"));
}
