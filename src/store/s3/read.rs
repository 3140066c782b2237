//! The bytes of an object.

use super::{Action, Address, Cause, S3, S3Error};
use bytes::{Bytes, BytesMut};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a body that breaks off is taken up again.
const RESUMPTIONS: u32 = 6;

/// The longest wait before that.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl S3 {
    /// All bytes of an object. With an ETag it has to be the one that has it. A body that breaks off is
    /// taken up where it ended, and refused where the object has changed in between.
    ///
    /// # Errors
    /// When the store refuses it, or does not answer after all attempts.
    pub fn read(&self, address: &Address, etag: Option<&str>) -> Result<Bytes, S3Error> {
        self.runtime.block_on(self.read_whole(address, etag))
    }

    async fn read_whole(&self, address: &Address, etag: Option<&str>) -> Result<Bytes, S3Error> {
        let failed = |cause| S3Error {
            action: Action::Read,
            address: address.clone(),
            cause,
        };
        let mut etag = etag.filter(|etag| !etag.is_empty()).map(str::to_string);
        let mut bytes = BytesMut::new();
        let mut expected: Option<usize> = None;
        let mut resumptions = 0;
        loop {
            let range = (!bytes.is_empty()).then(|| format!("bytes={}-", bytes.len()));
            let answer = self
                .client
                .get_object()
                .bucket(&address.bucket)
                .key(&address.key)
                .set_if_match(etag.clone())
                .set_range(range.clone())
                .send()
                .await
                .map_err(|error| self.failed(Action::Read, address, &error))?;
            // Not every store looks at If-Match.
            match (&etag, answer.e_tag()) {
                (Some(wanted), Some(found)) if wanted != found => {
                    return Err(failed(Cause::Changed));
                }
                (None, Some(found)) => etag = Some(found.to_string()),
                _ => {}
            }
            // A store that does not know ranges begins again from the first byte.
            if range.is_some() && answer.content_range().is_none() {
                bytes.clear();
            }
            let length = answer
                .content_length()
                .and_then(|length| usize::try_from(length).ok());
            let total = length.map(|length| bytes.len() + length);
            if *expected.get_or_insert(total.unwrap_or(0)) == 0 {
                expected = total;
            }
            bytes.reserve(length.unwrap_or(0));
            let mut body = answer.body;
            let broke = loop {
                match body.next().await {
                    Some(Ok(chunk)) => {
                        self.counters
                            .received
                            .fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        bytes.extend_from_slice(&chunk);
                    }
                    Some(Err(error)) => break Some(crate::error::chain(&error)),
                    None if total.is_some_and(|total| bytes.len() < total) => {
                        break Some("the body ended early".to_string());
                    }
                    None => break None,
                }
            };
            let Some(detail) = broke else {
                return Ok(bytes.freeze());
            };
            if resumptions == RESUMPTIONS {
                return Err(failed(Cause::Connection {
                    detail,
                    attempts: RESUMPTIONS + 1,
                }));
            }
            tokio::time::sleep(self.wait(resumptions, bytes.len())).await;
            resumptions += 1;
            self.counters.resumptions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Exponential backoff with jitter; the jitter comes from the position, which no two broken bodies
    /// share for long.
    fn wait(&self, resumptions: u32, position: usize) -> Duration {
        let longest = (self.settings.backoff * 2u32.pow(resumptions)).min(LONGEST_WAIT);
        let spread = (position as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        longest.mul_f64(0.5 + 0.5 * spread as f64 / f64::from(u32::MAX))
    }
}
