//! What the admin sees of the configuration.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;

use crate::{
    admin::state::{ConfigView, Kind, Resource, Set, Source, Unready},
    xds::feed::Feed,
};

use super::Configurator;

impl ConfigView for Configurator {
    fn bootstrap(&self) -> (Bytes, SystemTime) {
        self.bootstrap.clone()
    }

    fn resources(&self, kind: Kind) -> Vec<Resource> {
        let strictness = self.subscriptions.strictness();
        match kind {
            Kind::Cluster => self.state.borrow().clusters.view(strictness),
            Kind::Listener => self.state.borrow().listeners.view(strictness),
            // They come in sets.
            Kind::Scope | Kind::VirtualHost => Vec::new(),
            Kind::Endpoint | Kind::Extension | Kind::Route | Kind::Runtime | Kind::Secret => {
                self.subscriptions.view(kind)
            }
        }
    }

    fn scopes(&self) -> Vec<Set> {
        let strictness = self.subscriptions.strictness();
        let sets = self.subscriptions.sets();
        let scopes = sets.iter().filter(|set| set.kind() == Kind::Scope);
        scopes.map(|set| set.view(strictness)).collect()
    }

    fn version(&self, kind: Kind) -> Arc<str> {
        let state = self.state.borrow();
        state.feed(kind).map(Feed::version_info).unwrap_or_default()
    }

    fn sources(&self) -> Vec<Source> {
        let state = self.state.borrow();
        let with_strays = |feed: &Feed, strays: bool| {
            let mut source = feed.source();
            source.is_lost |= strays && source.error.is_some();
            source
        };
        let (lds, cds) = (
            state
                .lds
                .iter()
                .map(|feed| with_strays(feed, state.listeners.has_strays())),
            state
                .cds
                .iter()
                .map(|feed| with_strays(feed, state.clusters.has_strays())),
        );
        let feeds = lds.chain(cds);
        let named = self.subscriptions.all();
        let sets = self.subscriptions.sets();
        feeds
            .chain(sets.iter().map(|set| set.source()))
            .chain(named.iter().filter_map(|named| named.source()))
            .collect()
    }

    fn unready(&self) -> Vec<Unready> {
        let state = self.state.borrow();
        let mut server = Vec::new();
        if state.clusters.is_warming() {
            server.push("Cluster manager".to_owned());
        }
        if state.lds.is_some() && !state.lds_begun {
            server.push("LDS".to_owned());
        }
        server.extend(state.runtime.awaited());
        let mut unready = Vec::new();
        if !server.is_empty() {
            unready.push(Unready {
                name: "init manager Server".to_owned(),
                targets: server,
            });
        }
        for (name, _, needs) in state.clusters.warming() {
            unready.push(Unready {
                name: format!("init manager Cluster {name}"),
                targets: needs.awaited().collect(),
            });
        }
        for (name, _, needs) in state.listeners.warming() {
            unready.push(Unready {
                name: format!("init manager Listener-local-init-manager {name}"),
                targets: needs.awaited().collect(),
            });
        }
        unready
    }
}
