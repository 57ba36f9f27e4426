//! Settings of the Kafka log, and what librdkafka is told of them.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use rdkafka::ClientConfig;
use serde::Deserialize;

use crate::LogError;

/// Settings of a [`KafkaLog`](crate::KafkaLog).
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with: `host:port`, several with commas between.
    pub bootstrap: String,
    /// TLS and credentials.
    #[serde(default)]
    pub security: Security,
    /// How this process is called in the brokers' logs and quotas; also the group that readers
    /// name, in which they never commit anything.
    #[serde(default = "client_id")]
    pub client_id: String,
    /// Replicas of topics that are created here; -1 leaves it to the cluster.
    #[serde(default = "replication")]
    pub replication: i32,
    /// How long one call waits for the cluster, in milliseconds, before it is
    /// [`LogError::Unavailable`]. A fetch that waits for records may take this longer.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Longest payload taken, in bytes. Brokers refuse more than 1 MB unless set up otherwise.
    #[serde(default = "max_record_bytes")]
    pub max_record_bytes: usize,
    /// Settings of librdkafka by their own names, which go before ours.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}

/// How the connection is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// Encrypt, and check the broker's certificate.
    pub tls: Option<Tls>,
    /// Authenticate by user and password.
    pub sasl: Option<Sasl>,
}

/// Certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Authorities to trust, PEM; the system's where it is missing.
    pub ca_file: Option<PathBuf>,
    /// Certificate to show, PEM, for brokers that ask for one.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// Password of the key.
    pub key_password: Option<Secret>,
}

/// User and password.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// User.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for KafkaConfig {
    /// Without the values of `extra`, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("bootstrap", &self.bootstrap)
            .field("security", &self.security)
            .field("client_id", &self.client_id)
            .field("replication", &self.replication)
            .field("timeout_ms", &self.timeout_ms)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("extra", &self.extra.keys())
            .finish()
    }
}

impl KafkaConfig {
    /// Defaults: no TLS, no credentials, ten seconds, records of up to 1 000 000 bytes.
    pub fn new(bootstrap: impl Into<String>) -> KafkaConfig {
        KafkaConfig {
            bootstrap: bootstrap.into(),
            security: Security::default(),
            client_id: client_id(),
            replication: replication(),
            timeout_ms: timeout_ms(),
            max_record_bytes: max_record_bytes(),
            extra: BTreeMap::new(),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        let wrong = if self.bootstrap.is_empty() {
            "bootstrap is empty"
        } else if !(100..=600_000).contains(&self.timeout_ms) {
            "timeout_ms is not between 100 ms and 10 minutes"
        } else if self.replication == 0 || self.replication < -1 || self.replication > 32_767 {
            "replication is neither -1 nor a number of replicas"
        } else if self.max_record_bytes == 0 || self.max_record_bytes > 64 << 20 {
            "max_record_bytes is not between 1 and 64 MiB"
        } else {
            return Ok(());
        };
        Err(LogError::Invalid(format!("kafka log: {wrong}")))
    }

    /// What all clients have in common.
    fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut settings = ClientConfig::new();
        let connecting = self.timeout_ms.clamp(1000, 10_000).to_string();
        let request = self.timeout_ms.clamp(1000, 60_000).to_string();
        settings
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", &self.client_id)
            .set("message.max.bytes", self.message_bytes())
            .set("socket.connection.setup.timeout.ms", connecting)
            .set("socket.timeout.ms", request)
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "2000");
        let protocol = match (&self.security.tls, &self.security.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        settings.set("security.protocol", protocol);
        if let Some(tls) = &self.security.tls {
            let path = |path: &PathBuf| path.display().to_string();
            settings.set("ssl.ca.location", tls.ca_file.as_ref().map_or("probe".into(), path));
            let files =
                [("ssl.certificate.location", &tls.cert_file), ("ssl.key.location", &tls.key_file)];
            for (key, file) in files {
                file.as_ref().map(|file| settings.set(key, path(file)));
            }
            tls.key_password.as_ref().map(|secret| settings.set("ssl.key.password", &secret.0));
        }
        if let Some(sasl) = &self.security.sasl {
            settings
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.username)
                .set("sasl.password", &sasl.password.0);
        }
        settings.extend(own.iter().map(|(key, value)| (key.to_string(), value.to_string())));
        settings.extend(self.extra.clone());
        settings
    }

    /// Room for the longest payload and what surrounds it.
    pub(super) fn message_bytes(&self) -> String {
        (self.max_record_bytes + 40_000).to_string()
    }

    pub(super) fn producer(&self) -> ClientConfig {
        self.client(&[
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("compression.type", "zstd"),
            ("linger.ms", "2"),
            ("message.timeout.ms", &self.timeout_ms.to_string()),
            // At the bound an append waits for what it sent before.
            ("queue.buffering.max.kbytes", "262144"),
        ])
    }

    /// For questions about topics; belongs to no group, so that an agent costs the cluster none.
    pub(super) fn asker(&self) -> ClientConfig {
        self.client(&[])
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.client(&[])
    }

    pub(super) fn consumer(&self) -> ClientConfig {
        self.client(&[
            ("group.id", &self.client_id),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("check.crcs", "true"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.error.backoff.ms", "100"),
            // Read ahead, per partition.
            ("queued.max.messages.kbytes", "16384"),
        ])
    }
}

fn client_id() -> String {
    "nilometer".into()
}

fn replication() -> i32 {
    -1
}

fn timeout_ms() -> u64 {
    10_000
}

fn max_record_bytes() -> usize {
    1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_as_written_and_secrets_stay_hidden() {
        let read = |text| serde_json::from_str::<KafkaConfig>(text);
        assert_eq!(read(r#"{"bootstrap": "b:1"}"#).unwrap(), KafkaConfig::new("b:1"));
        assert!(read(r#"{"bootstrap": "b:1", "brokers": 3}"#).is_err());
        let config = read(
            r#"{"bootstrap": "b:1", "extra": {"sasl.kerberos.keytab": "hush"}, "security": {
                "tls": {"ca_file": "/ca.pem", "key_password": "hush"},
                "sasl": {"mechanism": "PLAIN", "username": "u", "password": "hush"}}}"#,
        );
        let config = config.unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        let told = config.producer();
        let value = |key| told.get(key).unwrap_or("");
        assert_eq!((value("security.protocol"), value("sasl.password")), ("sasl_ssl", "hush"));
        assert_eq!((value("ssl.ca.location"), value("acks")), ("/ca.pem", "all"));
        assert_eq!(value("sasl.kerberos.keytab"), "hush");
    }
}
