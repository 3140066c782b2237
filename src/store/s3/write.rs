//! New objects: in one request, or in parts where they are large.

use super::{Action, Address, Cause, S3, S3Error};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Objects up to this size go in one request.
const LARGEST_SINGLE: u64 = 64 << 20;

/// Size of a part, at least. A store takes 10000 parts of an object.
const PART: u64 = 16 << 20;
const MOST_PARTS: u64 = 10_000;

/// Parts on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// Where the bytes of a new object are.
#[derive(Clone)]
enum Content {
    Memory(Bytes),
    File(Arc<File>, u64),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(_, length) => *length,
        }
    }

    fn part(&self, start: u64, length: u64) -> io::Result<Bytes> {
        match self {
            Content::Memory(bytes) => Ok(bytes.slice(start as usize..(start + length) as usize)),
            Content::File(file, _) => {
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, start)?;
                Ok(Bytes::from(bytes))
            }
        }
    }
}

impl S3 {
    /// Writes an object, whole or not at all.
    ///
    /// # Errors
    /// When the store refuses it; parts that were sent are taken back.
    pub fn write(&self, address: &Address, bytes: Bytes) -> Result<(), S3Error> {
        self.put(address, &Content::Memory(bytes))
    }

    /// Writes a local file as an object, whole or not at all, part by part where it is large.
    ///
    /// # Errors
    /// As [`S3::write`], and when the file cannot be read.
    pub fn write_file(&self, address: &Address, file: File) -> Result<(), S3Error> {
        let length = file.metadata().map_err(|error| S3Error {
            action: Action::Write,
            address: address.clone(),
            cause: Cause::Local(error),
        })?;
        self.put(address, &Content::File(Arc::new(file), length.len()))
    }

    fn put(&self, address: &Address, content: &Content) -> Result<(), S3Error> {
        self.runtime.block_on(async {
            if content.len() <= LARGEST_SINGLE {
                self.put_single(address, content).await
            } else {
                self.put_parts(address, content).await
            }
        })
    }

    async fn put_single(&self, address: &Address, content: &Content) -> Result<(), S3Error> {
        let bytes = content
            .part(0, content.len())
            .map_err(|error| local(address, error))?;
        self.client
            .put_object()
            .bucket(&address.bucket)
            .key(&address.key)
            .content_type(media_type(&address.key))
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map_err(|error| self.failed(Action::Write, address, &error))?;
        self.counters
            .sent
            .fetch_add(content.len(), Ordering::Relaxed);
        Ok(())
    }

    async fn put_parts(&self, address: &Address, content: &Content) -> Result<(), S3Error> {
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(&address.bucket)
            .key(&address.key)
            .content_type(media_type(&address.key))
            .send()
            .await
            .map_err(|error| self.failed(Action::Write, address, &error))?;
        let upload = begun.upload_id().unwrap_or_default().to_string();
        let finished = match self.send_parts(address, &upload, content).await {
            Ok(parts) => self.complete(address, &upload, parts).await,
            Err(error) => Err(error),
        };
        if finished.is_err() {
            // The first failure is the one to tell; parts that stay behind are invisible, and a rule
            // of the bucket removes them.
            let _ = self
                .client
                .abort_multipart_upload()
                .bucket(&address.bucket)
                .key(&address.key)
                .upload_id(&upload)
                .send()
                .await;
        }
        finished
    }

    /// Sends all parts, a few at a time.
    async fn send_parts(
        &self,
        address: &Address,
        upload: &str,
        content: &Content,
    ) -> Result<Vec<CompletedPart>, S3Error> {
        let length = content.len();
        let size = PART.max(length.div_ceil(MOST_PARTS));
        let mut starts = (0..length).step_by(size as usize).zip(1i32..);
        let mut under_way = JoinSet::new();
        let mut parts = Vec::new();
        loop {
            while under_way.len() < PARTS_AT_ONCE
                && let Some((start, number)) = starts.next()
            {
                let bytes = content
                    .part(start, size.min(length - start))
                    .map_err(|error| local(address, error))?;
                let count = bytes.len() as u64;
                let request = self
                    .client
                    .upload_part()
                    .bucket(&address.bucket)
                    .key(&address.key)
                    .upload_id(upload)
                    .part_number(number)
                    .body(ByteStream::from(bytes));
                under_way.spawn(async move { (number, count, request.send().await) });
            }
            let Some(joined) = under_way.join_next().await else {
                break;
            };
            let (number, count, sent) = joined.map_err(|error| S3Error {
                action: Action::Write,
                address: address.clone(),
                cause: Cause::Other(error.to_string()),
            })?;
            let sent = sent.map_err(|error| self.failed(Action::Write, address, &error))?;
            self.counters.sent.fetch_add(count, Ordering::Relaxed);
            parts.push(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(sent.e_tag)
                    .set_checksum_crc32(sent.checksum_crc32)
                    .set_checksum_crc64_nvme(sent.checksum_crc64_nvme)
                    .build(),
            );
        }
        parts.sort_by_key(CompletedPart::part_number);
        Ok(parts)
    }

    async fn complete(
        &self,
        address: &Address,
        upload: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<(), S3Error> {
        self.client
            .complete_multipart_upload()
            .bucket(&address.bucket)
            .key(&address.key)
            .upload_id(upload)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .send()
            .await
            .map_err(|error| self.failed(Action::Write, address, &error))?;
        Ok(())
    }

    /// Gives an object another key, replacing what had it: a copy inside the store, then the old key is
    /// removed.
    ///
    /// # Errors
    /// When the store refuses either.
    pub fn rename(&self, from: &Address, to: &Address) -> Result<(), S3Error> {
        self.runtime.block_on(async {
            self.client
                .copy_object()
                .copy_source(encoded(&format!("{}/{}", from.bucket, from.key)))
                .bucket(&to.bucket)
                .key(&to.key)
                .send()
                .await
                .map_err(|error| self.failed(Action::Copy, from, &error))
        })?;
        self.remove(from)
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// When the store refuses it.
    pub fn remove(&self, address: &Address) -> Result<(), S3Error> {
        let removed = self.runtime.block_on(
            self.client
                .delete_object()
                .bucket(&address.bucket)
                .key(&address.key)
                .send(),
        );
        match removed {
            Ok(_) => Ok(()),
            Err(error) => match self.failed(Action::Remove, address, &error) {
                S3Error {
                    cause: Cause::NoSuchKey,
                    ..
                } => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// What a browser takes an object for: a page of the type that stores assume where none is named is
/// downloaded instead of shown.
fn media_type(key: &str) -> &'static str {
    match key.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "html" => "text/html; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "csv" => "text/csv; charset=utf-8",
        "parquet" => "application/vnd.apache.parquet",
        _ => "application/octet-stream",
    }
}

fn local(address: &Address, error: io::Error) -> S3Error {
    S3Error {
        action: Action::Write,
        address: address.clone(),
        cause: Cause::Local(error),
    }
}

/// The source of a copy is a header, so that it has to be percent-encoded.
fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_copy_is_percent_encoded() {
        assert_eq!(encoded("b/a b+c/ö%"), "b/a%20b%2Bc/%C3%B6%25");
    }
}
