//! `metadata_match`: what a request asks of its host's metadata.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::{Struct, Value, value::Kind};

use crate::{api::envoy::config::core::v3::Metadata, upstream::host::LB_METADATA};

/// Under which key a request brings what it asks instead, with
/// `metadata_fallback_policy: FALLBACK_LIST`.
const FALLBACK_LIST: &str = "fallback_list";

/// A value under a key: one that a host has, or one that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    pub(super) key: Box<str>,
    /// As it is encoded, which is the same for equal values of every kind.
    value: Box<[u8]>,
}

impl Label {
    pub(super) fn new(key: &str, value: &Value) -> Self {
        Self {
            key: key.into(),
            value: value.encode_to_vec().into(),
        }
    }
}

/// Labels in the order of their keys, of which there is each but once.
pub type Labels = Box<[Label]>;

fn labels(fields: &BTreeMap<String, Value>) -> Labels {
    let labels = fields.iter().map(|(key, value)| Label::new(key, value));
    labels.collect()
}

/// What a request asks of its host's metadata.
#[derive(Clone, Debug)]
pub struct MetadataMatch {
    asked: [Labels; 1],
    /// What is asked in turn where the cluster minds the list of fallbacks.
    by_list: Option<Box<[Labels]>>,
}

impl MetadataMatch {
    /// What metadata asks of hosts, beside what other metadata asks; `None` when that
    /// is nothing.
    pub fn new(metadata: Option<&Metadata>, beside: Option<&Metadata>) -> Option<Self> {
        let fields = |metadata: Option<&Metadata>| {
            let asked = metadata.and_then(|metadata| metadata.filter_metadata.get(LB_METADATA));
            asked.map(|asked| asked.fields.clone()).unwrap_or_default()
        };
        let mut asked = fields(beside);
        asked.extend(fields(metadata));
        (!asked.is_empty()).then(|| Self {
            asked: [labels(&asked)],
            by_list: by_list(asked),
        })
    }

    /// What is asked, in turn.
    pub(super) fn in_turn(&self, minds_list: bool) -> &[Labels] {
        match &self.by_list {
            Some(by_list) if minds_list => by_list,
            _ => &self.asked,
        }
    }
}

/// Each of the list in turn over what is asked besides; that alone when there is none.
fn by_list(mut asked: BTreeMap<String, Value>) -> Option<Box<[Labels]>> {
    let list = match asked.remove(FALLBACK_LIST)?.kind {
        Some(Kind::ListValue(list)) => list.values,
        _ => Vec::new(),
    };
    if list.is_empty() {
        return Some([labels(&asked)].into());
    }
    let turns = list.into_iter().map(|value| {
        let mut asked = asked.clone();
        if let Some(Kind::StructValue(Struct { fields })) = value.kind {
            asked.extend(fields);
        }
        labels(&asked)
    });
    Some(turns.collect())
}
