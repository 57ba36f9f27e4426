//! Rating as an accountant would check it: cases in text, properties over random usage.

mod case;
mod properties;
mod seal;
mod values;

use std::path::Path;

use nilometer_rating::PriceBook;

/// Runs every `*.case` file in `tests/cases`. `NILOMETER_BLESS=1` writes what came out into them.
#[test]
fn cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "cases are found");
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let found = case::run(&text);
        if std::env::var_os("NILOMETER_BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        } else {
            assert_eq!(found, text, "{}", path.display());
        }
    }
}

#[test]
fn canonical_text_reads_back_as_the_same_book() {
    let book = PriceBook::built_in();
    let again = PriceBook::parse(book.canonical_text()).unwrap();
    assert_eq!(again.version(), book.version());
    assert_eq!(again.entries(), book.entries());
    assert_eq!(again.canonical_text(), book.canonical_text());
}

#[test]
fn comments_and_order_of_keys_change_no_version_but_prices_do() {
    let version = |text: &str| PriceBook::parse(text).unwrap().version().to_owned();
    let book = "name = 'b'\ncurrency = 'EUR'\n[[price]]\nmeter = 'cpu.time'\nprice = '0.02'\n\
        per = 'hour'\nmatch = { \"label.tier\" = 'gold', flavor = 'm*' }";
    let same = "# ours\ncurrency = \"EUR\"\nname = \"b\"\n[[price]]\nper = \" hour\"\n\
        price = \"0.02\"\nmeter = \"cpu.time\"\n[price.match]\nflavor = \"m*\"\nlabel.tier = \"gold\"";
    assert_eq!(version(book), version(same));
    // Fixed for ever: charges in use name books by it.
    assert_eq!(version(book), "b@cb1ada268ea0ec0e");
    assert_ne!(version(book), version(&book.replace("0.02", "0.020")));
}
