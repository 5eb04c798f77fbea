//! What a well-behaved control plane knows and answers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use nuncio::api::envoy::service::discovery::v3::Resource;
use tokio::sync::mpsc::UnboundedSender;
use tonic::Status;

use super::message::{Answer, Asked};
use super::{CLUSTER, HOSTS, LISTENER, SCOPES, Variant};

/// The resources of every type, and every stream.
#[derive(Debug, Default)]
pub struct State {
    /// Every request that ever arrived.
    pub asked: Vec<Asked>,
    /// How many streams were ever opened.
    pub opened: u64,
    /// `control_plane.identifier` of every answer.
    pub identifier: String,
    sets: HashMap<String, Set>,
    muted: HashSet<String>,
    streams: BTreeMap<u64, Stream>,
    nonces: u64,
}

/// All resources of a type.
#[derive(Clone, Debug, Default)]
struct Set {
    version: u64,
    resources: BTreeMap<String, Resource>,
}

/// An open stream.
#[derive(Debug)]
struct Stream {
    variant: Variant,
    outgoing: UnboundedSender<Result<Answer, Status>>,
    subscriptions: HashMap<String, Subscription>,
}

/// What a stream asks of a type.
#[derive(Debug, Default)]
struct Subscription {
    names: BTreeSet<String>,
    wildcard: bool,
    /// Versions the client has, by name.
    known: BTreeMap<String, String>,
    /// Nonce of the last answer.
    nonce: String,
    /// Version of the set that was last sent whole.
    sent: Option<u64>,
}

impl Subscription {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

impl State {
    /// A stream begins.
    pub fn open(
        &mut self,
        variant: Variant,
        outgoing: UnboundedSender<Result<Answer, Status>>,
    ) -> u64 {
        self.opened += 1;
        let stream = Stream {
            variant,
            outgoing,
            subscriptions: HashMap::new(),
        };
        self.streams.insert(self.opened, stream);
        self.opened
    }

    /// A stream has ended.
    pub fn close(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// Ends every stream with a status, or cleanly.
    pub fn close_all(&mut self, status: Option<Status>) {
        for stream in std::mem::take(&mut self.streams).into_values() {
            if let Some(status) = &status {
                stream.outgoing.send(Err(status.clone())).ok();
            }
        }
    }

    /// Takes a request and answers it as a good control plane does.
    pub fn take(&mut self, asked: Asked) {
        let (id, type_url) = (asked.stream, asked.type_url.clone());
        self.asked.push(asked.clone());
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let is_new = !stream.subscriptions.contains_key(&type_url);
        let subscription = stream.subscriptions.entry(type_url.clone()).or_default();
        let resend = match stream.variant {
            Variant::Sotw => {
                if !is_new && asked.nonce != subscription.nonce {
                    // It was sent before the last answer arrived.
                    return;
                }
                let names: BTreeSet<String> = asked.names.iter().cloned().collect();
                let wildcard =
                    names.contains("*") || names.is_empty() && (is_new || subscription.wildcard);
                let changed = names != subscription.names || wildcard != subscription.wildcard;
                subscription.names = names;
                subscription.wildcard = wildcard;
                is_new || changed
            }
            Variant::Delta => {
                if is_new {
                    // Virtual hosts are told of when they are asked for.
                    subscription.wildcard = asked.names.is_empty() && type_url != HOSTS;
                    subscription.known = asked.initial_versions.clone();
                }
                for name in &asked.names {
                    subscription.wildcard |= name == "*";
                    subscription.names.insert(name.clone());
                    if !is_new {
                        // Asked for again, it must be sent again.
                        subscription.known.remove(name);
                    }
                }
                for name in &asked.unsubscribed {
                    subscription.wildcard &= name != "*";
                    subscription.names.remove(name);
                    subscription.known.remove(name);
                }
                is_new || !asked.names.is_empty()
            }
        };
        if resend {
            self.answer(id, &type_url, true);
        }
    }

    /// Replaces all resources of a type; whoever subscribed to them hears of it.
    pub fn set(&mut self, type_url: &str, resources: Vec<Resource>) {
        let set = self.sets.entry(type_url.to_owned()).or_default();
        set.version += 1;
        set.resources = resources
            .into_iter()
            .map(|mut resource| {
                let same = set.resources.get(&resource.name);
                resource.version = match same.filter(|old| old.resource == resource.resource) {
                    Some(old) => old.version.clone(),
                    None => set.version.to_string(),
                };
                (resource.name.clone(), resource)
            })
            .collect();
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            self.answer(id, type_url, false);
        }
    }

