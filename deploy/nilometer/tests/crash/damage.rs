//! Byte flips and a lost log: done to the bytes, with the processes down or up.
//!
//! ```text
//! agent killed or frozen ──▶ read what there is ──▶ destroy ──▶ ingester shows what it has
//!   what was destroyed − what log, spool and ingester have = gone; the agent goes on
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nilometer_clock::SystemClock;
use nilometer_log::{
    EmbeddedConfig, EmbeddedLog, KafkaConfig, KafkaLog, Log, TopicConfig, TopicPartition,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use crate::gone::{By, events};
use crate::held::{Held, Place, TOPICS, flip, in_log, in_segments, in_spools, in_tables};
use crate::oracle::{Identity, visible};
use crate::{LogKind, Run};

const PATIENCE: Duration = Duration::from_secs(120);
/// In which an ingester commits whatever it holds.
const COMMITTED: Duration = Duration::from_millis(2_500);
/// Records that wait for an ingester that stands still.
const BEHIND: f64 = 20.0;
/// Observations that the agent spools while the log is away.
const AWAY: f64 = 15.0;
/// A flip near the end of a log more often hits what is not stored yet.
const NEAR_END: usize = 3;

impl Run {
    /// Waits until agent and ingester have made what they keep on disk.
    pub(crate) async fn until_begun(&mut self) -> anyhow::Result<()> {
        let place = self.settings.data().join("simulated.json");
        let started = Instant::now();
        while !place.exists() || visible(&self.ingester).await.unwrap_or_default().is_empty() {
            if started.elapsed() > PATIENCE {
                bail!("nothing was stored in {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// The log is gone, with all that it held, and an empty one is in its place.
    pub(crate) async fn lose_log(&mut self) -> anyhow::Result<()> {
        let down = self.fall_behind().await?;
        let held = in_log(self.open_log()?.as_ref()).await?;
        match self.log {
            LogKind::Embedded => std::fs::remove_dir_all(self.settings.data().join("log"))?,
            LogKind::Kafka => self.recreate_topics().await?,
        }
        self.go_on(down, By::LostLog, held).await
    }

    /// A bit flips in a segment of the embedded log.
    pub(crate) async fn flip_log(&mut self) -> anyhow::Result<()> {
        let down = self.fall_behind().await?;
        let mut places = in_segments(&self.settings.data().join("log"))?;
        places.retain(|place| !self.flipped.contains_key(&place.file));
        if self.dice.roll(2) == 0 {
            let mut of_file: Vec<Place> = Vec::new();
            for place in places.into_iter().rev() {
                let same = of_file.iter().filter(|other| other.file == place.file).count();
                if same < NEAR_END {
                    of_file.push(place);
                }
            }
            places = of_file;
        }
        let hit = self.flip_one_of(places)?.map(|place| place.held);
        self.go_on(down, By::LogFlip, hit.into_iter().collect()).await
    }

    /// A bit flips in the agent's spool, after the log was away for a while.
    pub(crate) async fn flip_spool(&mut self) -> anyhow::Result<()> {
        self.say_nothing_again().await?;
        let (log, away) = (self.settings.data().join("log"), self.settings.data().join("log.away"));
        match &mut self.kafka {
            Some(kafka) => kafka.kill()?,
            None => {
                std::fs::rename(&log, &away)?;
                std::fs::write(&log, "not a folder")?;
            }
        }
        self.until_agent("nilometer_agent_append_errors_total", 1.0).await?;
        self.until_agent("nilometer_agent_observe_seconds_count", AWAY).await?;
        let down = self.stop_both()?;
        match &mut self.kafka {
            Some(kafka) => kafka.restart()?,
            None => {
                std::fs::remove_file(&log)?;
                std::fs::rename(&away, &log)?;
            }
        }
        let mut places = in_spools(&self.settings.data().join("spool"))?;
        places.retain(|place| !self.flipped.contains_key(&place.file));
        let hit = self.flip_one_of(places)?;
        let whole_header = hit.as_ref().is_some_and(|place| {
            self.flipped.get(&place.file).is_some_and(|byte| *byte >= place.payload)
        });
        let held = hit.map(|place| place.held).into_iter().collect();
        self.go_on(down, By::SpoolFlip { whole_header }, held).await
    }

    /// A bit flips in a file of a table, and is repaired from the log.
    pub(crate) async fn flip_table(&mut self) -> anyhow::Result<()> {
        let down = self.dice.roll(2) == 0;
        if down {
            self.ingester.kill()?;
        }
        let files = in_tables(&self.settings.data().join("tables"))?;
        if !files.is_empty() {
            let file = &files[self.dice.roll(files.len() as u64) as usize];
            let bytes = std::fs::metadata(file).map_or(0, |stat| stat.len());
            let byte = self.dice.roll(bytes.max(1));
            if bytes > 0 {
                self.say(&format!("flips byte {byte} of {}", file.display()));
                flip(file, byte as usize, self.dice.roll(8) as u32)?;
            }
            let said = self.settings.run("repair")?;
            self.say(said.lines().last().unwrap_or_default());
        }
        if down {
            self.ingester.start_again(&self.ingesting)?;
        }
        self.until_ready().await
    }

    /// Starts the agent anew where its fleet repeats nothing, so that what it says from now on is
    /// nowhere else.
    async fn say_nothing_again(&mut self) -> anyhow::Result<()> {
        // One that was overtaken may have ended meanwhile.
        self.until_ready().await?;
        self.agent.kill()?;
        let (samples, _) = self.there(true).await?;
        self.move_fleet_to(self.oracle.first_not_in(&samples))?;
        self.agent.start_again(&self.settings)
    }

    /// Waits until a metric of the agent has grown by so much.
    async fn until_agent(&self, metric: &str, by: f64) -> anyhow::Result<()> {
        let value = async || anyhow::Ok(self.agent.metric(metric).await?.unwrap_or(0.0));
        let (started, before) = (Instant::now(), value().await?);
        while value().await? < before + by {
            if started.elapsed() > PATIENCE {
                bail!("{metric} did not grow by {by} in {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Leaves records in the log that are not stored, and stops agent and ingester as
    /// [`stop_both`](Self::stop_both).
    async fn fall_behind(&mut self) -> anyhow::Result<bool> {
        self.say_nothing_again().await?;
        self.ingester.freeze(true)?;
        self.until_agent("nilometer_agent_batches_total", BEHIND).await?;
        self.stop_both()
    }

    /// Kills or freezes the agent, and kills the ingester or leaves it; says whether it kills.
    fn stop_both(&mut self) -> anyhow::Result<bool> {
        let down = self.dice.roll(2) == 0;
        match down {
            true => {
                self.agent.kill()?;
                self.ingester.kill()?;
            }
            false => self.agent.freeze(true)?,
        }
        Ok(down)
    }

    fn flip_one_of(&mut self, mut places: Vec<Place>) -> anyhow::Result<Option<Place>> {
        if places.is_empty() {
            return Ok(None);
        }
        let place = places.swap_remove(self.dice.roll(places.len() as u64) as usize);
        let byte = place.bytes.start + self.dice.roll(place.bytes.len() as u64) as usize;
        let file = place.file.display();
        self.say(&format!("flips byte {byte} of {file}, in a record at {:?}", place.bytes));
        flip(&place.file, byte, self.dice.roll(8) as u32)?;
        self.flipped.insert(place.file.clone(), byte);
        Ok(Some(place))
    }

    /// Reckons what is gone, and lets the processes go on.
    async fn go_on(&mut self, down: bool, by: By, destroyed: Vec<Held>) -> anyhow::Result<()> {
        if down {
            self.ingester.start_again(&self.ingesting)?;
            self.until_ready().await?;
        } else {
            self.ingester.freeze(false)?;
            // It need not be ready: a lost topic is made again when the agent appends to it.
            tokio::time::sleep(COMMITTED).await;
            self.ingester.restart_ended(&self.ingesting)?;
        }
        let (mut samples, there) = self.there(down).await?;
        let before = self.gone.samples.len();
        self.gone.add(by, destroyed, (&samples, &there));
        self.say(&format!("{by:?} takes {} samples", self.gone.samples.len() - before));
        if down {
            // What is gone must stay gone.
            samples.extend(self.gone.samples.iter().cloned());
            self.move_fleet_to(self.oracle.first_not_in(&samples))?;
            self.agent.start_again(&self.settings)
        } else {
            self.agent.freeze(false)
        }
    }

    /// The samples and events that the ingester shows, or that log and spools hold. Spools count
    /// if the agent is `down`: it sends all that is in them when it starts, and while it goes on
    /// only what the log has not taken yet, which they do not tell.
    async fn there(&self, down: bool) -> anyhow::Result<(BTreeSet<Identity>, BTreeSet<String>)> {
        let shown = visible(&self.ingester).await?;
        let mut samples: BTreeSet<Identity> =
            shown.into_iter().map(|(identity, _)| identity).collect();
        let mut there = events(&self.ingester).await?;
        let mut held = in_log(self.open_log()?.as_ref()).await?;
        let spooled = match down {
            true => in_spools(&self.settings.data().join("spool"))?,
            false => Vec::new(),
        };
        // What a flip hit is there no more, though the form of the file may still show it.
        let intact = |place: &Place| {
            !self.flipped.get(&place.file).is_some_and(|byte| place.bytes.contains(byte))
        };
        held.extend(spooled.into_iter().filter(intact).map(|place| place.held));
        for record in held {
            samples.extend(record.samples);
            there.extend(record.event);
        }
        Ok((samples, there))
    }

    /// From where the fleet goes on when its agent starts.
    fn move_fleet_to(&self, at: nilometer_contract::Timestamp) -> anyhow::Result<()> {
        let path = self.settings.data().join("simulated.json");
        let mut place: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        place["safe"] = serde_json::to_value(at)?;
        Ok(std::fs::write(&path, serde_json::to_vec(&place)?)?)
    }

    /// Waits until the ingester has applied what the log holds.
    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            self.ingester.restart_ended(&self.ingesting)?;
            let asked = self.ingester.get("/readyz", "text/plain");
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), asked).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the ingester never became ready")
    }

    fn open_log(&self) -> anyhow::Result<Arc<dyn Log>> {
        Ok(match &self.kafka {
            Some(kafka) => Arc::new(KafkaLog::connect(KafkaConfig::new(kafka.bootstrap()))?),
            None => {
                let dir = self.settings.data().join("log");
                Arc::new(EmbeddedLog::open(EmbeddedConfig::new(dir), Arc::new(SystemClock))?)
            }
        })
    }

    async fn recreate_topics(&self) -> anyhow::Result<()> {
        let kafka = self.kafka.as_ref().context("there is Kafka")?;
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for (name, partitions) in TOPICS {
            let at = TopicPartition { topic: name.to_owned(), partition: 0 };
            let before = self.open_log()?.incarnation(&at).await?;
            admin.delete_topics(&[name], &options).await?;
            let started = Instant::now();
            let retention = Duration::from_secs(7 * 86_400);
            let topic = TopicConfig { name: name.to_owned(), partitions, retention };
            loop {
                let log = self.open_log()?;
                let made = log.ensure_topic(&topic).await.is_ok();
                if made && log.incarnation(&at).await.is_ok_and(|now| now != before) {
                    break;
                }
                if started.elapsed() > PATIENCE {
                    bail!("topic {name} cannot be made again");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }
}
