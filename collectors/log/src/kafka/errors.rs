//! What librdkafka says, in the words of the log.

use nilometer_contract::Causes;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode as Code},
    statistics::Statistics,
};

use crate::LogError;

/// What the clients of one log have noticed of the cluster.
#[derive(Debug, Default)]
pub(super) struct Noticed {
    /// Something failed since the cluster last answered.
    pub(super) trouble: AtomicBool,
    /// Credentials were refused since the cluster last answered.
    refused: AtomicBool,
    /// The cluster answered at least once.
    reached: AtomicBool,
}

impl Noticed {
    pub(super) fn answer(&self) {
        self.trouble.store(false, Relaxed);
        self.refused.store(false, Relaxed);
        self.reached.store(true, Relaxed);
    }

    /// Notes an error that belongs to no call.
    pub(super) fn event(&self, error: &KafkaError) {
        self.trouble.store(true, Relaxed);
        let refusals = [Code::Authentication, Code::SaslAuthenticationFailed];
        if error.rdkafka_error_code().is_some_and(|code| refusals.contains(&code)) {
            self.refused.store(true, Relaxed);
        }
    }

    /// The error of a call. Credentials that never worked are wrong; once they did, the cluster
    /// is at fault, and what waits to be sent is better kept.
    pub(super) fn failed(&self, what: String, error: KafkaError) -> LogError {
        self.event(&error);
        if self.refused.load(Relaxed) && !self.reached.load(Relaxed) {
            return LogError::Invalid(format!("{what}: Kafka refused the credentials"));
        }
        match error.rdkafka_error_code() {
            Some(code) if is_of_records(code) => LogError::Refused(format!("{what}: {code}")),
            Some(code) if is_permanent(code) => LogError::Invalid(format!("{what}: {code}")),
            _ => LogError::Unavailable { what, cause: Some(Box::new(error)) },
        }
    }
}

/// Whether the broker refuses what is in the records.
fn is_of_records(code: Code) -> bool {
    use Code::*;
    matches!(code, MessageSizeTooLarge | MessageBatchTooLarge | InvalidMessageSize | InvalidRecord)
}

/// Whether asking again cannot help.
pub(super) fn is_permanent(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        InvalidTopic
            | InvalidPartitions
            | InvalidReplicationFactor
            | InvalidConfig
            | InvalidRequest
            | PolicyViolation
            | TopicAuthorizationFailed
            | ClusterAuthorizationFailed
            | UnsupportedVersion
            | InvalidArgument
    )
}

/// Whether there is no such topic or partition, as far as the cluster knows now.
pub(super) fn is_unknown(code: Code) -> bool {
    use Code::*;
    matches!(code, UnknownTopicOrPartition | UnknownTopic | UnknownPartition | UnknownTopicId)
}

/// Whether the consumer stands before the beginning of the partition or past its end.
pub(super) fn is_misplaced(code: Code) -> bool {
    matches!(code, Code::AutoOffsetReset | Code::OffsetOutOfRange)
}

/// Whether the partition has no leader for the moment, or its new one does not know yet.
pub(super) fn is_leaderless(error: &KafkaError) -> bool {
    use Code::*;
    error.rdkafka_error_code().is_some_and(|code| {
        is_unknown(code)
            || matches!(code, NotLeaderForPartition | LeaderNotAvailable | ReplicaNotAvailable)
    })
}

/// Passes on what the clients say to `tracing` and to [`Noticed`].
#[derive(Clone)]
pub(super) struct Context(pub(super) Arc<Noticed>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        use RDKafkaLogLevel::*;
        match level {
            Emerg | Alert | Critical | Error | Warning => {
                tracing::warn!(target: "librdkafka", facility = fac, "{log_message}");
            }
            Notice | Info => tracing::info!(target: "librdkafka", facility = fac, "{log_message}"),
            Debug => tracing::debug!(target: "librdkafka", facility = fac, "{log_message}"),
        }
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", error = %Causes(&error), reason);
        self.0.event(&error);
    }
}

impl ConsumerContext for Context {}

/// Makes a client that tells of itself to `noticed`.
pub(super) fn make<T: FromClientConfigAndContext<Context>>(
    settings: &rdkafka::ClientConfig,
    noticed: &Arc<Noticed>,
) -> Result<T, LogError> {
    T::from_config_and_context(settings, Context(noticed.clone())).map_err(|e| match e {
        // Without the value, which may be a secret.
        KafkaError::ClientConfig(_, _, key, _) => {
            LogError::Invalid(format!("librdkafka does not take the setting {key}"))
        }
        e => LogError::Invalid(format!("kafka client: {e}")),
    })
}
