//! Objects of Amazon S3, and of stores that speak its protocol.
//!
//! The calls here wait for their answer. Behind them one client with two threads of its own works for
//! the whole rank; any number of threads may call at once.
//!
//! What may help is tried again: the SDK repeats requests that were throttled, timed out or lost, with
//! exponential backoff and full jitter; [`S3::read`] goes on after a connection that was cut in the
//! middle of a body.

mod address;
mod error;
mod list;
mod read;
mod write;

pub use address::Address;
pub use error::{Action, Cause, S3Error};
pub use list::Object;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::retry::RetryPartition;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

/// The region where nothing names one. Stores other than Amazon's do not care.
const DEFAULT_REGION: &str = "us-east-1";

/// How a store is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// A store other than Amazon's, or an endpoint of one's own.
    pub endpoint_url: Option<String>,
    /// `None`: from the environment, the profile or the machine.
    pub region: Option<String>,
    /// The bucket in the path of a request instead of in the name of the host.
    pub path_style: bool,
    /// Without credentials, for public buckets.
    pub anonymous: bool,
    /// Checksums of requests and answers as the SDK is configured, also where the store is not Amazon's.
    /// Otherwise such a store is spared them where the protocol does not demand them: many do not know
    /// the newer ones.
    pub all_checksums: bool,
    /// How often a request is tried.
    pub attempts: u32,
    /// The longest wait for the first byte of an answer, and for the next one.
    pub patience: Duration,
    /// The wait before the second attempt; it doubles with each one, up to 20 s.
    pub backoff: Duration,
}

impl Default for S3Settings {
    fn default() -> Self {
        S3Settings {
            endpoint_url: None,
            region: None,
            path_style: false,
            anonymous: false,
            all_checksums: false,
            attempts: 8,
            patience: Duration::from_secs(30),
            backoff: Duration::from_millis(500),
        }
    }
}

/// What went over the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests, every attempt counted.
    pub requests: u64,
    /// Attempts after the first, and bodies that were taken up again.
    pub retries: u64,
    /// Bytes of objects that were read.
    pub bytes_received: u64,
    /// Bytes of objects that were written.
    pub bytes_sent: u64,
}

/// The counters behind [`Traffic`].
#[derive(Debug, Default)]
struct Counters {
    operations: AtomicU64,
    attempts: AtomicU64,
    resumptions: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// A client of one store.
#[derive(Debug)]
pub struct S3 {
    runtime: Runtime,
    client: aws_sdk_s3::Client,
    settings: S3Settings,
    region: String,
    counters: Arc<Counters>,
}

impl S3 {
    /// Finds region and credentials as every AWS program does, and makes a client. Nothing is sent to
    /// the store yet.
    ///
    /// # Errors
    /// When the threads of the client cannot be started.
    pub fn connect(settings: &S3Settings) -> std::io::Result<Self> {
        S3::connect_with(settings, |loader| loader)
    }

    /// As [`S3::connect`], with other settings of the SDK, such as credentials that stand nowhere.
    ///
    /// # Errors
    /// As [`S3::connect`].
    pub fn connect_with(
        settings: &S3Settings,
        adapt: impl FnOnce(ConfigLoader) -> ConfigLoader,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("p8-s3")
            .enable_all()
            .build()?;
        let counters = Arc::new(Counters::default());
        let (client, region) = runtime.block_on(client(settings, adapt, &counters));
        Ok(S3 {
            runtime,
            client,
            settings: settings.clone(),
            region,
            counters,
        })
    }

    /// What went over the wire so far.
    pub fn traffic(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let attempts = count(&self.counters.attempts);
        let first = count(&self.counters.operations).min(attempts);
        Traffic {
            requests: attempts,
            retries: attempts - first + count(&self.counters.resumptions),
            bytes_received: count(&self.counters.received),
            bytes_sent: count(&self.counters.sent),
        }
    }

    /// The region that requests are signed for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The error of one request.
    fn failed<E>(
        &self,
        action: Action,
        address: &Address,
        error: &SdkError<E, HttpResponse>,
    ) -> S3Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let client = error::Client {
            region: &self.region,
            attempts: self.settings.attempts,
        };
        S3Error {
            action,
            address: address.clone(),
            cause: error::cause(error, &client),
        }
    }
}

/// The client and its region.
async fn client(
    settings: &S3Settings,
    adapt: impl FnOnce(ConfigLoader) -> ConfigLoader,
    counters: &Arc<Counters>,
) -> (aws_sdk_s3::Client, String) {
    let http = HttpBuilder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let named = settings.region.clone().map(Region::new);
    let region = match (named, &settings.endpoint_url) {
        (Some(region), _) => Some(region),
        // Only on Amazon's machines is there anyone to ask for the region.
        (None, Some(_)) => {
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .region()
                .await
        }
        (None, None) => RegionProviderChain::default_provider().region().await,
    }
    .unwrap_or(Region::from_static(DEFAULT_REGION));
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .region(region.clone())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(settings.attempts)
                .with_initial_backoff(settings.backoff),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(settings.patience.min(Duration::from_secs(10)))
                .read_timeout(settings.patience)
                .build(),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(settings.patience)
                .build(),
        );
    if let Some(url) = &settings.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    if settings.anonymous {
        loader = loader.no_credentials();
    }
    let shared = adapt(loader).load().await;
    let mut config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(settings.path_style)
        .interceptor(Count(counters.clone()))
        // The default budget of retries is that of a service which answers one user. Here sixteen
        // requests at once are slowed down together, and each has its own number of attempts.
        .retry_partition(
            RetryPartition::custom("p8")
                .token_bucket(aws_sdk_s3::config::retry::TokenBucket::unlimited())
                .build(),
        );
    if shared.endpoint_url().is_some() && !settings.all_checksums {
        config = config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    (
        aws_sdk_s3::Client::from_conf(config.build()),
        region.to_string(),
    )
}

/// Counts requests as the SDK makes them.
#[derive(Debug)]
struct Count(Arc<Counters>);

impl Intercept for Count {
    fn name(&self) -> &'static str {
        "p8 traffic"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.operations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
