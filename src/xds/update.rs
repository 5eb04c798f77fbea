//! What a source says, on its way to those who asked for it: the same for files
//! and streams.

use std::sync::Arc;

use crate::config::Discovery;

use super::resource::Encoded;

/// What a source says, of one type of resource.
#[derive(Clone, Debug)]
pub struct Update {
    /// Of the answer as a whole.
    pub version_info: Arc<str>,
    /// What is there, in the order of the answer.
    pub resources: Vec<Received>,
    /// What is not there any more.
    pub gone: Gone,
}

/// One resource as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// What it is subscribed to as: its name, unless its wrapper has another.
    pub name: Arc<str>,
    /// What else it may be asked for as.
    pub aliases: Vec<Arc<str>>,
    /// Its own, or that of the answer.
    pub version: Arc<str>,
    /// Not decoded yet.
    pub resource: Encoded,
}

/// What an answer takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It is the state of the world: whatever it does not hold.
    Absent,
    /// It is a change: what it names.
    Named(Vec<Arc<str>>),
}

impl From<Discovery> for Update {
    fn from(answer: Discovery) -> Self {
        let Discovery {
            version_info,
            resources,
        } = answer;
        let version_info: Arc<str> = version_info.into();
        let received = resources.into_iter().map(|raw| Received {
            name: raw.name().into(),
            aliases: Vec::new(),
            version: version_info.clone(),
            resource: raw.into(),
        });
        Self {
            resources: received.collect(),
            gone: Gone::Absent,
            version_info,
        }
    }
}
