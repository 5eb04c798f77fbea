//! The state-of-the-world variant: each request carries all names of a type,
//! and each answer all there is to say about them.
//!
//! A request acknowledges by itself: `version_info` is the last version that was
//! accepted and `response_nonce` the last one received. When they do not belong
//! together the answer was refused, and `error_detail` says why.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::{
    api::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    },
    api::google::rpc,
    xds::{
        resource::Encoded,
        update::{Gone, Received, Update},
    },
};

use super::{
    Answered, Introduction, Push, TypeUrl, Unwrapped, Verdict, WILDCARD, hold::Hold, is_remembered,
    ttl::Ttls, unwrap_any,
};

/// What is known of every type.
#[derive(Debug)]
pub struct Sotw {
    introduction: Introduction,
    types: HashMap<TypeUrl, State>,
    /// Types about which there is something to say, in the order in which it is said.
    queue: VecDeque<TypeUrl>,
    pub(super) ttls: Ttls,
}

/// What is known of one type.
#[derive(Debug, Default)]
struct State {
    /// Names that are asked for, and how often.
    names: BTreeMap<Arc<str>, usize>,
    wildcard: usize,
    /// Of the last answer that was accepted; kept across streams.
    version: Arc<str>,
    /// Of the last answer on this stream.
    nonce: String,
    error: Option<rpc::Status>,
    /// Asked for on this stream.
    begun: bool,
    queued: bool,
    hold: Hold,
    /// What was accepted by name, for as long as the server believes it is wanted.
    known: HashMap<Arc<str>, Received>,
    /// There was an answer of which anything was accepted.
    answered: bool,
    /// Names were given up since the last request.
    shrunk: bool,
}

impl State {
    fn is_wanted(&self) -> bool {
        self.wildcard > 0 || !self.names.is_empty()
    }
}

impl Sotw {
    /// Asks for nothing yet.
    pub fn new(node: Arc<Node>, first_only: bool) -> Self {
        Self {
            introduction: Introduction::new(node, first_only),
            types: HashMap::new(),
            queue: VecDeque::new(),
            ttls: Ttls::default(),
        }
    }

    /// See [`super::Machine::subscribe`].
    pub fn subscribe(&mut self, type_url: &TypeUrl, name: &str) {
        let state = self.types.entry(type_url.clone()).or_default();
        let count = match name {
            WILDCARD => &mut state.wildcard,
            _ => state.names.entry(name.into()).or_default(),
        };
        *count += 1;
        if *count == 1 {
            self.enqueue(type_url);
        }
    }

