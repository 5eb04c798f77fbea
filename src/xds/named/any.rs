//! A named subscription as those see it who do not mind its kind: what happens
//! to it.

use std::{path::Path, sync::Arc};

use prost::{Message, Name};
use tokio::time::Instant;

use super::{Named, NamedKind, State, Waiting};
use crate::{
    admin::state::{self, Encoding, Origin, Source},
    api::envoy::admin::v3::ClientResourceStatus,
    config::{Strictness, read_discovery},
    xds::{
        config_source::{ConfigSource, Origin as SourceOrigin},
        dependencies::Awaited,
        resource::{Refused, Version},
        stats::{extension_stats, rotation_stats},
        subscriptions::Subscriptions,
        update::{Received, Update},
    },
};

/// [`Named`] of any kind.
pub trait AnyNamed: Awaited {
    /// Which kind.
    fn kind(&self) -> state::Kind;
    /// The file was replaced, or SIGHUP came: reads it. A server says by itself
    /// what is new.
    fn reload(&self, subscriptions: &Subscriptions);
    /// A server's answer holds the resource: `version_info` is the answer's.
    ///
    /// # Errors
    /// Why it is refused.
    fn deliver(
        &self,
        received: Received,
        version_info: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Result<(), Arc<str>>;
    /// A server says that there is no such resource. What is in force stays, unless
    /// [`NamedKind::ENDS`].
    fn gone(&self, version_info: &Arc<str>);
    /// A server's answer, which may hold the resource, is refused as a whole.
    fn refuse(&self, details: &Arc<str>, subscriptions: &Subscriptions);
    /// The server that is polled has nothing new.
    fn unchanged(&self);
    /// There is no server, or not any more.
    fn unreachable(&self, details: &Arc<str>, subscriptions: &Subscriptions);
    /// Serves what an earlier run accepted, if there is nothing else.
    fn fall_back(&self, why: &str, subscriptions: &Subscriptions);
    /// There is a server again.
    fn reached(&self);
    /// The file was written in place.
    fn edited_in_place(&self);
    /// Compiles again what depends on a file that changed, or lacked something
    /// that may have come. True when another value is in force.
    fn refresh(&self, subscriptions: &Subscriptions) -> bool;
    /// Whether the end of something that is not about it (a cluster warmed, a
    /// file that was missing came) may change how it stands.
    fn is_restless(&self) -> bool;
    /// Whether it is held back for clusters.
    fn is_held_back(&self) -> bool;
    /// When it goes on without the clusters that it is held back for.
    fn held_until(&self) -> Option<Instant>;
    /// The subscription, for the admin; `None` for a resource of the bootstrap.
    fn source(&self) -> Option<Source>;
    /// The resource, for the admin.
    fn resource(&self, subscriptions: &Subscriptions) -> state::Resource;
}

impl<K: NamedKind> AnyNamed for Named<K> {
    fn kind(&self) -> state::Kind {
        K::KIND
    }

    fn reload(&self, subscriptions: &Subscriptions) {
        if let Some(ConfigSource {
            origin: SourceOrigin::File(file),
            initial_fetch_timeout: _,
        }) = &self.source
        {
            self.ledger.attempt();
            let path: &Path = &file.path;
            let answer = read_discovery(path, &K::Message::type_url());
            self.read(answer.map(Update::from), subscriptions);
        }
    }

    fn deliver(
        &self,
        received: Received,
        version_info: &Arc<str>,
        subscriptions: &Subscriptions,
    ) -> Result<(), Arc<str>> {
        self.ledger.attempt();
        let begun = Instant::now();
        let outcome = self.apply(received, version_info, subscriptions);
        let source = self.source.as_ref();
        if outcome.is_ok() && source.is_some_and(|source| source.origin.is_stream()) {
            self.ledger.took(begun.elapsed());
        }
        self.is_answered_now();
        outcome
    }

    fn gone(&self, version_info: &Arc<str>) {
        self.ledger.attempt();
        if let Some(shelf) = &self.shelf {
            shelf.forget(&self.name);
        }
        if K::ENDS {
            let was = self.state.take();
            self.slot.clear();
            if let Some(extension) = &self.stats.extension {
                extension.inc(extension_stats::config_reload);
            }
            if let (Some(shelf), Some(_)) = (&self.shelf, was.stale) {
                shelf.relieved(1);
            }
        }
        self.is_empty(version_info);
        self.is_answered_now();
    }

    fn refuse(&self, details: &Arc<str>, subscriptions: &Subscriptions) {
        self.ledger.attempt();
        self.ledger.refused(details.clone());
        self.fall_back(details, subscriptions);
        self.is_answered_now();
    }

    fn unchanged(&self) {
        self.ledger.attempt();
    }

    fn unreachable(&self, details: &Arc<str>, subscriptions: &Subscriptions) {
        self.ledger.unreachable(details);
        self.fall_back(details, subscriptions);
    }

