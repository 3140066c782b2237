//! What an object store refused, and why, in words that say what to do.

use super::Address;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::error::Error;
use std::fmt;

/// What p8 wanted of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The keys below a prefix.
    List,
    /// The bytes of an object.
    Read,
    /// A new object.
    Write,
    /// An object under another key.
    Copy,
    /// An object gone.
    Remove,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::List => "list",
            Action::Read => "read",
            Action::Write => "write",
            Action::Copy => "copy",
            Action::Remove => "remove",
        })
    }
}

/// A request that failed for good.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} \"{address}\"")]
pub struct S3Error {
    /// What was wanted.
    pub action: Action,
    /// Of which object or prefix.
    pub address: Address,
    /// Why not.
    #[source]
    pub cause: Cause,
}

impl S3Error {
    /// Whether the object itself is the reason, so that others may still be read.
    pub fn is_of_object(&self) -> bool {
        matches!(
            self.cause,
            Cause::NoSuchKey | Cause::Denied { .. } | Cause::Changed | Cause::Archived
        )
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// 404 for the key.
    #[error("there is no object of this key")]
    NoSuchKey,
    /// 404 for the bucket.
    #[error("there is no bucket of this name (at this endpoint)")]
    NoSuchBucket,
    /// 403 although the credentials are known.
    #[error("access is denied ({code}): the credentials in use do not allow it")]
    Denied {
        /// The store's name for it.
        code: String,
    },
    /// No provider of the chain has credentials.
    #[error(
        "no credentials were found ({detail}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role; a public bucket needs --anonymous"
    )]
    NoCredentials {
        /// What the chain said.
        detail: String,
    },
    /// Session credentials past their time.
    #[error(
        "the credentials have expired: renew them (aws sso login, or a new session token) and run again; finished blocks are kept"
    )]
    Expired,
    /// Unknown access key, or a signature that does not fit.
    #[error(
        "the credentials are not accepted ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
    )]
    BadCredentials {
        /// The store's name for it.
        code: String,
    },
    /// The bucket is elsewhere.
    #[error("the bucket is not in the region {asked}{}", match actual { Some(actual) => format!(": use --region {actual}"), None => ": name its region with --region".into() })]
    WrongRegion {
        /// The region of the request.
        asked: String,
        /// The one that the store names.
        actual: Option<String>,
    },
    /// The clock of this machine is wrong by more than the client could correct.
    #[error(
        "the clock of this machine is too far from that of the store ({code}): set it, for example by chrony"
    )]
    ClockSkew {
        /// The store's name for it.
        code: String,
    },
    /// The object is not the one that was listed or begun.
    #[error("the object has changed since it was listed (another ETag): run again")]
    Changed,
    /// In a storage class that cannot be read at once.
    #[error("the object is archived: restore it first")]
    Archived,
    /// Still 503 or 429 after all attempts.
    #[error(
        "the store asks to slow down ({code}), still after {attempts} attempts: use fewer ranks, or try later; finished blocks are kept"
    )]
    Throttled {
        /// The store's name for it.
        code: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// No answer in time.
    #[error("no answer in time, still after {attempts} attempts")]
    Timeout {
        /// How often it was tried.
        attempts: u32,
    },
    /// No connection, or one that broke again and again.
    #[error("the connection failed, still after {attempts} attempts: {detail}")]
    Connection {
        /// What the system said.
        detail: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A local file that was to be uploaded could not be read.
    #[error("the file to upload cannot be read")]
    Local(#[source] std::io::Error),
    /// Anything else, in the words of the store.
    #[error("{0}")]
    Other(String),
}

/// What the causes have to know of the client.
#[derive(Debug, Clone)]
pub(super) struct Client<'a> {
    pub region: &'a str,
    pub attempts: u32,
}

/// The cause behind an answer of the SDK.
pub(super) fn cause<E>(error: &SdkError<E, HttpResponse>, client: &Client) -> Cause
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let attempts = client.attempts;
    if let Some(cause) = of_credentials(error) {
        return cause;
    }
    match error {
        SdkError::ServiceError(service) => {
            let message = service.err().message();
            of_answer(
                service.err().code().unwrap_or_default(),
                &message.map_or_else(|| deepest(error), str::to_string),
                service.raw(),
                client,
            )
        }
        SdkError::TimeoutError(_) => Cause::Timeout { attempts },
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Cause::Timeout { attempts },
        SdkError::DispatchFailure(failure) => Cause::Connection {
            detail: failure
                .as_connector_error()
                .map_or_else(|| deepest(error), |e| deepest(e)),
            attempts,
        },
        SdkError::ResponseError(_) => Cause::Connection {
            detail: deepest(error),
            attempts,
        },
        _ => Cause::Other(deepest(error)),
    }
}

/// The cause that an answer of the store names.
fn of_answer(code: &str, message: &str, raw: &HttpResponse, client: &Client) -> Cause {
    let status = raw.status().as_u16();
    let attempts = client.attempts;
    let shown = || match code {
        "" => format!("status {status}"),
        code => code.to_string(),
    };
    match (code, status) {
        ("NoSuchBucket", _) => Cause::NoSuchBucket,
        ("NoSuchKey" | "NotFound", _) => Cause::NoSuchKey,
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => Cause::Expired,
        (
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "NotSignedUp"
            | "UnauthorizedAccess",
            _,
        ) => Cause::BadCredentials { code: shown() },
        ("RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture", _) => {
            Cause::ClockSkew { code: shown() }
        }
        ("PreconditionFailed" | "ConditionalRequestConflict", _) | (_, 412) => Cause::Changed,
        ("InvalidObjectState", _) => Cause::Archived,
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "TemporaryRedirect", _)
        | (_, 301 | 307) => Cause::WrongRegion {
            asked: client.region.to_string(),
            actual: raw
                .headers()
                .get("x-amz-bucket-region")
                .map(str::to_string)
                .or_else(|| region_in(message)),
        },
        ("RequestTimeout" | "RequestTimeoutException", _) => Cause::Timeout { attempts },
        (
            "SlowDown"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "ServiceUnavailable",
            _,
        )
        | (_, 503 | 429) => Cause::Throttled {
            code: shown(),
            attempts,
        },
        (_, 404) => Cause::NoSuchKey,
        (_, 401 | 403) => Cause::Denied { code: shown() },
        _ => Cause::Other(format!(
            "the store answers {}: {message} (status {status})",
            shown()
        )),
    }
}

/// The region in "the region 'us-east-1' is wrong; expecting 'eu-west-1'".
fn region_in(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    Some(rest.split_once('\'')?.0.to_string())
}

fn of_credentials(error: &(dyn Error + 'static)) -> Option<Cause> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(credentials) = error.downcast_ref::<CredentialsError>() {
            return Some(Cause::NoCredentials {
                detail: deepest(credentials),
            });
        }
        link = error.source();
    }
    None
}

/// The last error of a chain, which is the one that names the reason.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
