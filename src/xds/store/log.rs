//! The log of the store, as bytes.
//!
//! ```text
//!  log     = MAGIC record*
//!  record  = length (4) check (4) checksum (8) payload (length)
//! ```
//!
//! Numbers are little-endian. `check` is the lower half of the XXH64 of the four
//! bytes of `length`, `checksum` the XXH64 of the payload; both with the seed 0.
//! The payload is a protobuf message:
//!
//! ```text
//!  message Record { repeated Change changes = 1; }
//!  message Change {
//!      string type_url = 1;  string source = 2;  string name = 3;
//!      Kept kept = 4;               // absent: forgotten
//!  }
//!  message Kept {
//!      string version = 1;          // of the resource
//!      uint64 accepted = 2;         // in milliseconds since 1970
//!      bytes value = 3;             // the resource, encoded
//!  }
//! ```
//!
//! `source` is the file's path, `ads`, or what names another management server.

use std::{collections::HashMap, io, sync::Arc};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh64::xxh64;

/// What the log begins with; the last byte is the version of the format.
pub const MAGIC: &[u8; 8] = b"nuncio\0\x01";

/// What stands before each payload, in bytes.
const HEADER: usize = 16;

/// What a resource is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its type.
    pub type_url: Arc<str>,
    /// Where it came from.
    pub source: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A resource as it is kept.
#[derive(Clone, PartialEq, Message)]
pub struct Kept {
    /// Its version.
    #[prost(string, tag = "1")]
    pub version: String,
    /// When it was accepted, in milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub accepted: u64,
    /// The resource, encoded.
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Change {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, optional, tag = "4")]
    kept: Option<Kept>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<Change>,
}

/// Why a log is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(io::Error),
    /// It begins otherwise than a log does.
    #[error("it is not a log of this version")]
    NoLog,
    /// A record is not what was written.
    #[error("the record at byte {at} is not what was written: {reason}")]
    Record {
        /// Where it begins.
        at: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What a log says.
#[derive(Debug, Default)]
pub struct Found {
    /// What is kept, in the end.
    pub resources: HashMap<Key, Kept>,
    /// Bytes at the end that are the beginning of a record, or zeros.
    pub torn: usize,
}

/// Reads a log.
///
/// # Errors
/// When any of it is not what was written. The beginning of a record at the end, or
/// zeros in its place, are no error: whoever wrote it was interrupted.
pub fn read(bytes: &[u8]) -> Result<Found, Damage> {
    let mut found = Found::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        // The very first write may have been interrupted.
        return match MAGIC.starts_with(bytes) {
            true => Ok(Found {
                torn: bytes.len(),
                ..found
            }),
            false => Err(Damage::NoLog),
        };
    };
    while !rest.is_empty() {
        // A machine that lost its power may leave a length that was reached, and nothing
        // of what was written. No record begins like that.
        if rest.iter().all(|byte| *byte == 0) {
            found.torn = rest.len();
            break;
        }
        let at = bytes.len() - rest.len();
        let damage = |reason| Damage::Record { at, reason };
        let Some((header, after)) = rest.split_at_checked(HEADER) else {
            found.torn = rest.len();
            break;
        };
        let (length, check, checksum) = (
            number::<4>(header, 0),
            number::<4>(header, 4),
            number::<8>(header, 8),
        );
        if check != u64::from(check_of(&header[..4])) {
            return Err(damage("its length has changed"));
        }
        let length = usize::try_from(length).map_err(|_| damage("it is too long"))?;
        let Some((payload, after)) = after.split_at_checked(length) else {
            found.torn = rest.len();
            break;
        };
        if xxh64(payload, 0) != checksum {
            return Err(damage("its content has changed"));
        }
        let record = Record::decode(payload).map_err(|_| damage("it cannot be decoded"))?;
        for change in record.changes {
            let key = Key {
                type_url: change.type_url.into(),
                source: change.source.into(),
                name: change.name.into(),
            };
            match change.kept {
                Some(kept) => found.resources.insert(key, kept),
                None => found.resources.remove(&key),
            };
        }
        rest = after;
    }
    Ok(found)
}

/// One record of changes that belong together.
///
/// # Errors
/// When it is longer than a record can be.
pub fn record<'a>(
    changes: impl Iterator<Item = (&'a Key, Option<Kept>)>,
) -> Result<Vec<u8>, TooLong> {
    let changes = changes.map(|(key, kept)| Change {
        type_url: key.type_url.to_string(),
        source: key.source.to_string(),
        name: key.name.to_string(),
        kept,
    });
    let payload = Record {
        changes: changes.collect(),
    }
    .encode_to_vec();
    let length = u32::try_from(payload.len())
        .map_err(|_| TooLong)?
        .to_le_bytes();
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&check_of(&length).to_le_bytes());
    bytes.extend_from_slice(&xxh64(&payload, 0).to_le_bytes());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// A record would be longer than 4 GiB.
#[derive(Debug, thiserror::Error)]
#[error("the changes are too large for one record")]
pub struct TooLong;

/// The lower half.
fn check_of(length: &[u8]) -> u32 {
    let hash = xxh64(length, 0).to_le_bytes();
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(number)
}