    fn fall_back(&self, why: &str, subscriptions: &Subscriptions) {
        let Some(shelf) = &self.shelf else {
            return;
        };
        let is_served = |state: &State<_>| state.active.is_some() || state.waiting.is_some();
        if is_served(&self.state.borrow()) {
            return;
        }
        let Some(received) = shelf.get(&self.name) else {
            return;
        };
        let newest = self.state.borrow_mut().refused.take();
        let good = self.compile(received.resource, &received.version, subscriptions);
        let mut state = self.state.borrow_mut();
        // What is wrong with the newest is still to be seen.
        let own = std::mem::replace(&mut state.refused, newest);
        if !good {
            let details = own.map(|refused| refused.details).unwrap_or_default();
            let (short, name) = (K::SHORT, &self.name);
            tracing::warn!(target: "config", "{short}: '{name}' of an earlier run refused: {details}");
            return;
        }
        let stale = shelf.stale(why);
        state.stale = Some(stale.clone());
        drop(state);
        shelf.served(1);
        self.ledger
            .stale(format!("'{}' is {stale}", self.name).into());
        self.is_answered_now();
    }

    fn reached(&self) {
        self.ledger.reached();
    }

    fn edited_in_place(&self) {
        self.ledger.edited_in_place();
    }

    fn refresh(&self, subscriptions: &Subscriptions) -> bool {
        let went_on = self.go_on();
        let (again, version_info, was_refused) = {
            let state = self.state.borrow();
            match (&state.refused, &state.active) {
                (Some(refused), _) if refused.may_be_right() => {
                    let details = refused.details.clone();
                    (
                        refused.encoded.clone(),
                        refused.version_info.clone(),
                        Some(details),
                    )
                }
                (None, _)
                    if let Some(Waiting { version, .. }) = &state.waiting
                        && version.dependencies.stale() =>
                {
                    (version.encoded.clone(), version.version_info.clone(), None)
                }
                (None, Some(active)) if state.waiting.is_none() && active.dependencies.stale() => {
                    (active.encoded.clone(), active.version_info.clone(), None)
                }
                _ => return went_on,
            }
        };
        if self.compile(again, &version_info, subscriptions) {
            if was_refused.is_some() {
                self.ledger.cured();
                self.is_live(false, &version_info);
            }
            return true;
        }
        let details = self
            .state
            .borrow()
            .refused
            .as_ref()
            .map(|r| r.details.clone());
        if let Some(details) = details.filter(|d| Some(d) != was_refused.as_ref()) {
            if let Some(rotation) = &self.stats.rotation {
                rotation.inc(rotation_stats::key_rotation_failed);
            }
            tracing::warn!(target: "config", "{} {} not renewed: {details}", K::SHORT, self.name);
        }
        went_on
    }

    fn is_restless(&self) -> bool {
        let state = self.state.borrow();
        state.waiting.is_some() || state.refused.as_ref().is_some_and(Refused::may_be_cured)
    }

    fn is_held_back(&self) -> bool {
        self.state.borrow().waiting.is_some()
    }

    fn held_until(&self) -> Option<Instant> {
        self.state.borrow().waiting.as_ref()?.until
    }

    fn source(&self) -> Option<Source> {
        self.source.is_some().then(|| Source {
            resource: Some(self.name.clone()),
            ..self.ledger.source()
        })
    }

    fn resource(&self, subscriptions: &Subscriptions) -> state::Resource {
        let state = self.state.borrow();
        let strictness = subscriptions.strictness();
        let view = |v: &Version<()>| view::<K>(v, strictness);
        let error = state.refused.as_ref();
        state::Resource {
            name: self.name.clone(),
            origin: match self.source {
                None => Origin::Static,
                Some(_) => Origin::Dynamic(self.ledger.place().clone()),
            },
            active: state.active.as_ref().map(view),
            warming: state
                .waiting
                .as_ref()
                .map(|w| w.version.view::<K::Message>(strictness)),
            draining: None,
            error: match (error, &state.stale) {
                (Some(refused), _) => Some(refused.view::<K::Message>(strictness)),
                (None, Some(stale)) => state.active.as_ref().map(|active| active.is_stale(stale)),
                (None, None) => None,
            },
            status: match (error, &state.active) {
                (Some(_), _) => ClientResourceStatus::Nacked,
                (None, _) if state.waiting.is_some() => ClientResourceStatus::Requested,
                (None, Some(_)) => ClientResourceStatus::Acked,
                (None, None) if self.slot.is_answered() => ClientResourceStatus::DoesNotExist,
                (None, None) => ClientResourceStatus::Requested,
            },
        }
    }
}

/// A version in force, with what is part of it and came by itself.
fn view<K: NamedKind>(version: &Version<()>, strictness: &Strictness) -> state::Version {
    let view = version.view::<K::Message>(strictness);
    let parts = version.dependencies.parts.iter();
    let parts: Vec<_> = parts.flat_map(|(set, _)| set.in_force()).collect();
    if parts.is_empty() {
        return view;
    }
    let strictness = *strictness;
    state::Version {
        message: Encoding::new(move || {
            let bytes = view.message.bytes();
            let Ok(mut message) = K::Message::decode(bytes.clone()) else {
                return bytes;
            };
            K::add_parts(&mut message, parts.iter().cloned(), &strictness);
            message.encode_to_vec().into()
        }),
        ..view
    }
}
