//! The delta variant: requests carry what is asked for since the last one, and
//! answers what has changed.
//!
//! The server remembers what a stream asks for. Each of its answers gets an ACK
//! or a NACK of its own, by nonce; those go out in the order of the answers, and
//! take along whatever else there is to say. The first request of a stream
//! carries everything that is asked for, and the version of all that is known.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::{
    api::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, ResourceName,
        },
    },
    api::google::rpc,
    xds::{
        resource::Encoded,
        update::{Gone, Received, Update},
    },
};

use super::{
    Answered, Introduction, Push, TypeUrl, Unwrapped, Verdict, WILDCARD, hold::Hold, is_remembered,
    sotw::in_order, ttl::Ttls, unwrap,
};

/// How many verdicts on one type may be held; those beyond go out.
const MAX_HELD: usize = 100;

/// What is known of every type.
#[derive(Debug)]
pub struct Delta {
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
    names: HashMap<Arc<str>, usize>,
    wildcard: usize,
    /// What the server has been told on this stream, [`WILDCARD`] included.
    told: HashSet<Arc<str>>,
    /// Names whose standing may differ from what the server was told.
    changed: BTreeSet<Arc<str>>,
    /// Versions of what was accepted; kept across streams.
    versions: HashMap<Arc<str>, Arc<str>>,
    /// What was accepted by name; see also [`is_remembered`].
    known: HashMap<Arc<str>, Received>,
    /// Of the last answer of which anything was accepted.
    answered: Option<Arc<str>>,
    verdicts: VecDeque<(String, Option<rpc::Status>)>,
    /// Asked for on this stream.
    begun: bool,
    queued: bool,
    hold: Hold,
}

impl State {
    /// Whether what there is to say has to wait.
    fn is_held(&mut self) -> bool {
        self.begun && self.verdicts.len() < MAX_HELD && self.hold.catches()
    }

    fn wants(&self, name: &str) -> bool {
        match name {
            WILDCARD => self.wildcard > 0,
            _ => self.names.contains_key(name),
        }
    }

    /// Whether an answer about this name concerns anybody.
    fn accepts(&self, name: &str) -> bool {
        self.wildcard > 0 || self.names.contains_key(name)
    }

    fn forget(&mut self, name: &str) {
        self.versions.remove(name);
        self.known.remove(name);
    }

    /// Forgets whatever nobody asks for by its name.
    fn forget_others(&mut self) {
        let names = &self.names;
        self.versions.retain(|name, _| names.contains_key(name));
        self.known.retain(|name, _| names.contains_key(name));
        self.answered = None;
    }
}

