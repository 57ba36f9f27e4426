//! A second pipeline that is given, in peace, what is left, and the gaps: its bills are what the
//! first one's must be.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use nilometer_clock::SystemClock;
use nilometer_contract::{
    BatchBuilder, EVENTS, GAPS, Gap, GapKind, Labels, LifecycleEvent, SAMPLES, Subject, Timestamp,
    catalogue, encode, partition_of,
};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Log, TopicConfig, TopicPartition};

use crate::held::TOPICS;
use crate::oracle::{Identity, Oracle, PARTITIONS, identities};
use crate::process::{Server, Settings};

/// What is left of what the fleet said.
pub(crate) struct Left<'a> {
    /// Samples that are gone.
    pub(crate) missing: &'a BTreeSet<Identity>,
    /// Ids of events that are gone.
    pub(crate) unheard: &'a BTreeSet<String>,
    /// What agents said later of the resources of these.
    pub(crate) said_again: Vec<LifecycleEvent>,
    pub(crate) gaps: &'a [Gap],
}

/// Its biller.
pub(crate) async fn biller(
    folder: &Path,
    oracle: &Oracle,
    left: &Left<'_>,
) -> anyhow::Result<Server> {
    let folder = folder.join("twin");
    std::fs::create_dir_all(&folder)?;
    let settings = Settings::write(&folder, &oracle.configuration("")?)?;
    fill(&settings, oracle, left).await?;
    let mut ingester = Server::start(&settings, "ingest")?;
    oracle.settle_without(left.missing.len() as u64, &ingester).await;
    ingester.stop()?;
    Server::start(&settings, "bill")
}

async fn fill(settings: &Settings, oracle: &Oracle, left: &Left<'_>) -> anyhow::Result<()> {
    let log =
        EmbeddedLog::open(EmbeddedConfig::new(settings.data().join("log")), Arc::new(SystemClock))?;
    for (name, partitions) in TOPICS {
        let retention = std::time::Duration::from_secs(7 * 86_400);
        log.ensure_topic(&TopicConfig { name: name.to_owned(), partitions, retention }).await?;
    }
    let append = async |topic: &str, partition: u32, payloads: Vec<Vec<u8>>| {
        let to = TopicPartition { topic: topic.to_owned(), partition };
        log.append(&to, payloads.into_iter().map(Into::into).collect()).await
    };
    let said = oracle.said().iter().flat_map(|(_, events)| events);
    let heard = said.filter(|event| !left.unheard.contains(&event.id()));
    for event in heard.chain(&left.said_again) {
        let partition = partition_of(&event.resource.id, PARTITIONS);
        append(EVENTS, partition, vec![event.encode()?]).await?;
    }
    for (batch, _) in oracle.said() {
        let mut rest = BatchBuilder::new(batch.source.clone());
        for (row, identity) in identities(batch).enumerate() {
            let place = batch.resource[row] as usize;
            let Some(meter) = catalogue().find(&identity.0) else { continue };
            if left.missing.contains(&identity) {
                continue;
            }
            let subject = rest.subject(Subject {
                id: identity.1,
                kind: batch.subjects.kind.value(place).parse()?,
                project: batch.subjects.project.value(place).to_owned(),
                node: batch.subjects.node.value(place).to_owned(),
                labels: Labels::none(),
            });
            rest.push(subject, meter, Timestamp(batch.at[row]), batch.value[row]);
        }
        for (partition, part) in rest.build_partitioned(PARTITIONS) {
            append(SAMPLES, partition, encode(&part)?).await?;
        }
    }
    for gap in
        left.gaps.iter().filter(|gap| [GapKind::Lost, GapKind::Unobserved].contains(&gap.kind))
    {
        append(GAPS, 0, vec![gap.encode()?]).await?;
    }
    Ok(())
}
