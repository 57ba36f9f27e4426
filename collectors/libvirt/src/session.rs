//! What is asked of libvirt over one connection, in its own terms.

use nilometer_contract::Causes;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nilometer_clock::SharedClock;
use tokio::sync::mpsc;

use crate::connection::{CallError, Connection, Notice};
use crate::protocol::{self, DomainRef, code, procedure};
use crate::xdr::{Reader, Writer};

/// An open, read-only connection to a hypervisor driver, subscribed to its domain events.
pub(crate) struct Session {
    connection: Connection,
    pub(crate) notices: mpsc::Receiver<Notice>,
    lifecycle: i32,
    metadata: Option<i32>,
    nowait: bool,
}

/// What an event asks for.
pub(crate) enum Meaning {
    /// A lifecycle event and its detail.
    Lifecycle(i32, i32),
    /// A device came or went.
    Devices,
    /// The description changed.
    Metadata,
}

impl Session {
    /// Opens the first socket that lets us in; says why each one did not, when none does.
    pub(crate) async fn open_any(
        sockets: &[PathBuf],
        uri: &str,
        patience: Duration,
        clock: &SharedClock,
    ) -> Result<(PathBuf, Session), Vec<(PathBuf, CallError)>> {
        let mut failures = Vec::new();
        for path in sockets {
            match Session::open(path, uri, patience, clock.clone()).await {
                Ok(session) => return Ok((path.clone(), session)),
                Err(error) => failures.push((path.clone(), error)),
            }
        }
        Err(failures)
    }

    async fn open(
        path: &Path,
        uri: &str,
        patience: Duration,
        clock: SharedClock,
    ) -> Result<Session, CallError> {
        let (connection, notices) = Connection::connect(path, patience, clock).await?;
        let kinds = protocol::decode_auth(&connection.call(procedure::AUTH_LIST, &[]).await?)?;
        if !kinds.contains(&0) {
            return Err(CallError::Authentication(kinds));
        }
        let mut arguments = Writer::default();
        arguments.optional_text((!uri.is_empty()).then_some(uri)).u32(protocol::CONNECT_READ_ONLY);
        connection.call(procedure::CONNECT_OPEN, &arguments.into_bytes()).await?;
        let mut session =
            Session { connection, notices, lifecycle: -1, metadata: None, nowait: true };
        session.lifecycle = session.subscribe(protocol::EVENT_LIFECYCLE).await?;
        // Without these, which old versions lack, changes show at the next observation.
        session.metadata = session.subscribe_if_known(protocol::EVENT_METADATA_CHANGE).await?;
        session.subscribe_if_known(protocol::EVENT_DEVICE_ADDED).await?;
        session.subscribe_if_known(protocol::EVENT_DEVICE_REMOVED).await?;
        Ok(session)
    }

    /// `libvirt 9.0.0 (QEMU)`.
    pub(crate) async fn version(&self) -> Result<String, CallError> {
        let reply = self.connection.call(procedure::CONNECT_GET_LIB_VERSION, &[]).await?;
        let version = Reader::new(&reply).u64()?;
        let reply = self.connection.call(procedure::CONNECT_GET_TYPE, &[]).await?;
        let driver = Reader::new(&reply).text()?.to_owned();
        let (major, minor, release) =
            (version / 1_000_000, version / 1_000 % 1_000, version % 1_000);
        Ok(format!("libvirt {major}.{minor}.{release} ({driver})"))
    }

    /// Statistics of the domains named, or of all that are active when none is; the payload is
    /// for [`protocol::decode_stats`].
    pub(crate) async fn stats(&mut self, domains: &[DomainRef]) -> Result<Vec<u8>, CallError> {
        match self.stats_once(domains).await {
            Err(CallError::Refused(error))
                if self.nowait && error.code == code::INVALID_ARGUMENT =>
            {
                tracing::info!("libvirt is too old for statistics without waiting");
                self.nowait = false;
                self.stats_once(domains).await
            }
            reply => reply,
        }
    }

    async fn stats_once(&self, domains: &[DomainRef]) -> Result<Vec<u8>, CallError> {
        let mut arguments = Writer::default();
        arguments.u32(u32::try_from(domains.len()).unwrap_or(u32::MAX));
        for domain in domains {
            domain.encode(&mut arguments);
        }
        let nowait = if self.nowait { protocol::STATS_NOWAIT } else { 0 };
        arguments.u32(protocol::STATS_GROUPS).u32(protocol::STATS_ACTIVE | nowait);
        let arguments = arguments.into_bytes();
        self.connection.call(procedure::CONNECT_GET_ALL_DOMAIN_STATS, &arguments).await
    }

    /// The description of a domain in XML; nothing when there is no such domain any more.
    pub(crate) async fn describe(&self, domain: &DomainRef) -> Result<Option<String>, CallError> {
        let mut arguments = Writer::default();
        domain.encode(&mut arguments);
        arguments.u32(0);
        let arguments = arguments.into_bytes();
        match self.connection.call(procedure::DOMAIN_GET_XML_DESC, &arguments).await {
            Ok(reply) => Ok(Some(Reader::new(&reply).text()?.to_owned())),
            Err(CallError::Refused(error)) if error.code == code::NO_DOMAIN => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What an event of this session means.
    pub(crate) fn meaning(&self, notice: &Notice) -> Meaning {
        let callback = notice.event.callback;
        match notice.event.lifecycle {
            Some((event, detail)) if callback == self.lifecycle => {
                Meaning::Lifecycle(event, detail)
            }
            _ if Some(callback) == self.metadata => Meaning::Metadata,
            _ => Meaning::Devices,
        }
    }

    /// How many events were dropped since the session was opened.
    pub(crate) fn dropped(&self) -> u64 {
        self.connection.dropped()
    }

    async fn subscribe(&self, event: i32) -> Result<i32, CallError> {
        let mut arguments = Writer::default();
        // No domain in particular: all of them.
        arguments.i32(event).u32(0);
        let procedure = procedure::CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY;
        let reply = self.connection.call(procedure, &arguments.into_bytes()).await?;
        Ok(Reader::new(&reply).i32()?)
    }

    async fn subscribe_if_known(&self, event: i32) -> Result<Option<i32>, CallError> {
        match self.subscribe(event).await {
            Ok(callback) => Ok(Some(callback)),
            Err(CallError::Refused(error)) => {
                tracing::debug!(event, error = %Causes(&error), "kind of event not available");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
