//! A resource as it came, kept small: what it is compiled from again, compared
//! with and shown as.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use prost::{Message, Name};

use crate::{
    admin::state::{self, Encoding, Refusal},
    config::{RawResource, Report, Reported, Strictness},
    digest::Digest,
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

    /// Equal for resources that are written alike, and for no others.
    pub fn hash(&self) -> Digest {
        match self {
            Self::Raw(raw) => raw.hash(),
            Self::Message(bytes) => Digest::of_bytes(bytes),
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

    /// The encoded message for a dump, even if its rules are not met; `None` when it
    /// cannot be decoded.
    pub fn bytes<M: Message + Name + Default>(&self, strictness: &Strictness) -> Option<Bytes> {
        match self {
            Self::Raw(raw) => {
                if let Ok(message) = raw.decode::<M>(strictness, &Report::new()) {
                    return Some(message.encode_to_vec().into());
                }
                let bytes = raw.encode(&M::type_url(), strictness)?;
                M::decode(bytes.clone()).is_ok().then_some(bytes)
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
    pub hash: Digest,
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
    pub hash: Digest,
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
    /// Whether another attempt may once end better although the resource is the same.
    pub fn may_be_cured(&self) -> bool {
        self.dependencies.lacking() || self.dependencies.stale()
    }

    /// Whether another attempt may end better now.
    pub fn may_be_right(&self) -> bool {
        self.dependencies.may_have_come() || self.dependencies.stale()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{TYPE_URL_PREFIX, envoy::config::cluster::v3::Cluster},
        config::RawResource,
    };

    #[test]
    fn what_breaks_a_rule_is_shown() {
        let bad = Cluster {
            name: "a".to_owned(),
            connect_timeout: Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            }),
            ..Cluster::default()
        };
        let type_url = format!("{TYPE_URL_PREFIX}{}", Cluster::full_name());
        let any = prost_types::Any {
            type_url: type_url.clone(),
            value: bad.encode_to_vec(),
        };
        let encoded = Encoded::from(RawResource::from_any(any, &type_url).unwrap());
        let strictness = Strictness::default();
        let decoded = encoded.decode::<Cluster>(&strictness, &Report::new());
        assert!(decoded.is_err());
        let shown = encoded.bytes::<Cluster>(&strictness).unwrap();
        assert_eq!(shown, bad.encode_to_vec());
    }
}
