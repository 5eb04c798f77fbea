//! A resource as it came, kept small: what it is compiled from again, compared
//! with and shown as.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use prost::{Message, Name};

use crate::{
    admin::state::{self, Encoding, Refusal},
    config::{RawResource, Report, Reported, Strictness},
};

use super::dependencies::Dependencies;

/// A message that has not been decoded, or not kept.
#[derive(Clone, Debug)]
pub enum Encoded {
    /// From a discovery answer.
    Raw(Arc<RawResource>),
    /// From the bootstrap.
    Message(Bytes),
}

impl Encoded {
    /// Of a message that stands in the bootstrap.
    pub fn of(message: &impl Message) -> Self {
        Self::Message(message.encode_to_vec().into())
    }

    /// The name it came under; empty for a message of the bootstrap.
    pub fn name(&self) -> &str {
        match self {
            Self::Raw(raw) => raw.name(),
            Self::Message(_) => "",
        }
    }

    /// Where it stands: `cds.yaml:12:3`.
    pub fn place(&self) -> String {
        match self {
            Self::Raw(raw) => place_of(raw),
            Self::Message(_) => "the bootstrap".to_owned(),
        }
    }

    /// Equal for equal resources. Not to be kept across restarts.
    pub fn hash(&self) -> u64 {
        match self {
            Self::Raw(raw) => raw.hash(),
            Self::Message(bytes) => xxhash_rust::xxh64::xxh64(bytes, 0),
        }
    }

    /// Tells that this comes after a version that was decoded, with which it
    /// shares what is equal.
    pub fn follow(&self, before: &Self) {
        if let (Self::Raw(raw), Self::Raw(before)) = (self, before) {
            raw.follow(before);
        }
    }

    /// Decodes and checks the message.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn decode<M: Message + Name + Default>(
        &self,
        strictness: &Strictness,
        report: &Report,
    ) -> Result<M, Reported> {
        match self {
            Self::Raw(raw) => {
                let message = raw.decode(strictness, report);
                // Deprecated fields, mostly: said once, when the resource is put in force.
                for warning in report.take_warnings() {
                    tracing::warn!(target: "config", "{}: {warning}", raw.name());
                }
                message
            }
            Self::Message(bytes) => M::decode(bytes.clone()).map_err(|e| report.root().error(e)),
        }
    }

    /// Gives each error its line and column.
    pub fn locate(&self, report: &mut Report) {
        if let Self::Raw(raw) = self {
            raw.locate(report);
        }
    }

    /// The message, for a look at it before it is decoded to be used; `None` when it
    /// cannot be.
    pub fn peek<M: Message + Name + Default>(&self, strictness: &Strictness) -> Option<M> {
        match self {
            Self::Raw(raw) => raw.decode(strictness, &Report::new()).ok(),
            Self::Message(bytes) => M::decode(bytes.clone()).ok(),
        }
    }

    /// The encoded message for a dump; `None` when it cannot be decoded.
    pub fn bytes<M: Message + Name + Default>(&self, strictness: &Strictness) -> Option<Bytes> {
        match self {
            Self::Raw(raw) => {
                let message: M = raw.decode(strictness, &Report::new()).ok()?;
                Some(message.encode_to_vec().into())
            }
            Self::Message(bytes) => Some(bytes.clone()),
        }
    }
}

impl From<RawResource> for Encoded {
    fn from(raw: RawResource) -> Self {
        Self::Raw(Arc::new(raw))
    }
}

/// Where a resource stands: `cds.yaml:12:3`.
pub fn place_of(raw: &RawResource) -> String {
    let mut report = Report::new();
    report.root().error("");
    raw.locate(&mut report);
    let position = report.into_errors().pop().and_then(|error| error.position);
    match position {
        Some(position) if position.line == 0 => position.file,
        Some(p) => format!("{}:{}:{}", p.file, p.line, p.column),
        None => "the answer of a server".to_owned(),
    }
}

/// One accepted version of a resource and what it became.
#[derive(Debug)]
pub struct Version<T> {
    /// As it came.
    pub encoded: Encoded,
    /// [`Encoded::hash`].
    pub hash: u64,
    /// `version_info` of the answer that brought it.
    pub version_info: Arc<str>,
    /// When it was accepted.
    pub updated: SystemTime,
    /// What it was compiled to.
    pub built: T,
    /// What it needs besides.
    pub dependencies: Dependencies,
}

impl<T> Version<T> {
    /// For the admin.
    pub fn view<M: Message + Name + Default>(&self, strictness: &Strictness) -> state::Version {
        let (encoded, strictness) = (self.encoded.clone(), *strictness);
        state::Version {
            version_info: self.version_info.clone(),
            last_updated: self.updated,
            message: Encoding::new(move || encoded.bytes::<M>(&strictness).unwrap_or_default()),
        }
    }
}

impl<T> Version<T> {
    /// Says, where an error would stand, that this is of an earlier run.
    pub fn is_stale(&self, details: &Arc<str>) -> Refusal {
        Refusal {
            message: None,
            version_info: self.version_info.clone(),
            at: self.updated,
            details: details.clone(),
        }
    }
}

/// The last attempt to update a resource, which failed.
#[derive(Debug)]
pub struct Refused {
    /// As it came.
    pub encoded: Encoded,
    /// [`Encoded::hash`].
    pub hash: u64,
    /// `version_info` of the answer that brought it.
    pub version_info: Arc<str>,
    /// When.
    pub at: SystemTime,
    /// Every error, one a line.
    pub details: Arc<str>,
    /// What was found to be needed before it was refused. Held so that what is
    /// missing is noticed when it comes.
    pub dependencies: Dependencies,
}

impl Refused {
    /// Whether another attempt may end better although the resource is the same.
    pub fn may_be_cured(&self) -> bool {
        self.dependencies.lacking() || self.dependencies.stale()
    }

    /// For the admin.
    pub fn view<M: Message + Name + Default>(&self, strictness: &Strictness) -> Refusal {
        let (encoded, strictness) = (self.encoded.clone(), *strictness);
        Refusal {
            message: Some(Encoding::new(move || {
                encoded.bytes::<M>(&strictness).unwrap_or_default()
            })),
            version_info: self.version_info.clone(),
            at: self.at,
            details: self.details.clone(),
        }
    }
}