    /// From now on a type is not answered, or is again.
    pub fn mute(&mut self, type_url: &str, muted: bool) {
        if muted {
            self.muted.insert(type_url.to_owned());
            return;
        }
        self.muted.remove(type_url);
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            self.answer(id, type_url, false);
        }
    }

    /// Sends a prepared answer to whoever subscribed to a type, with a nonce of
    /// its own, which is returned.
    pub fn send(&mut self, subscribed: &str, mut answer: Answer) -> String {
        self.nonces += 1;
        answer.nonce = format!("n{}", self.nonces);
        for stream in self.streams.values_mut() {
            if let Some(subscription) = stream.subscriptions.get_mut(subscribed) {
                subscription.nonce.clone_from(&answer.nonce);
                stream.outgoing.send(Ok(answer.clone())).ok();
            }
        }
        answer.nonce
    }

    /// Tells one stream what it does not know yet of a type. `asked` says whether
    /// it waits for an answer.
    fn answer(&mut self, id: u64, type_url: &str, asked: bool) {
        if self.muted.contains(type_url) {
            return;
        }
        let Some(set) = self.sets.get(type_url) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(subscription) = stream.subscriptions.get_mut(type_url) else {
            return;
        };
        let wanted = set
            .resources
            .values()
            .filter(|r| subscription.wants(&r.name));
        let (resources, removed) = match stream.variant {
            Variant::Sotw => {
                let resources: Vec<_> = wanted.cloned().collect();
                let whole = [CLUSTER, LISTENER, SCOPES].contains(&type_url);
                // Of other types, nothing says nothing.
                if !asked && subscription.sent == Some(set.version)
                    || resources.is_empty() && !whole
                {
                    return;
                }
                (resources, Vec::new())
            }
            Variant::Delta => {
                let news = wanted.filter(|r| subscription.known.get(&r.name) != Some(&r.version));
                let resources: Vec<_> = news.cloned().collect();
                let gone = subscription
                    .known
                    .keys()
                    .filter(|name| !set.resources.contains_key(*name));
                let mut removed: Vec<String> = gone.cloned().collect();
                if asked {
                    // Names of which there is nothing are said to be no more.
                    let absent = subscription.names.iter().filter(|name| {
                        *name != "*"
                            && !set.resources.contains_key(*name)
                            && !removed.contains(name)
                    });
                    let absent: Vec<String> = absent.cloned().collect();
                    removed.extend(absent);
                }
                let first =
                    subscription.sent.is_none() && (subscription.wildcard || type_url == HOSTS);
                if resources.is_empty() && removed.is_empty() && !first {
                    return;
                }
                (resources, removed)
            }
        };
        for resource in &resources {
            subscription
                .known
                .insert(resource.name.clone(), resource.version.clone());
        }
        for name in &removed {
            subscription.known.remove(name);
        }
        self.nonces += 1;
        subscription.sent = Some(set.version);
        subscription.nonce = format!("n{}", self.nonces);
        let answer = Answer {
            version: format!("v{}", set.version),
            nonce: subscription.nonce.clone(),
            type_url: type_url.to_owned(),
            resources,
            removed,
            identifier: self.identifier.clone(),
        };
        // A stream that has just ended is forgotten by whoever reads it.
        stream.outgoing.send(Ok(answer)).ok();
    }
}