    /// See [`super::Machine::unsubscribe`].
    pub fn unsubscribe(&mut self, type_url: &TypeUrl, name: &str) {
        let Some(state) = self.types.get_mut(type_url) else {
            return;
        };
        if name == WILDCARD {
            state.wildcard = state.wildcard.saturating_sub(1);
            if state.wildcard > 0 {
                return;
            }
        } else {
            match state.names.get_mut(name) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    return;
                }
                _ => state.names.remove(name),
            };
        }
        state.shrunk = true;
        self.enqueue(type_url);
    }

    /// See [`super::Machine::known`].
    pub fn known(&self, type_url: &str, name: &str) -> Option<Received> {
        self.types.get(type_url)?.known.get(name).cloned()
    }

    /// See [`super::Machine::accepted`].
    pub fn accepted(&self, type_url: &str) -> Option<Update> {
        let state = self.types.get(type_url)?;
        state.answered.then(|| Update {
            version_info: state.version.clone(),
            resources: state.known.values().cloned().collect(),
            gone: Gone::Absent,
        })
    }

    /// See [`super::Machine::connected`]. Types are asked for in the order in
    /// which a configuration is built: clusters, endpoints, listeners, routes.
    pub fn connected(&mut self) {
        self.introduction.again();
        self.queue.clear();
        for state in self.types.values_mut() {
            state.nonce.clear();
            state.error = None;
            state.begun = false;
            state.queued = false;
            state.hold.again();
        }
        let wanted = self.types.iter().filter(|(_, state)| state.is_wanted());
        for type_url in in_order(wanted.map(|(type_url, _)| type_url)) {
            self.enqueue(&type_url);
        }
    }

    /// See [`super::Machine::hold`].
    pub fn hold(&mut self, type_url: &TypeUrl, held: bool) {
        if let Some(state) = self.types.get_mut(type_url)
            && state.hold.set(held)
        {
            self.enqueue(type_url);
        }
    }

    fn enqueue(&mut self, type_url: &TypeUrl) {
        if let Some(state) = self.types.get_mut(type_url)
            && !(state.begun && state.hold.catches())
            && !std::mem::replace(&mut state.queued, true)
        {
            self.queue.push_back(type_url.clone());
        }
    }

    /// See [`super::Machine::pending`].
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// See [`super::Machine::next_request`].
    pub fn next_request(&mut self) -> Option<DiscoveryRequest> {
        loop {
            let type_url = self.queue.pop_front()?;
            let Some(state) = self.types.get_mut(&type_url) else {
                continue;
            };
            state.queued = false;
            if state.begun && state.hold.catches() {
                continue;
            }
            if std::mem::take(&mut state.shrunk) {
                let names = &state.names;
                let ttls = &mut self.ttls;
                let all = state.wildcard > 0 && is_remembered(&type_url);
                state.answered &= all;
                state.known.retain(|name, _| {
                    let keep = all || names.contains_key(name);
                    if !keep {
                        ttls.forget(&type_url, name);
                    }
                    keep
                });
            }
            // No name at all would ask for everything, unless there were some before.
            if !state.is_wanted() && !state.begun {
                continue;
            }
            state.begun = true;
            let mut names: Vec<String> = state.names.keys().map(|name| name.to_string()).collect();
            if state.wildcard > 0 && !names.is_empty() {
                names.insert(0, WILDCARD.to_owned());
            }
            return Some(DiscoveryRequest {
                version_info: state.version.to_string(),
                node: self.introduction.node(),
                resource_names: names,
                type_url: type_url.to_string(),
                response_nonce: state.nonce.clone(),
                error_detail: state.error.take(),
                resource_locators: Vec::new(),
            });
        }
    }

    /// See [`super::Machine::receive`].
    pub fn receive(&mut self, response: DiscoveryResponse, now: Instant) -> Option<Push> {
        let DiscoveryResponse {
            version_info,
            resources,
            // Marks a rollout, for people.
            canary: _,
            type_url,
            nonce,
            control_plane: _,
            resource_errors,
        } = response;
        let Some((type_url, state)) = self.types.get_key_value(&*type_url) else {
            tracing::warn!(
                target: "config",
                "Ignoring the message for type URL {type_url} as it has no current subscribers."
            );
            return None;
        };
        let type_url = type_url.clone();
        let wanted = state.is_wanted();
        if let Some(state) = self.types.get_mut(&type_url) {
            state.nonce.clone_from(&nonce);
            if !wanted {
                // It crossed with the request that gave up the last name.
                match resources.is_empty() {
                    true => state.version = version_info.into(),
                    false => self.enqueue(&type_url),
                }
                return None;
            }
        }
        for error in resource_errors {
            super::log_resource_error(&type_url, error);
        }
        let update = self.read(&type_url, version_info.into(), resources, now);
        Some(Push {
            type_url,
            nonce: Some(nonce),
            update,
        })
    }

    fn read(
        &mut self,
        type_url: &TypeUrl,
        version: Arc<str>,
        resources: Vec<prost_types::Any>,
        now: Instant,
    ) -> Result<Update, String> {
        let mut received = Vec::with_capacity(resources.len());
        let (mut errors, mut seen) = (Vec::new(), HashSet::new());
        let mut lives = Vec::new();
        let state = self.types.get(type_url);
        let is_wildcard = state.is_some_and(|state| state.wildcard > 0);
        for (index, any) in resources.into_iter().enumerate() {
            match unwrap_any(any, type_url) {
                Ok(Unwrapped {
                    name,
                    aliases,
                    version: own,
                    ttl,
                    raw,
                }) => {
                    let wanted = is_wildcard || state.is_some_and(|s| s.names.contains_key(&name));
                    if !wanted {
                        continue;
                    }
                    lives.push((name.clone(), ttl));
                    let Some(raw) = raw else { continue };
                    // Clusters and listeners say themselves which of two is meant.
                    if !seen.insert(name.clone()) && !is_wildcard {
                        errors.push(format!(
                            "resources[{index}]: duplicate resource {name} found"
                        ));
                        continue;
                    }
                    received.push(Received {
                        name,
                        aliases,
                        // In Envoy it has one of its own only where all are sent.
                        version: own
                            .filter(|_| is_wildcard)
                            .unwrap_or_else(|| version.clone()),
                        resource: Encoded::from(raw),
                    });
                }
                Err(error) => errors.push(format!("resources[{index}]: {error}")),
            }
        }
        if !errors.is_empty() {
            return Err(errors.join("\n"));
        }
        let heartbeats = lives.len() > received.len();
        for (name, ttl) in lives {
            self.ttls.set(type_url, &name, now, ttl);
        }
        // An answer with a heartbeat says nothing of what it does not name.
        let gone = match is_wildcard && !heartbeats {
            true => Gone::Absent,
            false => Gone::Named(Vec::new()),
        };
        Ok(Update {
            version_info: version,
            resources: received,
            gone,
        })
    }

    /// See [`super::Machine::verdict`].
    pub fn verdict(&mut self, push: &Answered, verdict: &Verdict) {
        let Some(state) = self.types.get_mut(&push.type_url) else {
            return;
        };
        let refused = matches!(verdict, Verdict::Nack { refused: None, .. });
        state.answered |= !refused;
        let all = state.wildcard > 0 && is_remembered(&push.type_url);
        if all && push.is_whole && !refused {
            let names: HashSet<_> = push.resources.iter().map(|r| &r.name).collect();
            state.known.retain(|name, _| names.contains(name));
        }
        for received in &push.resources {
            let wanted = all || state.names.contains_key(&received.name);
            if wanted && verdict.accepts(&received.name) {
                state.known.insert(received.name.clone(), received.clone());
            }
        }
        for name in &push.gone {
            state.known.remove(name);
        }
        if push.nonce.is_none() {
            return;
        }
        state.error = verdict.error();
        if state.error.is_none() {
            state.version = push.version.clone();
        }
        self.enqueue(&push.type_url);
    }

    /// See [`super::Machine::expire`].
    pub fn expire(&mut self, now: Instant) -> Vec<Push> {
        let mut ended: BTreeMap<TypeUrl, Vec<Arc<str>>> = BTreeMap::new();
        for (type_url, name) in self.ttls.expire(now) {
            ended.entry(type_url).or_default().push(name);
        }
        let pushes = ended.into_iter().map(|(type_url, names)| {
            let state = self.types.get(&type_url);
            let version_info = state.map(|state| state.version.clone());
            super::expired(type_url, version_info.unwrap_or_default(), names)
        });
        pushes.collect()
    }
}

/// Types in the order in which they are asked for.
pub(super) fn in_order<'a>(types: impl Iterator<Item = &'a TypeUrl>) -> Vec<TypeUrl> {
    let mut types: Vec<_> = types.cloned().collect();
    types.sort_by_key(|type_url| (order(type_url), type_url.clone()));
    types
}

fn order(type_url: &str) -> usize {
    const ORDER: [&str; 5] = [
        "envoy.config.cluster.v3.Cluster",
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "envoy.config.listener.v3.Listener",
        "envoy.config.route.v3.RouteConfiguration",
    ];
    let name = type_url.rsplit('/').next().unwrap_or_default();
    let place = ORDER.iter().position(|known| *known == name);
    place.unwrap_or(ORDER.len())
}
