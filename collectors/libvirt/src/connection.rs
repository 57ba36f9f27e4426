//! One connection to libvirt: calls matched to replies by serial, events as they come.
//!
//! A task reads the socket, so that an event is stamped when it arrives even while a call is
//! under way. Notices pass a queue of [`MAX_NOTICES`]; past it they are dropped and counted, and
//! the next observation finds the same edges by comparison, marked as estimated. The queue ends
//! when the connection does.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nilometer_clock::SharedClock;
use nilometer_contract::{Causes, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::protocol::{
    self, DomainEvent, HEADER_BYTES, Header, KEEPALIVE, LENGTH_BYTES, MessageType, PING, PONG,
    REMOTE, RemoteError, VERSION,
};
use crate::xdr::{Reader, XdrError};

/// Longest message taken, half of what libvirt may send: the statistics of some ten thousand
/// virtual CPUs. A longer one ends the connection.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Most events that wait.
pub(crate) const MAX_NOTICES: usize = 4_096;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("connection to libvirt failed")]
    Io(#[from] std::io::Error),
    #[error("connection to libvirt was closed")]
    Closed,
    #[error("no answer to procedure {procedure} within {waited:?}")]
    TimedOut { procedure: i32, waited: Duration },
    #[error("answer of libvirt cannot be read")]
    Malformed(#[from] XdrError),
    #[error(transparent)]
    Refused(#[from] RemoteError),
    #[error("libvirt wants an authentication of kind {0:?}, which is not supported")]
    Authentication(Vec<i32>),
}

/// An event with the instant at which it was received; libvirt's events carry none.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) at: Timestamp,
    pub(crate) event: DomainEvent,
}

type Reply = Result<Vec<u8>, CallError>;
type Pending = Arc<Mutex<HashMap<u32, oneshot::Sender<Reply>>>>;
type Output = Arc<tokio::sync::Mutex<OwnedWriteHalf>>;

/// Calls procedures. Dropping it ends the connection.
pub(crate) struct Connection {
    output: Output,
    pending: Pending,
    serial: AtomicU32,
    dropped: Arc<AtomicU64>,
    patience: Duration,
    reader: JoinHandle<()>,
}

struct Receiver {
    input: OwnedReadHalf,
    output: Output,
    pending: Pending,
    notices: mpsc::Sender<Notice>,
    dropped: Arc<AtomicU64>,
    clock: SharedClock,
}

impl CallError {
    /// Whether the connection is of no more use. A call that timed out may still hold a worker
    /// of libvirt, which is freed only by hanging up.
    pub(crate) fn is_fatal(&self) -> bool {
        !matches!(self, CallError::Refused(_))
    }
}

impl Connection {
    pub(crate) async fn connect(
        path: &Path,
        patience: Duration,
        clock: SharedClock,
    ) -> Result<(Self, mpsc::Receiver<Notice>), CallError> {
        let (input, output) = UnixStream::connect(path).await?.into_split();
        let output: Output = Arc::new(tokio::sync::Mutex::new(output));
        let pending = Pending::default();
        let dropped = Arc::new(AtomicU64::new(0));
        let (notices, received) = mpsc::channel(MAX_NOTICES);
        let receiver = Receiver {
            input,
            output: output.clone(),
            pending: pending.clone(),
            notices,
            dropped: dropped.clone(),
            clock,
        };
        let reader = tokio::spawn(receiver.run());
        let serial = AtomicU32::new(1);
        Ok((Connection { output, pending, serial, dropped, patience, reader }, received))
    }

    /// Calls a procedure of the hypervisor program; gives the payload of its reply.
    pub(crate) async fn call(&self, procedure: i32, arguments: &[u8]) -> Reply {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let header = Header {
            program: REMOTE,
            version: VERSION,
            procedure,
            kind: MessageType::Call,
            serial,
            status: 0,
        };
        let (answer, answered) = oneshot::channel();
        lock(&self.pending).insert(serial, answer);
        let exchange = async {
            let message = protocol::message(header, arguments);
            self.output.lock().await.write_all(&message).await?;
            answered.await.unwrap_or(Err(CallError::Closed))
        };
        let waited = self.patience;
        let reply = timeout(waited, exchange).await;
        lock(&self.pending).remove(&serial);
        reply.unwrap_or(Err(CallError::TimedOut { procedure, waited }))
    }

    /// How many events were dropped at the bound so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, HashMap<u32, oneshot::Sender<Reply>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    async fn run(mut self) {
        let reason = loop {
            let message = match self.read_message().await {
                Ok(message) => message,
                Err(error) => break error,
            };
            if let Err(error) = self.dispatch(&message).await {
                break error;
            }
        };
        tracing::debug!(%reason, "connection to libvirt ended");
        // A call that registers after this is answered by its time-out.
        lock(&self.pending).clear();
    }

    async fn read_message(&mut self) -> Result<Vec<u8>, CallError> {
        let length = self.input.read_u32().await? as usize;
        if !(LENGTH_BYTES + HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&length) {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let left = MAX_MESSAGE_BYTES;
            return Err(XdrError::Length { what: "message", length, left }.into());
        }
        let mut message = Vec::new();
        let body = (length - LENGTH_BYTES) as u64;
        (&mut self.input).take(body).read_to_end(&mut message).await?;
        if message.len() as u64 != body {
            return Err(CallError::Closed);
        }
        Ok(message)
    }

    async fn dispatch(&mut self, message: &[u8]) -> Result<(), CallError> {
        let mut reader = Reader::new(message);
        let header = Header::decode(&mut reader)?;
        let payload = reader.take(reader.left())?;
        match (header.program, header.kind) {
            (KEEPALIVE, MessageType::Message) if header.procedure == PING => {
                let pong = Header { procedure: PONG, ..header };
                let pong = protocol::message(pong, &[]);
                self.output.lock().await.write_all(&pong).await?;
            }
            (REMOTE, MessageType::Reply) => self.answer(header, payload),
            (REMOTE, MessageType::Message) => {
                match protocol::decode_event(header.procedure, payload) {
                    Ok(event) => self.notify(event),
                    Err(error) => {
                        tracing::debug!(procedure = header.procedure, error = %Causes(&error), "event skipped");
                    }
                }
            }
            _ => tracing::debug!(?header, "message skipped"),
        }
        Ok(())
    }

    fn answer(&self, header: Header, payload: &[u8]) {
        // The caller of an unknown serial gave up waiting.
        let Some(answer) = lock(&self.pending).remove(&header.serial) else { return };
        let reply = match header.status {
            0 => Ok(payload.to_vec()),
            _ => Err(protocol::decode_error(payload).map_or_else(Into::into, Into::into)),
        };
        let _ = answer.send(reply);
    }

    fn notify(&self, event: DomainEvent) {
        let notice = Notice { at: self.clock.now(), event };
        if self.notices.try_send(notice).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
