//! The keys below a prefix.

use super::{Action, Address, S3, S3Error};
use serde::{Deserialize, Serialize};

/// One object as a listing has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Bucket and key.
    pub address: Address,
    /// Size in bytes.
    pub bytes: u64,
    /// What tells this content from any other under the same key; empty where the store does not say.
    pub etag: String,
    /// Time of the last change in seconds since 1970.
    pub modified: i64,
}

impl S3 {
    /// The objects below a prefix, sorted by key (bytewise, as the store does), page by page. A prefix
    /// is a folder: `a` stands for what begins with `a/`, and for the object `a` itself where there is
    /// no such folder. Keys that end in a slash are the folders that some programs make, and are left out.
    ///
    /// # Errors
    /// When a page cannot be had.
    pub fn list(&self, prefix: &Address) -> Result<Vec<Object>, S3Error> {
        let below = self.begins_with(prefix, &prefix.as_folder(), None)?;
        if !below.is_empty() || prefix.key.is_empty() || prefix.key.ends_with('/') {
            return Ok(below);
        }
        let mut named = self.begins_with(prefix, &prefix.key, None)?;
        named.retain(|object| object.address.key == prefix.key);
        Ok(named)
    }

    /// The objects directly below a prefix, sorted by key.
    ///
    /// # Errors
    /// As [`S3::list`].
    pub fn list_folder(&self, prefix: &Address) -> Result<Vec<Object>, S3Error> {
        self.begins_with(prefix, &prefix.as_folder(), Some("/"))
    }

    fn begins_with(
        &self,
        asked: &Address,
        prefix: &str,
        delimiter: Option<&str>,
    ) -> Result<Vec<Object>, S3Error> {
        self.runtime.block_on(async {
            let mut pages = self
                .client
                .list_objects_v2()
                .bucket(&asked.bucket)
                .prefix(prefix)
                .set_delimiter(delimiter.map(str::to_string))
                .into_paginator()
                .send();
            let mut objects = Vec::new();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| self.failed(Action::List, asked, &error))?;
                for object in page.contents.unwrap_or_default() {
                    let key = object.key.unwrap_or_default();
                    if key.ends_with('/') || key.is_empty() {
                        continue;
                    }
                    objects.push(Object {
                        address: Address {
                            bucket: asked.bucket.clone(),
                            key,
                        },
                        bytes: object
                            .size
                            .and_then(|size| u64::try_from(size).ok())
                            .unwrap_or(0),
                        etag: object.e_tag.unwrap_or_default(),
                        modified: object.last_modified.map_or(0, |time| time.secs()),
                    });
                }
            }
            objects.sort_by(|a, b| a.address.cmp(&b.address));
            Ok(objects)
        })
    }
}
