//! A clock that steps bills nothing twice (invariant 8a), through log, tables and engine.

use nilometer_contract::{
    BatchBuilder, Change, Epoch, GAPS, Gap, GapKind, LifecycleEvent, Resource, ResourceKind,
    SAMPLES, Timestamp,
};
use nilometer_engine::Limits;

use crate::estate::{Estate, Lie, T0};

/// What a node's agent tells: one core busy all the time, read every 10 s of steady time. Its
/// wall clock is `offset` seconds ahead at each of the steps.
struct Told {
    estate: Estate,
    steady: i64,
    sequence: u64,
}

impl Told {
    async fn new() -> Self {
        let mut estate = Estate::new(Limits::default()).await;
        let mut node = Resource::new("n1", ResourceKind::NODE);
        node.node = "n1".to_owned();
        let (at, source) = (Timestamp::from_seconds(T0), "host".to_owned());
        let event = LifecycleEvent { change: Change::Created, at, resource: node, source };
        estate.event(&event).await;
        Told { estate, steady: 0, sequence: 0 }
    }

    /// Reads for so many seconds by a clock that is `offset` seconds ahead.
    async fn reads(&mut self, seconds: i64, offset: i64) {
        self.sequence += 1;
        let wall = |steady: i64| Timestamp::from_seconds(T0 + steady + offset);
        let instance = "n1/test".to_owned();
        let epoch = Epoch { instance, sequence: self.sequence, start: wall(self.steady) };
        for _ in 0..seconds / 10 {
            self.steady += 10;
            let mut samples = BatchBuilder::new("host").in_epoch(epoch.clone());
            let mut node = Resource::new("n1", ResourceKind::NODE);
            node.node = "n1".to_owned();
            let subject = samples.subject(&node);
            let at = wall(self.steady);
            samples.push_named(subject, "cpu.time", at, self.steady as f64);
            samples.push_named(subject, "memory.usage", at, 1.0);
            self.estate.samples(samples).await;
        }
    }

    async fn usage(&mut self, lie: Lie) -> String {
        self.estate.settle(lie).await;
        let rows = self.estate.ask(
            "SELECT meter, sum(quantity) AS quantity, max(coverage) <= 1 AS sane FROM usage \
             WHERE meter IN ('cpu.time', 'memory.usage') GROUP BY meter ORDER BY meter",
        );
        rows.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_back_bills_what_was_used() {
    for lie in [Lie::InMemory, Lie::InFiles] {
        let mut told = Told::new().await;
        told.reads(200, 0).await;
        told.reads(160, -100).await;
        let usage = told.usage(lie).await;
        assert!(usage.contains("cpu.time     | 360.000000000000 | true"), "{usage}");
        // By the clock that was put right, 250 s passed from the first reading to the last.
        assert!(usage.contains("memory.usage | 250.000000000000 | true"), "{usage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_both_ways_bill_what_was_used() {
    let mut told = Told::new().await;
    told.reads(200, 0).await;
    told.reads(100, 3_600).await;
    told.reads(100, -50).await;
    told.reads(100, 20_000).await;
    told.reads(100, 0).await;
    let usage = told.usage(Lie::InFiles).await;
    assert!(usage.contains("cpu.time     | 600.000000000000 | true"), "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_does_not_reach_into_a_gap() {
    let mut told = Told::new().await;
    told.reads(100, 0).await;
    let gap = |node: &str| Gap {
        kind: GapKind::Unobserved,
        agent: node.to_owned(),
        node: node.to_owned(),
        sources: Vec::new(),
        topic: SAMPLES.to_owned(),
        partition: None,
        start: Timestamp::from_seconds(T0 + 105),
        end: Timestamp::from_seconds(T0 + 190),
        records: 0,
        samples: 0,
        reason: "the process or its machine stood still".to_owned(),
    };
    for node in ["n1", "n2"] {
        let gap = gap(node).encode().unwrap();
        told.estate.append(GAPS, 0, vec![gap.into()]).await;
    }
    told.steady = 190;
    told.reads(100, 0).await;
    let usage = told.usage(Lie::InMemory).await;
    // From 10 s to the gap, and from 200 s on to the last reading.
    assert!(usage.contains("memory.usage | 185.000000000000 | true"), "{usage}");
    assert!(usage.contains("cpu.time     | 290.000000000000 | true"), "{usage}");
}
