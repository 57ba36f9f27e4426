//! An S3-compatible store from its settings; what cannot work is said before anything is tried.

use std::sync::Arc;
use std::time::Duration;

use deltalake_core::DeltaResult;
use deltalake_core::logstore::{
    LogStore, LogStoreFactory, ObjectStoreRef, StorageConfig as DeltaConfig, default_logstore,
    logstore_factories,
};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::{ClientConfigKey, RetryConfig};
use url::Url;

use crate::probe::PlaceError;
use crate::storage::StorageConfig;

/// Repeats of a request that the store did not answer well; those who write try again themselves.
const RETRIES: usize = 8;
const RETRY_TIME: Duration = Duration::from_secs(30);

/// Longest time of one request, unless the option `timeout` says otherwise: the largest files
/// have some 50 MB.
const REQUEST_TIME: &str = "120s";

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An S3-compatible store and where in it the tables are.
pub(crate) struct Opened {
    pub(crate) root: Url,
    pub(crate) store: ObjectStoreRef,
    /// Whether credentials come from the instance, for want of others.
    pub(crate) from_instance: bool,
}

#[derive(Debug)]
struct PlainLogStore;

impl LogStoreFactory for PlainLogStore {
    fn with_options(
        &self,
        prefixed: ObjectStoreRef,
        root: ObjectStoreRef,
        location: &Url,
        options: &DeltaConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed, root, location, options))
    }
}

/// Reads the settings; asks nothing of the store yet.
pub(crate) fn open(config: &StorageConfig) -> Result<Opened, Cause> {
    let location = format!("{}/", config.location.trim_end_matches('/'));
    let root = Url::parse(&location)?;
    let mut builder = AmazonS3Builder::from_env()
        .with_url(location)
        .with_retry(RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIME,
            ..RetryConfig::default()
        })
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIME);
    for (key, value) in &config.options {
        builder = builder.with_config(key.parse::<AmazonS3ConfigKey>()?, value);
    }
    // Commits rest on it, so it is no option.
    builder = builder.with_conditional_put(S3ConditionalPut::ETagMatch);
    let has = |key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
    let is_on = |key| builder.get_config_value(&key).is_some_and(|value| is_true(&value));
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key));
    let allow_http = AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp);
    if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://"))
        && !is_on(allow_http)
    {
        return Err(PlaceError::PlainHttp(endpoint).into());
    }
    let elsewhere = [
        AmazonS3ConfigKey::AccessKeyId,
        AmazonS3ConfigKey::WebIdentityTokenFile,
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ];
    let signs = !is_on(AmazonS3ConfigKey::SkipSignature);
    let from_instance = signs && !elsewhere.into_iter().any(has);
    let store = Arc::new(builder.build()?);
    logstore_factories().insert(Url::parse("s3://")?, Arc::new(PlainLogStore));
    Ok(Opened { root, store, from_instance })
}

fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(location: &str, options: &[(&str, &str)]) -> String {
        let options = options.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        let config = StorageConfig { location: location.to_owned(), options: options.collect() };
        open(&config).map(|opened| opened.root).unwrap_err().to_string()
    }

    #[test]
    fn settings_that_cannot_work_are_explained() {
        let plain = refused("s3://bucket", &[("aws_endpoint", "http://10.0.0.1:9000")]);
        assert!(plain.contains("http://10.0.0.1:9000"), "{plain}");
        assert!(plain.contains("aws_allow_http"), "{plain}");
        let unknown = refused("s3://bucket", &[("aws_endpont", "https://s3")]);
        assert!(unknown.contains("aws_endpont"), "{unknown}");
        let half = refused("s3://bucket/x", &[("aws_access_key_id", "nilometer")]);
        assert!(half.contains("SecretAccessKey"), "{half}");
        refused("s3://", &[]);
    }
}
