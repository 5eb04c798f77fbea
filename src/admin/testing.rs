//! A state to ask, for the tests of endpoints.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use prost::Message;

use crate::{
    api::envoy::{admin::v3::CommandLineOptions, config::core::v3::Node},
    runtime::{Layer, Runtime},
    server::empty_snapshot,
    stats,
};

use super::{
    endpoint,
    request::Request,
    state::{
        ConfigView, DrainListeners, Encoding, Kind, Lifecycle, LogControl, LogLevelError, Resource,
        ServerFacts, ServerState, Set, Source, State, Unready, Version,
    },
};

/// What the fakes were told, and what they tell.
#[derive(Default)]
pub struct Fake {
    pub health_failed: Cell<bool>,
    pub deeds: RefCell<Vec<String>>,
    pub resources: RefCell<Vec<(Kind, Resource)>>,
    pub sources: RefCell<Vec<Source>>,
    pub levels: RefCell<Vec<(&'static str, &'static str)>>,
}

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

impl Lifecycle for Fake {
    fn state(&self) -> ServerState {
        match self.health_failed.get() {
            true => ServerState::Draining,
            false => ServerState::Live,
        }
    }
    fn fail_health_checks(&self) {
        self.health_failed.set(true);
    }
    fn pass_health_checks(&self) {
        self.health_failed.set(false);
    }
    fn drain_listeners(&self, how: DrainListeners) {
        self.deeds.borrow_mut().push(format!("{how:?}"));
    }
    fn quit(&self) {
        self.deeds.borrow_mut().push("quit".to_owned());
    }
    fn reopen_logs(&self) {
        self.deeds.borrow_mut().push("reopen".to_owned());
    }
    fn connections(&self) -> u64 {
        0
    }
}

impl LogControl for Fake {
    fn levels(&self) -> Vec<(&'static str, &'static str)> {
        self.levels.borrow().clone()
    }
    fn set_level(&self, logger: Option<&str>, level: &str) -> Result<(), LogLevelError> {
        let known = LEVELS.into_iter().find(|known| *known == level);
        let level = known.ok_or_else(|| LogLevelError::Level(level.to_owned()))?;
        let mut levels = self.levels.borrow_mut();
        let mut found = false;
        for (name, now) in levels.iter_mut() {
            if logger.is_none_or(|logger| logger == *name) {
                *now = level;
                found = true;
            }
        }
        match found {
            true => Ok(()),
            false => Err(LogLevelError::Logger(logger.unwrap_or_default().to_owned())),
        }
    }
}

impl ConfigView for Fake {
    fn bootstrap(&self) -> (Bytes, SystemTime) {
        let bootstrap = crate::api::envoy::config::bootstrap::v3::Bootstrap {
            node: Some(Node {
                id: "n1".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        (bootstrap.encode_to_vec().into(), moment())
    }
    fn resources(&self, kind: Kind) -> Vec<Resource> {
        let resources = self.resources.borrow();
        let of_kind = resources.iter().filter(|(k, _)| *k == kind);
        of_kind.map(|(_, resource)| resource.clone()).collect()
    }
    fn scopes(&self) -> Vec<Set> {
        Vec::new()
    }

    fn version(&self, _: Kind) -> Arc<str> {
        "v1".into()
    }
    fn sources(&self) -> Vec<Source> {
        self.sources.borrow().clone()
    }
    fn unready(&self) -> Vec<Unready> {
        Vec::new()
    }
}

/// 2026-01-02T03:04:05.678Z
pub fn moment() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_767_323_045_678)
}

/// One version of a resource.
pub fn version(message: &impl Message) -> Version {
    Version {
        version_info: "v1".into(),
        last_updated: moment(),
        message: Encoding::new({
            let bytes = Bytes::from(message.encode_to_vec());
            move || bytes.clone()
        }),
    }
}

/// A state whose parts are the fake.
pub fn state() -> (Rc<State>, Rc<Fake>) {
    let fake = Rc::new(Fake::default());
    *fake.levels.borrow_mut() = vec![("admin", "info"), ("upstream", "info")];
    let stats = stats::Registry::new(0);
    let state = State {
        server: ServerFacts {
            version: "rev/1.0/Clean/RELEASE/rustls".to_owned(),
            started: Instant::now(),
            options: CommandLineOptions::default(),
            node: Node::default(),
        },
        snapshot: empty_snapshot(),
        config: Rc::clone(&fake) as Rc<dyn ConfigView>,
        runtime: Runtime::new(vec![Layer::admin("admin")], &stats),
        stats,
        log: Rc::clone(&fake) as Rc<dyn LogControl>,
        lifecycle: Rc::clone(&fake) as Rc<dyn Lifecycle>,
        settings: Rc::default(),
        paths: super::AllowedPaths::default(),
        certificate_gauges: Default::default(),
    };
    (Rc::new(state), fake)
}

/// The status and text of an answer.
pub fn ask(state: &Rc<State>, method: Method, target: &str) -> (StatusCode, String) {
    let answer = endpoint::route(state, &method, &Request::new(target, None));
    (answer.status, answer.body.into_text())
}

/// The text of an answer to a `GET`.
pub fn get(state: &Rc<State>, target: &str) -> String {
    ask(state, Method::GET, target).1
}

/// The text of an answer to a `POST`.
pub fn post(state: &Rc<State>, target: &str) -> String {
    ask(state, Method::POST, target).1
}
