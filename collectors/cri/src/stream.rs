//! Reads the runtime's event stream and keeps it up.
//!
//! What must be read at once is read here: the cgroup of a process that just started, and the
//! CPU counter of one that just exited. Everything else waits in a bounded queue for the worker;
//! when the queue is full the stream waits, and the runtime buffers.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::{Causes, Timestamp};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::api::ContainerEventResponse;
use crate::api::containerd::{ContainerChange, Envelope, TaskExit, TaskStart};
use crate::cgroup::Cgroup;
use crate::client::{CONTAINERD_NAMESPACE, CallError, Client};
use crate::lookup::{Lookup, instant};

/// Events that wait for the worker at a time.
pub(crate) const QUEUE: usize = 4_096;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A runtime without the stream refuses at once; one that has it stays silent until an event.
const PROBE: Duration = Duration::from_millis(300);
const TOPICS: [&str; 4] =
    ["/containers/create", "/containers/update", "/tasks/start", "/tasks/exit"];

/// Which event stream a runtime has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// containerd's own.
    Containerd,
    /// CRI's `GetContainerEvents`.
    Cri,
    /// None: polling only.
    Absent,
}

/// Something that happened, for the worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A container or sandbox was made.
    Created { id: String },
    /// Its first process started.
    Started { id: String, at: Timestamp },
    /// It was resized or relabelled.
    Updated { id: String },
    /// Its first process ended.
    Exited(Exit),
    /// CRI's own event, which brings states with it.
    Cri(Box<ContainerEventResponse>),
    /// The stream was down: everything must be listed again.
    Resumed,
}

/// How a first process ended.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) id: String,
    pub(crate) at: Timestamp,
    pub(crate) code: i64,
    /// CPU time of its cgroup, and of its pod's, in nanoseconds, when they could be read.
    pub(crate) cpu_nanos: Option<u64>,
    pub(crate) pod_cpu_nanos: Option<u64>,
}

impl Kind {
    /// For people.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Kind::Containerd => "events from containerd",
            Kind::Cri => "events from CRI",
            Kind::Absent => "no events, polling only",
        }
    }
}

/// Finds out which stream the runtime has.
pub(crate) async fn probe(client: &Client) -> Kind {
    let refused = |answer: Option<CallError>| answer.is_some_and(|error| error.is_unimplemented());
    let containerd = timeout(PROBE, client.containerd_events(filters())).await;
    if !refused(containerd.ok().and_then(Result::err)) {
        return Kind::Containerd;
    }
    let cri = timeout(PROBE, client.cri_events()).await;
    if refused(cri.ok().and_then(Result::err)) { Kind::Absent } else { Kind::Cri }
}

