//! One name and all its versions.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use tokio::time::Instant;

use crate::{
    admin::state::{self, Origin},
    api::envoy::admin::v3::ClientResourceStatus,
    config::Strictness,
    xds::resource::{Encoded, Refused},
};

use super::Kind;

pub(super) use crate::xds::resource::Version;

pub(super) type Entries<B> = BTreeMap<Arc<str>, Entry<B>>;

/// One name and all its versions.
pub(super) struct Entry<B> {
    pub origin: Origin,
    pub active: Option<Version<B>>,
    pub warming: Option<Warming<B>>,
    pub refused: Option<Refused>,
    /// It is what an earlier run accepted, and this says so.
    pub stale: Option<Arc<str>>,
}

/// A version that waits for what it depends on.
pub(super) struct Warming<B> {
    pub version: Version<B>,
    /// When it goes on without; `None` is never.
    pub deadline: Option<Instant>,
}

/// What was taken away while requests were still led to it. It serves as it is:
/// its subscriptions have ended, for some servers answer nothing to who asks for
/// what they have taken away.
pub(super) struct Lingering<B> {
    pub built: B,
    /// When it ends, whoever leads to it.
    pub until: Instant,
}

impl<B> Entry<B> {
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            active: None,
            warming: None,
            refused: None,
            stale: None,
        }
    }

    /// The active version, then the warming one.
    pub fn built(&self) -> impl Iterator<Item = &B> {
        let active = self.active.as_ref().map(|version| &version.built);
        let warming = self.warming.as_ref().map(|warming| &warming.version.built);
        active.into_iter().chain(warming)
    }

    pub fn is_static(&self) -> bool {
        self.origin == Origin::Static
    }

    /// What was skipped for a resource of the bootstrap is no longer offered.
    pub fn unskip(&mut self) {
        let own = self.active.as_ref().map(|version| version.hash);
        if self.refused.as_ref().map(|refused| refused.hash) != own {
            self.refused = None;
        }
    }

    /// When the resource is one that is accepted already, keeps it: the newest
    /// copy of it, so that older documents can be let go of. An active one ends
    /// the warming of what was to replace it.
    pub fn keep(&mut self, encoded: &Encoded) -> bool {
        let hash = encoded.hash();
        if let Some(Warming { version, .. }) = &mut self.warming
            && version.hash == hash
        {
            encoded.follow(&version.encoded);
            version.encoded = encoded.clone();
        } else if let Some(active) = &mut self.active
            && active.hash == hash
        {
            encoded.follow(&active.encoded);
            active.encoded = encoded.clone();
            self.warming = None;
        } else {
            return false;
        }
        // It may have been refused when it was built again, for a file that
        // changed; then that error stands.
        if self.refused.as_ref().is_some_and(|r| r.hash != hash) {
            self.refused = None;
        }
        true
    }

    /// The newest answer holds what is accepted already, under this version.
    pub fn confirm(&mut self, version_info: &Arc<str>) {
        let warming = self.warming.as_mut().map(|warming| &mut warming.version);
        if let Some(version) = warming.or(self.active.as_mut()) {
            version.version_info = version_info.clone();
            version.updated = SystemTime::now();
        }
    }

    /// The warming version, or else the active one.
    pub fn latest(&self) -> Option<&Version<B>> {
        let warming = self.warming.as_ref().map(|warming| &warming.version);
        warming.or(self.active.as_ref())
    }

    /// What is to be built again: something it lacked may have come, or a file
    /// it is made of has changed.
    pub fn to_refresh(&self) -> Option<(Encoded, Arc<str>)> {
        if let Some(refused) = &self.refused {
            let again = || (refused.encoded.clone(), refused.version_info.clone());
            return refused.may_be_right().then(again);
        }
        let latest = self.latest()?;
        let again = || (latest.encoded.clone(), latest.version_info.clone());
        latest.dependencies.stale().then(again)
    }

    /// For the admin.
    pub fn view<K: Kind<Built = B>>(
        &self,
        name: &Arc<str>,
        strictness: &Strictness,
    ) -> state::Resource {
        let view = |version: &Version<B>| version.view::<K::Message>(strictness);
        let refused = self.refused.as_ref();
        state::Resource {
            name: name.clone(),
            origin: self.origin.clone(),
            active: self.active.as_ref().map(view),
            warming: self.warming.as_ref().map(|w| view(&w.version)),
            draining: None,
            error: match (refused, &self.stale) {
                (Some(refused), _) => Some(refused.view::<K::Message>(strictness)),
                (None, Some(stale)) => self.active.as_ref().map(|active| active.is_stale(stale)),
                (None, None) => None,
            },
            status: match (refused, &self.warming, &self.active) {
                (Some(_), ..) if !self.is_static() => ClientResourceStatus::Nacked,
                (_, Some(_), _) => ClientResourceStatus::Requested,
                (_, None, Some(_)) => ClientResourceStatus::Acked,
                (_, None, None) => ClientResourceStatus::DoesNotExist,
            },
        }
    }
}
