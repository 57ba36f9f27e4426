//! Order, repeats, cuts and restarts change nothing of what is stored.

use proptest::prelude::*;

use crate::place::{PARTITIONS, Place, Sample, event, hasty, lines, patient};

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// Samples of the set, by place, as one record.
    Samples(u32, Vec<prop::sample::Index>),
    /// An event of the set.
    Event(u32, prop::sample::Index),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let partition = 0..PARTITIONS;
    let samples = prop::collection::vec(any::<prop::sample::Index>(), 1..12);
    prop_oneof![
        8 => (partition.clone(), samples).prop_map(|(at, some)| Step::Samples(at, some)),
        3 => (partition, any::<prop::sample::Index>()).prop_map(|(at, one)| Step::Event(at, one)),
        1 => Just(Step::Restart),
    ]
}

/// Sixty identities, some of them days apart.
fn sample(place: usize) -> Sample<'static> {
    let meter = ["cpu.time", "memory.usage"][place % 2];
    let resource = ["vm-a", "vm-b", "vm-c"][place % 3];
    (meter, resource, (place as i64 / 6) * 40_000, place as f64)
}

async fn replay(steps: &[Step], hurry: bool) -> (Vec<String>, Vec<String>) {
    let place = Place::new();
    let config = || if hurry { hasty() } else { patient() };
    let mut sent = std::collections::BTreeSet::new();
    let mut happened = std::collections::BTreeSet::new();
    for step in steps {
        match step {
            Step::Samples(partition, some) => {
                let places: Vec<usize> = some.iter().map(|index| index.index(60)).collect();
                sent.extend(places.iter().copied());
                let samples: Vec<_> = places.into_iter().map(sample).collect();
                place.samples(*partition, &samples).await;
            }
            Step::Event(partition, one) => {
                let one = one.index(20) as i64;
                happened.insert(one);
                let event = event(nilometer_contract::Change::Changed, "vm-a", one);
                place.event(*partition, &event).await;
            }
            Step::Restart => drop(place.ingest(config()).await),
        }
    }
    place.ingest(config()).await;
    let samples: Vec<_> = sent.into_iter().map(sample).collect();
    assert_eq!(place.stored_in("events").await.len(), happened.len());
    assert!(place.stored_in("dead_letters").await.is_empty());
    (place.stored_in("samples").await, lines(&samples))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn any_split_order_and_repetition_gives_the_same_set(
        steps in prop::collection::vec(step(), 1..30),
        hurry: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (stored, expected) = runtime.block_on(replay(&steps, hurry));
        prop_assert_eq!(stored, expected);
    }
}
