//! What nobody declared, from the sample to the line of an invoice; and long hold times.

use std::sync::Arc;

use nilometer_contract::{
    BatchBuilder, Catalogue, Labels, MeterKind, Origin, Resource, Scope, Statement, Subject,
    catalogue, encode, partition_of,
};
use nilometer_engine::Selection;
use nilometer_ingest::IngestConfig;
use nilometer_rating::{Detail, PriceBook};

use crate::bed::{Bed, Later, PARTITIONS, ingest_config, period, second, window};
use crate::script::{MINUTE, Record, Topic};

const BOOK: &str = "name = 'open'\ncurrency = 'EUR'\n\
    [[price]]\nmeter = 'llm.tokens'\nunit = 'tokens'\nkind = 'model'\nprice = '2'\nper = '1000'\n\
    [[price]]\nmeter = 'llm.tokens'\nunit = 'tokens'\nkind = 'model'\n\
    labels = { tier = 'gold*' }\nprice = '3'\nper = '1000'\n";

/// A record of a meter, a kind and a label that no catalogue has: tokens of two tiers.
fn tokens() -> Record {
    let mut model = Resource::new("model-1", "model".parse().unwrap());
    model.project = "acme".to_owned();
    let stated = Statement { kind: Some(MeterKind::Delta), unit: Some("tokens".parse().unwrap()) };
    let mut batch = BatchBuilder::new("gateway");
    let meter = batch.meter("llm.tokens", &stated);
    for (tier, tokens) in [("basic", 500.0), ("gold-plus", 250.0)] {
        let labels = Labels::new([("tier", tier)]).unwrap();
        let subject = batch.subject(Subject::from(&model).with_labels(labels));
        for n in 0..4 {
            batch.add(subject, meter, second(600 + n * 60), tokens);
        }
    }
    let payload = encode(&batch.build()).unwrap().remove(0).into();
    let partition = partition_of("model-1", PARTITIONS);
    Record { topic: Topic::Samples, partition, at: second(780), rows: 8, payload }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_declared_is_stored_asked_for_metered_priced_and_billed() {
    let bed = Bed::new();
    bed.append(&[tokens()]).await;
    let site = bed.start(&PriceBook::parse(BOOK).unwrap()).await;
    site.holds(8, 0).await;
    let samples = "SELECT kind, count(*), sum(value) FROM samples WHERE labels = \
                   '{\"tier\":\"basic\"}' AND meter = 'llm.tokens' GROUP BY kind";
    assert_eq!(site.csv(samples).await.lines().nth(1), Some("model,4,2000.0"));
    let meters = "SELECT kind, unit, origin, learnt_from FROM meters WHERE meter = 'llm.tokens'";
    assert_eq!(site.csv(meters).await.lines().nth(1), Some("delta,tokens,learnt,gateway"));
    let kinds = "SELECT declared FROM kinds WHERE kind = 'model'";
    assert_eq!(site.csv(kinds).await.lines().nth(1), Some("false"));
    let usage = site
        .engine
        .meter()
        .usage(&Scope::system(), window(0, 1), &Selection::default())
        .await
        .unwrap();
    let usage: Vec<_> =
        usage.iter().map(|row| (row.labels.as_str(), row.quantity.to_string())).collect();
    // The newest amount counts once there is a later instant.
    let expected = [("{\"tier\":\"basic\"}", "1500"), ("{\"tier\":\"gold-plus\"}", "750")];
    assert_eq!(usage, expected.map(|(labels, quantity)| (labels, quantity.to_owned())));
    let draft = site
        .ledger
        .invoices
        .draft(&Scope::system(), "acme", &period(0, 1), Detail::Resources)
        .await
        .unwrap();
    let lines = draft.lines.iter().map(|line| (line.quantity.to_string(), line.amount.to_string()));
    let expected = [("1500", "3.00"), ("750", "2.25")];
    let expected = expected.map(|(quantity, amount)| (quantity.to_owned(), amount.to_owned()));
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    assert_eq!(draft.total.to_string(), "5.25");
    site.stop().await;
}

/// A gauge that is read once an hour and holds for two: usage reads as far around a window as the
/// catalogue lets one sample speak.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_counts_for_as_long_as_its_meter_holds() {
    let mut declared: Catalogue = catalogue().clone();
    let text = "[[meter]]\nname = 'tape.size'\nkind = 'gauge'\nunit = 'bytes'\n\
                hold_seconds = 7200\n";
    declared.add(text, Origin::File("tape.toml".into())).unwrap();
    let bed = Bed::new();
    let mut batch = BatchBuilder::new("library");
    let mut tape = Resource::new("tape-1", "tape".parse().unwrap());
    tape.project = "acme".to_owned();
    let subject = batch.subject(Subject::from(&tape));
    for minute in [0, 60, 121, 300] {
        let at = second(0).plus_micros(minute * MINUTE);
        batch.push_named(subject, "tape.size", at, 10.0);
    }
    let payload = encode(&batch.build()).unwrap().remove(0).into();
    let partition = partition_of("tape-1", PARTITIONS);
    bed.append(&[Record { topic: Topic::Samples, partition, at: second(0), rows: 4, payload }])
        .await;
    let config = IngestConfig { catalogue: Arc::new(declared), ..ingest_config() };
    let site = bed.start_with(&PriceBook::built_in(), Arc::new(Later), config).await;
    site.holds(4, 0).await;
    for (from, upto, held) in
        [(0, 1, 3_600), (1, 2, 3_600), (2, 3, 3_600), (3, 4, 3_600), (4, 5, 60)]
    {
        let of = site
            .engine
            .meter()
            .usage(&Scope::system(), window(from, upto), &Selection::default())
            .await
            .unwrap();
        let sum: i128 = of.iter().map(|row| row.quantity.0).sum();
        assert_eq!(sum, held * 10 * 1_000_000_000_000, "hour {from}");
    }
    site.stop().await;
}
