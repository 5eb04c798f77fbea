use std::{
    cell::RefCell,
    collections::{BTreeSet, HashSet},
    rc::Rc,
    time::Duration,
};

use proptest::prelude::*;
use prost::Name;

use super::*;
use crate::config::{Discovery, RawResource, read_file};
use crate::xds::update;
use crate::{
    api::envoy::config::cluster::v3::Cluster,
    model::{Context, context::ServerInfo},
    runtime::Runtime,
    stats,
};

/// Whether a fake resource is good is written in its `alt_stat_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Good,
    Bad,
    /// Refused until there is a cluster of this name.
    Needs(&'static str),
    /// Refused until there is a file of this path.
    Reads(&'static str),
    /// Warms until the test says that it is ready.
    Warms,
}

impl Nature {
    fn text(self) -> String {
        match self {
            Self::Good => "good".to_owned(),
            Self::Bad => "bad".to_owned(),
            Self::Needs(name) => format!("needs {name}"),
            Self::Reads(path) => format!("reads {path}"),
            Self::Warms => "warms".to_owned(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Built {
    version: u64,
    warms: bool,
}

#[derive(Default)]
struct Fake {
    ready: Rc<RefCell<HashSet<u64>>>,
    builds: Rc<Cell<usize>>,
}

impl Kind for Fake {
    type Message = Cluster;
    type Built = Built;
    const KIND: state::Kind = state::Kind::Cluster;
    const NOUN: &'static str = "thing";
    const REMOVE_FIRST: bool = false;

    fn name(message: &Cluster) -> &str {
        &message.name
    }

    fn build(
        &mut self,
        message: Cluster,
        _peers: &Peers<'_, Built>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Built, Reported> {
        self.builds.set(self.builds.get() + 1);
        let nature = message.alt_stat_name.as_str();
        if let Some(needed) = nature.strip_prefix("needs ") {
            cx.sources.cluster(needed, true, at)?;
        }
        if let Some(path) = nature.strip_prefix("reads ") {
            cx.sources.depends_on_file(path.as_ref());
            read_file(path.as_ref(), 1).map_err(|error| at.error(error))?;
        }
        if nature == "bad" {
            return Err(at.field("alt_stat_name").error("is bad"));
        }
        Ok(Built {
            version: message.connect_timeout.map_or(0, |t| t.seconds as u64),
            warms: nature == "warms",
        })
    }

    fn is_ready(&self, built: &Built, needs: &Needs<'_>) -> bool {
        needs.waited || !built.warms || self.ready.borrow().contains(&built.version)
    }

    fn activate(&mut self, _built: &Built, _previous: Option<&Built>) {}

    fn count(&mut self, _event: Event<'_, Built>) {}
}

struct Scene {
    manager: Manager<Fake>,
    subscriptions: Subscriptions,
    ready: Rc<RefCell<HashSet<u64>>>,
    builds: Rc<Cell<usize>>,
}

type Wanted<'a> = (&'a str, u64, Nature);

fn message(name: &str, version: u64, nature: Nature) -> Cluster {
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(prost_types::Duration {
            seconds: version as i64,
            nanos: 0,
        }),
        alt_stat_name: nature.text(),
        ..Cluster::default()
    }
}

fn answer(wanted: &[Wanted<'_>]) -> update::Update {
    let resources = wanted.iter().map(|(name, version, nature)| {
        let any = prost_types::Any {
            type_url: Cluster::type_url(),
            value: prost::Message::encode_to_vec(&message(name, *version, *nature)),
        };
        RawResource::from_any(any, &Cluster::type_url()).unwrap()
    });
    Discovery {
        version_info: "v".to_owned(),
        resources: resources.collect(),
    }
    .into()
}

impl Scene {
    fn new() -> Self {
        let kind = Fake::default();
        let stats = stats::Registry::new(0);
        let runtime = Runtime::empty(&stats);
        let ways = crate::xds::testing::ways(&stats);
        let subscriptions = Subscriptions::new(
            stats,
            ServerInfo::default(),
            runtime,
            Strictness::default(),
            ways,
        );
        Self {
            ready: kind.ready.clone(),
            builds: kind.builds.clone(),
            manager: Manager::new(kind),
            subscriptions,
        }
    }

    fn apply(&mut self, wanted: &[Wanted<'_>]) -> Outcome {
        let place = "cds.yaml".into();
        self.manager
            .apply(answer(wanted), &place, &self.subscriptions)
    }

    fn active(&self) -> Vec<(String, u64)> {
        let active = self.manager.active();
        active
            .map(|(name, built)| (name.to_string(), built.version))
            .collect()
    }

    fn status(&self, name: &str) -> state::Resource {
        let view = self.manager.view(&Strictness::default());
        view.into_iter().find(|r| &*r.name == name).unwrap()
    }
}

fn names(active: &[(&str, u64)]) -> Vec<(String, u64)> {
    active.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
}

#[test]
fn what_is_the_same_is_not_built_again() {
    let mut scene = Scene::new();
    scene.apply(&[("a", 1, Nature::Good), ("b", 1, Nature::Good)]);
    assert_eq!(scene.builds.get(), 2);
    assert!(scene.manager.take_changed());
    let outcome = scene.apply(&[("a", 1, Nature::Good), ("b", 2, Nature::Good)]);
    assert_eq!((outcome.changed, outcome.unchanged), (1, 1));
    assert_eq!(scene.builds.get(), 3);
    scene.apply(&[("b", 2, Nature::Good)]);
    assert_eq!(scene.active(), names(&[("b", 2)]));
}

#[test]
fn a_bad_one_leaves_the_last_good_and_the_others() {
    let mut scene = Scene::new();
    scene.apply(&[("a", 1, Nature::Good), ("b", 1, Nature::Good)]);
    let outcome = scene.apply(&[("a", 2, Nature::Bad), ("b", 2, Nature::Good)]);
    assert_eq!(scene.active(), names(&[("a", 1), ("b", 2)]));
    let refused = vec![("a".into(), "alt_stat_name: is bad".into())];
    assert_eq!(outcome.refused, refused);
    assert!(!scene.manager.is_whole());
    let error = scene.status("a").error.unwrap();
    assert_eq!(&*error.details, "alt_stat_name: is bad");
    // The good one comes back: nothing is wrong any more, nothing is built.
    let builds = scene.builds.get();
    scene.apply(&[("a", 1, Nature::Good), ("b", 2, Nature::Good)]);
    assert!(scene.status("a").error.is_none());
    assert_eq!(scene.builds.get(), builds);
    assert!(scene.manager.is_whole());
}

#[test]
fn what_was_lacking_is_tried_again() {
    let mut scene = Scene::new();
    scene.apply(&[("a", 1, Nature::Needs("b"))]);
    assert_eq!(scene.active(), []);
    // Other events cost nothing, and no time is named at which to try.
    let builds = scene.builds.get();
    scene
        .subscriptions
        .clusters()
        .is_in_force(&Arc::from("other"));
    assert!(!scene.manager.refresh(&scene.subscriptions));
    assert!(!scene.manager.is_to_be_tried_again());
    assert_eq!(scene.builds.get(), builds);
    let there: Arc<str> = "b".into();
    scene.subscriptions.clusters().is_in_force(&there);
    assert!(scene.manager.refresh(&scene.subscriptions));
    assert_eq!(scene.active(), names(&[("a", 1)]));
    assert!(scene.manager.is_whole());
}

#[test]
fn a_missing_file_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    // A few bytes for as long as the tests run.
    let nature = Nature::Reads(Box::leak(path.to_str().unwrap().into()));
    let mut scene = Scene::new();
    scene.apply(&[("a", 1, nature), ("b", 1, nature)]);
    let builds = scene.builds.get();
    let tried = |scene: &mut Scene| {
        scene.subscriptions.refresh();
        let changed = scene.manager.refresh(&scene.subscriptions);
        (scene.builds.get() - builds, changed)
    };
    assert_eq!(tried(&mut scene), (0, false));
    assert!(!scene.manager.is_to_be_tried_again());
    // One that is too large, written in place: tried once.
    std::fs::write(&path, "12").unwrap();
    assert_eq!(tried(&mut scene), (2, false));
    assert_eq!(tried(&mut scene), (2, false));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(tried(&mut scene), (2, false));
    std::fs::write(&path, "1").unwrap();
    assert_eq!(tried(&mut scene), (4, true));
    assert_eq!(scene.active(), names(&[("a", 1), ("b", 1)]));
    assert!(scene.manager.is_whole());
}

#[tokio::test(start_paused = true)]
async fn the_old_one_serves_while_the_new_one_warms() {
    let mut scene = Scene::new();
    scene.apply(&[("a", 1, Nature::Good)]);
    scene.apply(&[("a", 2, Nature::Warms)]);
    assert_eq!(scene.active(), names(&[("a", 1)]));
    assert!(scene.status("a").warming.is_some());
    assert!(!scene.manager.poll(Instant::now()));
    scene.ready.borrow_mut().insert(2);
    assert!(scene.manager.poll(Instant::now()));
    assert_eq!(scene.active(), names(&[("a", 2)]));
    // Back to what serves: what was to replace it is given up.
    scene.apply(&[("a", 3, Nature::Warms)]);
    scene.apply(&[("a", 2, Nature::Warms)]);
    assert!(scene.status("a").warming.is_none());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(!scene.manager.poll(Instant::now()));
}

#[test]
fn the_first_of_two_with_one_name_stands() {
    let mut scene = Scene::new();
    let outcome = scene.apply(&[("a", 1, Nature::Good), ("a", 2, Nature::Good)]);
    assert_eq!(scene.active(), names(&[("a", 1)]));
    assert_eq!(outcome.refused.len(), 1);
    assert!(outcome.refused[0].1.contains("duplicate thing a found"));
    assert!(!scene.manager.is_whole());
    scene.apply(&[("a", 1, Nature::Good)]);
    assert!(scene.manager.is_whole());
}

#[test]
fn a_static_one_is_neither_replaced_nor_removed() {
    let mut scene = Scene::new();
    let report = Report::new();
    let fixed = message("a", 1, Nature::Good);
    scene
        .manager
        .add_static(fixed.clone(), &report.root(), &scene.subscriptions)
        .unwrap();
    let outcome = scene.apply(&[("a", 2, Nature::Good)]);
    assert_eq!(outcome, Outcome::default());
    assert_eq!(scene.active(), names(&[("a", 1)]));
    assert!(
        scene
            .status("a")
            .error
            .unwrap()
            .details
            .contains("is skipped")
    );
    scene.apply(&[]);
    assert_eq!(scene.active(), names(&[("a", 1)]));
    assert!(scene.status("a").error.is_none());
    let again = scene
        .manager
        .add_static(fixed, &report.root(), &scene.subscriptions);
    assert!(again.is_err());
    assert_eq!(report.to_string(), "name: duplicate thing a found");
}

fn nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        3 => Just(Nature::Good),
        2 => Just(Nature::Bad),
        1 => Just(Nature::Needs("x")),
        2 => Just(Nature::Warms),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(usize, u64, Nature)>),
    Ready(u64),
    SetNeeded(bool),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let resource = (0..4usize, 1..6u64, nature());
    prop_oneof![
        4 => prop::collection::vec(resource, 0..6).prop_map(Step::Apply),
        2 => (1..6u64).prop_map(Step::Ready),
        1 => any::<bool>().prop_map(Step::SetNeeded),
        2 => Just(Step::Settle),
    ]
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

proptest! {
    /// Whatever is sent in whatever order: a name that has once served goes on
    /// serving for as long as the answers name it, and what serves was good.
    #[test]
    fn the_last_good_is_never_lost(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let mut scene = Scene::new();
        let mut served: BTreeSet<&str> = BTreeSet::new();
        let mut good: HashSet<(&str, u64)> = HashSet::new();
        let needed: Arc<str> = "x".into();
        for step in steps {
            match step {
                Step::Apply(resources) => {
                    let wanted: Vec<Wanted<'_>> =
                        resources.iter().map(|(n, v, nature)| (NAMES[*n], *v, *nature)).collect();
                    good.extend(wanted.iter().filter(|w| w.2 != Nature::Bad).map(|w| (w.0, w.1)));
                    scene.apply(&wanted);
                    served.retain(|name| wanted.iter().any(|w| w.0 == *name));
                }
                Step::Ready(version) => {
                    scene.ready.borrow_mut().insert(version);
                }
                Step::SetNeeded(true) => scene.subscriptions.clusters().is_in_force(&needed),
                Step::SetNeeded(false) => scene.subscriptions.clusters().is_gone(&needed),
                Step::Settle => {
                    scene.manager.refresh(&scene.subscriptions);
                    scene.manager.poll(Instant::now());
                }
            }
            let active = scene.active();
            for name in &served {
                prop_assert!(active.iter().any(|(n, _)| n == name), "{name} was lost");
            }
            for (name, version) in &active {
                let name = *NAMES.iter().find(|n| *n == name).unwrap();
                prop_assert!(good.contains(&(name, *version)));
                served.insert(name);
            }
        }
    }
}