impl Delta {
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
        let name: Arc<str> = name.into();
        let count = match &*name {
            WILDCARD => &mut state.wildcard,
            _ => state.names.entry(name.clone()).or_default(),
        };
        *count += 1;
        if *count == 1 {
            state.changed.insert(name);
            self.enqueue(type_url);
        }
    }

    /// See [`super::Machine::unsubscribe`].
    pub fn unsubscribe(&mut self, type_url: &TypeUrl, name: &str) {
        let Some(state) = self.types.get_mut(type_url) else {
            return;
        };
        let count = match name {
            WILDCARD => Some(&mut state.wildcard),
            _ => state.names.get_mut(name),
        };
        match count {
            None | Some(0) => return,
            Some(count) => *count -= 1,
        }
        if state.names.get(name) == Some(&0) {
            state.names.remove(name);
        }
        if !state.wants(name) {
            state.changed.insert(name.into());
            self.enqueue(type_url);
        }
    }

    /// See [`super::Machine::known`].
    pub fn known(&self, type_url: &str, name: &str) -> Option<Received> {
        self.types.get(type_url)?.known.get(name).cloned()
    }

    /// See [`super::Machine::accepted`].
    pub fn accepted(&self, type_url: &str) -> Option<Update> {
        let state = self.types.get(type_url)?;
        Some(Update {
            version_info: state.answered.clone()?,
            resources: state.known.values().cloned().collect(),
            gone: Gone::Named(Vec::new()),
        })
    }

    /// See [`super::Machine::connected`].
    pub fn connected(&mut self) {
        self.introduction.again();
        self.queue.clear();
        for state in self.types.values_mut() {
            state.told.clear();
            state.verdicts.clear();
            state.changed.clear();
            state.begun = false;
            state.queued = false;
            state.hold.again();
            // What is not asked for any more will not be heard of either.
            if state.wildcard == 0 {
                state.forget_others();
            }
            state.changed.extend(state.names.keys().cloned());
            if state.wildcard > 0 {
                state.changed.insert(WILDCARD.into());
            }
        }
        let wanted = self
            .types
            .iter()
            .filter(|(_, state)| !state.changed.is_empty());
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
            && !state.is_held()
            && !std::mem::replace(&mut state.queued, true)
        {
            self.queue.push_back(type_url.clone());
        }
    }

    /// See [`super::Machine::pending`].
    pub fn pending(&self) -> usize {
        let waiting = self.queue.iter().filter_map(|t| self.types.get(t));
        waiting.map(|state| state.verdicts.len().max(1)).sum()
    }

    /// See [`super::Machine::next_request`].
    pub fn next_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        loop {
            let type_url = self.queue.pop_front()?;
            let Some(state) = self.types.get_mut(&type_url) else {
                continue;
            };
            state.queued = false;
            if state.is_held() {
                continue;
            }
            let (mut subscribe, mut unsubscribe) = (Vec::new(), Vec::new());
            for name in std::mem::take(&mut state.changed) {
                match (state.wants(&name), state.told.contains(&name)) {
                    (true, false) => {
                        subscribe.push(name.to_string());
                        state.told.insert(name);
                    }
                    (false, true) => {
                        unsubscribe.push(name.to_string());
                        state.told.remove(&name);
                        if *name == *WILDCARD {
                            state.forget_others();
                        } else if state.wildcard == 0 {
                            state.forget(&name);
                            self.ttls.forget(&type_url, &name);
                        }
                    }
                    // It was given up and asked for again. What is known of it was handed
                    // over; where nothing is, the server has to say it again.
                    (true, true) if *name != *WILDCARD && !state.known.contains_key(&name) => {
                        subscribe.push(name.to_string());
                    }
                    (true, true) | (false, false) => {}
                }
            }
            let verdict = state.verdicts.pop_front();
            let more = !state.verdicts.is_empty();
            let silent = verdict.is_none() && subscribe.is_empty() && unsubscribe.is_empty();
            if silent {
                continue;
            }
            let first = !std::mem::replace(&mut state.begun, true);
            // On its own the wildcard is meant by naming nothing.
            if first && subscribe == [WILDCARD] {
                subscribe.clear();
            }
            let versions = match first {
                true => state.versions.iter(),
                false => Default::default(),
            };
            let (response_nonce, error_detail) = verdict.unwrap_or_default();
            let request = DeltaDiscoveryRequest {
                node: self.introduction.node(),
                type_url: type_url.to_string(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                initial_resource_versions: versions
                    .map(|(name, version)| (name.to_string(), version.to_string()))
                    .collect(),
                response_nonce,
                error_detail,
                resource_locators_subscribe: Vec::new(),
                resource_locators_unsubscribe: Vec::new(),
            };
            if more {
                self.enqueue(&type_url);
            }
            return Some(request);
        }
    }

    /// See [`super::Machine::receive`].
    pub fn receive(&mut self, response: DeltaDiscoveryResponse, now: Instant) -> Option<Push> {
        let DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            nonce,
            removed_resources,
            control_plane: _,
            removed_resource_names,
            resource_errors,
        } = response;
        let Some(type_url) = self.types.get_key_value(&*type_url).map(|(t, _)| t.clone()) else {
            tracing::warn!(
                target: "config",
                "Dropping received DeltaDiscoveryResponse (with version {system_version_info}) \
                 for non-existent subscription {type_url}."
            );
            return None;
        };
        for error in resource_errors {
            super::log_resource_error(&type_url, error);
        }
        let named = removed_resource_names.into_iter().map(|resource| {
            let ResourceName {
                name,
                // A name with constraints would be one among several of that name.
                dynamic_parameter_constraints: _,
            } = resource;
            name
        });
        let removed = removed_resources.into_iter().chain(named).collect();
        let update = self.read(
            &type_url,
            system_version_info.into(),
            resources,
            removed,
            now,
        );
        Some(Push {
            type_url,
            nonce: Some(nonce),
            update,
        })
    }

    fn read(
        &mut self,
        type_url: &TypeUrl,
        version_info: Arc<str>,
        resources: Vec<Resource>,
        removed: Vec<String>,
        now: Instant,
    ) -> Result<Update, String> {
        let Some(state) = self.types.get_mut(type_url) else {
            return Err("nobody asked for it".to_owned());
        };
        let (mut errors, mut seen) = (Vec::new(), HashSet::new());
        let (mut received, mut lives) = (Vec::with_capacity(resources.len()), Vec::new());
        let mut absent = Vec::new();
        for (index, resource) in resources.into_iter().enumerate() {
            match unwrap(resource, type_url) {
                Ok(Unwrapped {
                    name,
                    aliases,
                    version,
                    ttl,
                    raw,
                }) => {
                    if !seen.insert(name.clone()) {
                        errors.push(format!(
                            "duplicate name {name} found among added/updated resources"
                        ));
                        continue;
                    }
                    if !state.accepts(&name) {
                        continue;
                    }
                    if raw.is_none() && ttl.is_none() {
                        absent.extend(aliases.into_iter().chain([name]));
                        continue;
                    }
                    lives.push((name.clone(), ttl));
                    let Some(raw) = raw else { continue };
                    received.push(Received {
                        name,
                        aliases,
                        version: version.unwrap_or_default(),
                        resource: Encoded::from(raw),
                    });
                }
                Err(error) => errors.push(format!("resources[{index}]: {error}")),
            }
        }
        let mut gone: Vec<Arc<str>> = absent;
        for name in removed {
            if !seen.insert(name.as_str().into()) {
                errors.push(format!(
                    "duplicate name {name} found in the union of added+removed resources"
                ));
            } else if state.accepts(&name) {
                gone.push(name.into());
            }
        }
        if !errors.is_empty() {
            return Err(errors.join("\n"));
        }
        for (name, ttl) in lives {
            self.ttls.set(type_url, &name, now, ttl);
        }
        for name in &gone {
            self.ttls.forget(type_url, name);
        }
        Ok(Update {
            version_info,
            resources: received,
            gone: Gone::Named(gone),
        })
    }

    /// See [`super::Machine::verdict`].
    pub fn verdict(&mut self, push: &Answered, verdict: &Verdict) {
        let Some(state) = self.types.get_mut(&push.type_url) else {
            return;
        };
        for received in &push.resources {
            let name = &received.name;
            if !verdict.accepts(name) || !state.accepts(name) {
                continue;
            }
            state
                .versions
                .insert(name.clone(), received.version.clone());
            if state.names.contains_key(name) || is_remembered(&push.type_url) {
                state.known.insert(name.clone(), received.clone());
            }
        }
        for name in &push.gone {
            state.forget(name);
        }
        if !matches!(verdict, Verdict::Nack { refused: None, .. }) {
            state.answered = Some(push.version.clone());
        }
        if let Some(nonce) = &push.nonce {
            state.verdicts.push_back((nonce.clone(), verdict.error()));
            self.enqueue(&push.type_url);
        }
    }

    /// See [`super::Machine::expire`].
    pub fn expire(&mut self, now: Instant) -> Vec<Push> {
        let mut pushes = Vec::new();
        for (type_url, name) in self.ttls.expire(now) {
            pushes.push(super::expired(type_url, Arc::default(), vec![name]));
        }
        pushes
    }
}