/// Reads the stream until the worker is gone, with growing pauses while the runtime is away.
///
/// `opened` learns when the first subscription stands, so that a list made after it misses
/// nothing. After each later one the worker is told to list everything itself.
pub(crate) async fn read(
    lookup: Arc<Lookup>,
    kind: Kind,
    queue: mpsc::Sender<Event>,
    opened: oneshot::Sender<()>,
) {
    let mut backoff = FIRST_BACKOFF;
    let mut opened = Some(opened);
    while !queue.is_closed() {
        let end = match kind {
            Kind::Containerd => containerd(&lookup, &queue, &mut opened, &mut backoff).await,
            Kind::Cri => cri(&lookup, &queue, &mut opened, &mut backoff).await,
            Kind::Absent => return,
        };
        match end {
            Ok(()) => debug!("runtime ended its event stream"),
            Err(error) => warn!(error = %Causes(&error), "runtime's event stream broke"),
        }
        // The first subscription failed: the poll goes ahead, and a list follows the next one.
        opened = None;
        sleep(backoff).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// Opens a stream and says so. Runtimes send no header before the first event, so what tells
/// that the subscription stands is the answer to a call made after it on the same connection.
async fn open<T>(
    lookup: &Lookup,
    opening: impl Future<Output = Result<T, CallError>>,
    queue: &mpsc::Sender<Event>,
    opened: &mut Option<oneshot::Sender<()>>,
) -> Result<T, CallError> {
    let mut opening = pin!(opening);
    let early = tokio::select! {
        biased;
        stream = &mut opening => Some(stream?),
        version = lookup.client.version() => version.map(|_| None)?,
    };
    match opened.take() {
        Some(first) => drop(first.send(())),
        None => {
            info!("runtime's event stream is resumed");
            // A closed queue shows at the next event.
            let _ = queue.send(Event::Resumed).await;
        }
    }
    match early {
        Some(stream) => Ok(stream),
        None => opening.await,
    }
}

async fn containerd(
    lookup: &Lookup,
    queue: &mpsc::Sender<Event>,
    opened: &mut Option<oneshot::Sender<()>>,
    backoff: &mut Duration,
) -> Result<(), CallError> {
    let opening = lookup.client.containerd_events(filters());
    let mut stream = open(lookup, opening, queue, opened).await?;
    loop {
        let envelope = match stream.message().await {
            Ok(Some(envelope)) => envelope,
            Ok(None) => return Ok(()),
            Err(status) => return Err(CallError::broken("Events/Subscribe", status)),
        };
        *backoff = FIRST_BACKOFF;
        if let Some(event) = understand(lookup, &envelope)
            && queue.send(event).await.is_err()
        {
            return Ok(());
        }
    }
}

async fn cri(
    lookup: &Lookup,
    queue: &mpsc::Sender<Event>,
    opened: &mut Option<oneshot::Sender<()>>,
    backoff: &mut Duration,
) -> Result<(), CallError> {
    let mut stream = open(lookup, lookup.client.cri_events(), queue, opened).await?;
    loop {
        let event = match stream.message().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(()),
            Err(status) => return Err(CallError::broken("GetContainerEvents", status)),
        };
        *backoff = FIRST_BACKOFF;
        if queue.send(Event::Cri(Box::new(event))).await.is_err() {
            return Ok(());
        }
    }
}

fn filters() -> Vec<String> {
    let one = |topic: &str| format!("namespace=={CONTAINERD_NAMESPACE},topic==\"{topic}\"");
    TOPICS.into_iter().map(one).collect()
}

/// What an envelope says; `None` for what concerns no container's first process.
fn understand(lookup: &Lookup, envelope: &Envelope) -> Option<Event> {
    let body = envelope.event.as_ref()?.value.as_slice();
    let at = envelope.timestamp.as_ref().and_then(instant);
    match envelope.topic.as_str() {
        "/containers/create" => {
            let made = ContainerChange::decode(body).ok()?;
            Some(Event::Created { id: made.id })
        }
        "/containers/update" => {
            let updated = ContainerChange::decode(body).ok()?;
            Some(Event::Updated { id: updated.id })
        }
        "/tasks/start" => {
            let start = TaskStart::decode(body).ok()?;
            keep_cgroup(lookup, &start);
            Some(Event::Started { id: start.container_id, at: at? })
        }
        "/tasks/exit" => {
            let exit = TaskExit::decode(body).ok()?;
            // The other ids are those of processes that were run inside later.
            (exit.id == exit.container_id).then_some(())?;
            Some(Event::Exited(read_out(lookup, exit, at)?))
        }
        _ => None,
    }
}

/// Notes the cgroup while the process is surely there.
fn keep_cgroup(lookup: &Lookup, start: &TaskStart) {
    let id = &start.container_id;
    let found = lookup.cgroup(start.pid, id);
    let mut ledger = lookup.ledger();
    if let (Some(known), Some(cgroup)) = (ledger.container_mut(id), found) {
        known.cgroup = Some(cgroup);
    }
}

/// Reads the counters before the runtime removes the cgroup.
fn read_out(lookup: &Lookup, exit: TaskExit, at: Option<Timestamp>) -> Option<Exit> {
    let id = exit.container_id;
    let ledger = lookup.ledger();
    let nanos = |cgroup: &Option<Cgroup>| cgroup.as_ref().and_then(Cgroup::cpu_nanos);
    let cpu_nanos = ledger.container(&id).and_then(|known| nanos(&known.cgroup));
    let pod_cpu_nanos = ledger.pod(&id).and_then(|known| nanos(&known.cgroup));
    let exited = exit.exited_at.as_ref().and_then(instant);
    let code = exit.exit_status.into();
    Some(Exit { id, at: exited.or(at)?, code, cpu_nanos, pod_cpu_nanos })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nilometer_clock::SystemClock;

    use super::*;
    use crate::CriConfig;
    use crate::fixtures::fixture;

    #[tokio::test]
    async fn recorded_events_are_understood() {
        let client = Client::new(Path::new("/nonexistent")).unwrap();
        let lookup = Lookup::new(client, CriConfig::default(), Arc::new(SystemClock));
        let status: crate::api::ContainerStatusResponse = fixture("container-exited");
        let status = status.status.unwrap();
        let event = understand(&lookup, &fixture("event-tasks-start"));
        let Some(Event::Started { id, at }) = event else { panic!("a start, not {event:?}") };
        assert_eq!(id, status.id);
        assert!(at.0.abs_diff(status.started_at / 1_000) < 1_000_000);
        let event = understand(&lookup, &fixture("event-tasks-exit"));
        let Some(Event::Exited(exit)) = event else { panic!("an exit, not {event:?}") };
        assert_eq!((exit.id, exit.code), (status.id, 0));
        assert_eq!(exit.at, Timestamp::from_nanos(status.finished_at), "both paths agree");
        let mut of_exec: Envelope = fixture("event-tasks-exit");
        of_exec.event.as_mut().unwrap().value.extend([0x12, 1, b'x']);
        assert!(understand(&lookup, &of_exec).is_none(), "an exec's exit ends nothing");
    }
}
