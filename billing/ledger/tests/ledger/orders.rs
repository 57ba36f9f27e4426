//! The same input gives the same bytes: in order or shuffled, once or twice, settled at once or
//! in between, on one thread or on four.

use std::fmt::Write;

use nilometer_rating::{Detail, PriceBook};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::bed::{Bed, Site, hour, period};
use crate::bills::projects;
use crate::script::{MINUTE, Record, counts, fleet, lively};

/// How the same input comes.
#[derive(Clone, Copy, Debug)]
struct Way {
    threads: usize,
    seed: Option<u64>,
    /// Parts after which hours are settled.
    parts: usize,
}

/// All usage and all bills of the first two hours.
async fn outcome(site: &Site) -> String {
    let mut text = site
        .csv(&format!(
            "SELECT * FROM usage WHERE \"start\" < TIMESTAMP '{}' \
             ORDER BY \"start\", \"end\", resource, meter, project",
            hour(2)
        ))
        .await;
    for project in projects(site) {
        let issued =
            site.ledger.invoices.issue(&project, &period(0, 2), Detail::Resources, hour(9)).await;
        let issued = issued.unwrap();
        // All but the version of the samples, which tells how many commits there were.
        let mut invoice = (*issued).clone();
        (invoice.known, invoice.digest) = (None, None);
        write!(text, "{}", invoice.to_json()).unwrap();
    }
    text
}

fn run(records: &[Record], way: Way) -> String {
    let mut records = records.to_vec();
    let (samples, events) = counts(&records);
    if let Some(seed) = way.seed {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let again = records.clone();
        records.extend(again.into_iter().filter(|_| random.random_bool(0.2)));
        records.shuffle(&mut random);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(way.threads)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bed = Bed::new();
        let site = bed.start(&PriceBook::built_in()).await;
        for part in records.chunks(records.len().div_ceil(way.parts)) {
            bed.append(part).await;
            site.settle().await;
        }
        site.holds(samples, events).await;
        site.settle().await;
        let text = outcome(&site).await;
        site.stop().await;
        text
    })
}

#[test]
fn order_repeats_and_threads_change_no_byte() {
    let records = fleet(&lively(41), hour(3).plus_micros(10 * MINUTE));
    let straight = run(&records, Way { threads: 1, seed: None, parts: 1 });
    assert!(straight.lines().count() > 500);
    for way in [
        Way { threads: 4, seed: None, parts: 4 },
        Way { threads: 1, seed: Some(7), parts: 1 },
        Way { threads: 4, seed: Some(8), parts: 5 },
    ] {
        assert!(run(&records, way) == straight, "{way:?}");
    }
}
