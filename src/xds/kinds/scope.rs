//! Scopes: each warms until its routes have come.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    admin::state,
    api::envoy::config::{core::v3::ConfigSource, route::v3::ScopedRouteConfiguration},
    config::{At, Reported, Strictness},
    model::{
        Context,
        route::{Scope, ScopeKey, ScopeRoutes, ScopeTable, ScopedTable},
    },
    stats::{self, Block},
    xds::{
        demand::What,
        manager::{Event, Kind, Needs, Peers},
        set::{SetKind, Wanted},
        stats::scope_stats as names,
        update::{Gone, Update},
    },
};

/// Compiles the scopes of one connection manager.
pub struct ScopeKind {
    source: Option<ConfigSource>,
    stat_prefix: Box<str>,
    stats: Arc<Block>,
    /// Whose each key is when the last answer has been applied.
    keys: HashMap<ScopeKey, Arc<str>>,
    /// Those that somebody has asked for although they are `on_demand`.
    demanded: HashSet<Arc<str>>,
}

impl ScopeKind {
    /// Scopes whose routes are had as `routes` says, and whose stats stand under
    /// `prefix`.
    pub fn new(routes: ScopeRoutes<'_>, prefix: &str, stats: &stats::Registry) -> Self {
        Self {
            source: routes.source.cloned(),
            stat_prefix: routes.stat_prefix.into(),
            stats: stats.block(prefix, &names::TABLE),
            keys: HashMap::new(),
            demanded: HashSet::new(),
        }
    }
}

impl Kind for ScopeKind {
    type Message = ScopedRouteConfiguration;
    type Built = Scope;
    const KIND: state::Kind = state::Kind::Scope;
    const NOUN: &'static str = "scoped route";
    // A key that one scope gives up is another's in the same answer.
    const REMOVE_FIRST: bool = true;

    fn name(message: &Self::Message) -> &str {
        &message.name
    }

    /// Says whose each key will be: of two scopes that want the same one, that
    /// which is not part of the answer has it, or that which stands first in it.
    fn prepare(&mut self, answer: &Update, peers: &Peers<'_, Scope>, strictness: &Strictness) {
        self.keys.clear();
        let named: HashSet<&str> = answer.resources.iter().map(|r| &*r.name).collect();
        self.demanded.retain(|name| match &answer.gone {
            Gone::Absent => named.contains(&**name),
            Gone::Named(gone) => !gone.contains(name),
        });
        if let Gone::Named(gone) = &answer.gone {
            let stays = |name: &Arc<str>| !named.contains(&**name) && !gone.contains(name);
            for (name, scope) in peers.others().filter(|(name, _)| stays(name)) {
                self.keys.insert(scope.key.clone(), name.clone());
            }
        }
        for received in &answer.resources {
            if let Some(ScopedRouteConfiguration { key: Some(key), .. }) =
                received.resource.peek(strictness)
            {
                let key = ScopeKey::of(&key);
                let name = || received.name.clone();
                self.keys.entry(key).or_insert_with(name);
            }
        }
    }

    fn build(
        &mut self,
        message: Self::Message,
        peers: &Peers<'_, Scope>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Scope, Reported> {
        let name = message.name.clone();
        let routes = ScopeRoutes {
            source: self.source.as_ref(),
            stat_prefix: &self.stat_prefix,
        };
        let demanded = self.demanded.contains(name.as_str());
        let scope = Scope::compile(message, routes, demanded, cx, at)?;
        match self.keys.get(&scope.key) {
            Some(first) if **first != *name => {
                peers.try_again();
                Err(at.field("key").error(format_args!(
                    "scope key conflict found, first scope is '{first}', second scope is '{name}'"
                )))
            }
            _ => Ok(scope),
        }
    }

    fn is_ready(&self, _scope: &Scope, needs: &Needs<'_>) -> bool {
        needs.are_met()
    }

    fn activate(&mut self, _scope: &Scope, _previous: Option<&Scope>) {}

    fn count(&mut self, event: Event<'_, Scope>) {
        match event {
            // They are counted as a whole.
            Event::Added | Event::Modified { .. } | Event::Removed | Event::Totals { .. } => {}
        }
    }
}

impl SetKind for ScopeKind {
    type Whole = ScopeTable;
    const SHORT: &'static str = "srds";
    const TARGET: &'static str = "ConfigSubscriptionCommonBase init target 'SRDS'";

    fn whole<'a>(&self, active: impl Iterator<Item = &'a Scope>) -> ScopeTable {
        let (mut all, mut discovered, mut on_demand) = (0, 0, 0);
        let table = ScopeTable::new(active.inspect(|scope| {
            all += 1;
            match &scope.routes {
                ScopedTable::Inline(_) => {}
                ScopedTable::Discovered(_) => discovered += 1,
                ScopedTable::OnDemand => {}
            }
            on_demand += u64::from(scope.on_demand);
        }));
        self.stats.gauge_set(names::all_scopes, all);
        self.stats.gauge_set(names::active_scopes, discovered);
        self.stats.gauge_set(names::on_demand_scopes, on_demand);
        table
    }

    fn wants<'a>(
        &mut self,
        what: &What,
        mut active: impl Iterator<Item = (&'a Arc<str>, &'a Scope)>,
    ) -> Wanted {
        let What::Scope(key) = what else {
            return Wanted::Nothing;
        };
        let is = |scope: &Scope| scope.key == *key && matches!(scope.routes, ScopedTable::OnDemand);
        match active.find(|(_, scope)| is(scope)) {
            // Its routes are asked for already when it is not the first.
            Some((name, _)) if self.demanded.insert(name.clone()) => Wanted::Rebuilt(name.clone()),
            Some((name, _)) => Wanted::Awaited(name.clone()),
            None => Wanted::Nothing,
        }
    }
}
