use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt, path::Path, rc::Rc};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Shelf, Store,
    log::{self, Damage, Kept, Key},
    store_stats as names,
};
use crate::{
    api::envoy::config::cluster::v3::Cluster,
    config::{RawResource, Strictness},
    stats,
    xds::resource::Encoded,
};
use prost::{Message, Name};

fn open(directory: &Path) -> (Rc<Store>, Shelf) {
    let stats = stats::Registry::new(1);
    let store = Store::open(directory, Strictness::default(), &stats);
    let shelf = store.shelf(&Cluster::full_name(), "ads");
    (store, shelf)
}

fn cluster(name: &str, stat_name: &str) -> Encoded {
    let message = Cluster {
        name: name.to_owned(),
        alt_stat_name: stat_name.to_owned(),
        ..Cluster::default()
    };
    let any = prost_types::Any {
        type_url: Cluster::type_url(),
        value: message.encode_to_vec(),
    };
    RawResource::from_any(any, &Cluster::full_name())
        .unwrap()
        .into()
}

fn stat_name(shelf: &Shelf, name: &str) -> Option<String> {
    let found = shelf.get(name)?;
    let report = crate::config::Report::new();
    let message: Cluster = found
        .resource
        .decode(&Strictness::default(), &report)
        .unwrap();
    Some(message.alt_stat_name)
}

#[test]
fn what_is_kept_is_there_after_a_restart_and_what_is_forgotten_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (store, shelf) = open(directory.path());
    for name in ["a", "b", "c"] {
        shelf.keep(name, &cluster(name, "1"), &"v1".into());
    }
    store.flush();
    shelf.keep("a", &cluster("a", "2"), &"v2".into());
    shelf.forget("b");
    drop((store, shelf));
    // That was not handed on, so that it never took effect.
    let (store, shelf) = open(directory.path());
    assert_eq!(stat_name(&shelf, "a").as_deref(), Some("1"));
    assert_eq!(shelf.all().len(), 3);
    shelf.keep("a", &cluster("a", "2"), &"v2".into());
    shelf.forget("b");
    store.close();
    // The process ends: this is not a removal.
    shelf.forget("c");
    drop((store, shelf));
    let (_store, shelf) = open(directory.path());
    let all = shelf.all();
    let found: Vec<_> = all.iter().map(|r| (&*r.name, &*r.version)).collect();
    assert_eq!(found, [("a", "v2"), ("c", "v1")]);
    assert_eq!(stat_name(&shelf, "a").as_deref(), Some("2"));
}

#[test]
fn sources_and_types_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, shelf) = open(directory.path());
    shelf.keep("a", &cluster("a", "1"), &"1".into());
    store
        .shelf(&Cluster::full_name(), "other")
        .keep("a", &cluster("a", "2"), &"1".into());
    store.close();
    drop((store, shelf));
    let (store, shelf) = open(directory.path());
    assert_eq!(stat_name(&shelf, "a").as_deref(), Some("1"));
    let other = store.shelf(&Cluster::full_name(), "other");
    assert_eq!(stat_name(&other, "a").as_deref(), Some("2"));
    assert!(
        store
            .shelf("envoy.config.listener.v3.Listener", "ads")
            .all()
            .is_empty()
    );
}

#[test]
fn what_nobody_asks_for_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (store, shelf) = open(directory.path());
    for name in ["a", "b"] {
        shelf.keep(name, &cluster(name, "1"), &"1".into());
    }
    store.close();
    drop((store, shelf));
    let (store, shelf) = open(directory.path());
    assert!(shelf.get("a").is_some());
    store.forget_unused();
    store.close();
    drop((store, shelf));
    let (_store, shelf) = open(directory.path());
    assert!(shelf.get("a").is_some());
    assert!(shelf.get("b").is_none());
}

#[test]
fn what_somebody_still_wants_is_not_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (store, shelf) = open(directory.path());
    shelf.hold("a");
    shelf.hold("a");
    shelf.keep("a", &cluster("a", "1"), &"1".into());
    shelf.let_go("a");
    store.close();
    drop((store, shelf));
    let (store, shelf) = open(directory.path());
    assert_eq!(shelf.all().len(), 1);
    shelf.hold("a");
    shelf.let_go("a");
    store.close();
    drop((store, shelf));
    let (_store, shelf) = open(directory.path());
    assert!(shelf.all().is_empty());
}

#[test]
fn zeros_in_the_place_of_a_record_are_dropped() {
    let key = Key {
        type_url: "type".into(),
        source: "ads".into(),
        name: "web".into(),
    };
    let kept = Kept {
        version: "1".to_owned(),
        ..Kept::default()
    };
    let record = log::record([(&key, Some(kept))].into_iter()).unwrap();
    let whole = [&log::MAGIC[..], &record].concat();
    let found = log::read(&[&whole[..], &[0; 4096]].concat()).unwrap();
    assert_eq!((found.resources.len(), found.torn), (1, 4096));
    // Not so in the middle.
    assert!(log::read(&[&whole[..], &[0; 4096], &record].concat()).is_err());
}

#[test]
fn a_damaged_log_is_moved_aside_and_a_new_one_begun() {
    let directory = tempfile::tempdir().unwrap();
    let (store, shelf) = open(directory.path());
    shelf.keep("a", &cluster("a", "1"), &"1".into());
    store.close();
    drop((store, shelf));
    let path = directory.path().join("resources");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (store, shelf) = open(directory.path());
    assert!(shelf.all().is_empty());
    assert_eq!(store.stats.counter(names::damaged), 1);
    assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), bytes);
    shelf.keep("b", &cluster("b", "1"), &"1".into());
    store.close();
    drop((store, shelf));
    let (_store, shelf) = open(directory.path());
    assert_eq!(shelf.all().len(), 1);
}

#[test]
fn it_is_for_its_owner_alone_and_for_one_process() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("deep/state");
    let (store, shelf) = open(&directory);
    shelf.keep("a", &cluster("a", "1"), &"1".into());
    store.flush();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    // Another process reads what there is, and writes nothing.
    let (second, other) = open(&directory);
    assert!(second.writer.is_none());
    other.keep("z", &cluster("z", "1"), &"1".into());
    second.close();
    drop((second, other));
    store.close();
    drop((store, shelf));
    assert_eq!(mode(&directory.join("resources")), 0o600);
    let (_store, shelf) = open(&directory);
    let names: Vec<_> = shelf.all().into_iter().map(|r| r.name).collect();
    assert_eq!(names, ["a".into()]);
}

#[test]
fn a_directory_that_cannot_be_written_is_no_reason_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let (store, shelf) = open(&file);
    shelf.keep("a", &cluster("a", "1"), &"1".into());
    store.flush();
    assert!(store.writer.is_none());
}

#[test]
fn a_log_does_not_grow_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let (store, shelf) = open(directory.path());
    let long = "x".repeat(100_000);
    for turn in 0..100 {
        let resource = cluster("a", &format!("{turn}{long}"));
        shelf.keep("a", &resource, &turn.to_string().into());
        store.flush();
        // One place for each resource waits; let some of them be written.
        std::thread::yield_now();
    }
    store.close();
    drop((store, shelf));
    let length = fs::metadata(directory.path().join("resources"))
        .unwrap()
        .len();
    assert!(length < 3 << 20, "{length}");
    let (_store, shelf) = open(directory.path());
    assert_eq!(stat_name(&shelf, "a"), Some(format!("99{long}")));
}

fn key(name: u8) -> Key {
    Key {
        type_url: "t".into(),
        source: "s".into(),
        name: name.to_string().into(),
    }
}

/// Sets of changes: which resource, and its new content or none.
type Sets = Vec<Vec<(u8, Option<Vec<u8>>)>>;

fn written(sets: &Sets) -> (Vec<u8>, Vec<usize>, Vec<HashMap<Key, Kept>>) {
    let mut bytes = log::MAGIC.to_vec();
    let (mut ends, mut states) = (vec![bytes.len()], vec![HashMap::new()]);
    for set in sets {
        let mut state = states[states.len() - 1].clone();
        let mut changes = Vec::new();
        for (name, value) in set {
            let kept = value.as_ref().map(|value| Kept {
                version: "v".to_owned(),
                accepted: 1,
                value: Bytes::copy_from_slice(value),
            });
            match &kept {
                Some(kept) => state.insert(key(*name), kept.clone()),
                None => state.remove(&key(*name)),
            };
            changes.push((key(*name), kept));
        }
        let changes = changes.iter().map(|(key, kept)| (key, kept.clone()));
        bytes.extend(log::record(changes).unwrap());
        ends.push(bytes.len());
        states.push(state);
    }
    (bytes, ends, states)
}

fn sets() -> impl Strategy<Value = Sets> {
    let change = (
        0..5_u8,
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
    );
    prop::collection::vec(prop::collection::vec(change, 0..4), 0..6)
}

proptest! {
    /// However short it is cut, a log says what was in force after some set of
    /// changes: the last that is whole.
    #[test]
    fn a_log_that_is_cut_short_says_what_was_true(sets in sets(), cut in any::<prop::sample::Index>()) {
        let (bytes, ends, states) = written(&sets);
        let length = cut.index(bytes.len() + 1);
        let found = log::read(&bytes[..length]).unwrap();
        let whole = ends.iter().filter(|end| **end <= length).count();
        prop_assert_eq!(found.resources, states[whole.saturating_sub(1)].clone());
        prop_assert_eq!(found.torn, length - if whole == 0 { 0 } else { ends[whole - 1] });
    }

    /// Whatever byte is changed, nothing is believed that was not written.
    #[test]
    fn a_changed_byte_is_noticed(sets in sets(), at in any::<prop::sample::Index>(), by in 1..=255_u8) {
        let (mut bytes, ..) = written(&sets);
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        let read = log::read(&bytes);
        let noticed = matches!(read, Err(Damage::NoLog | Damage::Record { .. }));
        prop_assert!(noticed);
    }

    #[test]
    fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), with_magic in any::<bool>()) {
        let bytes = match with_magic {
            true => [log::MAGIC.to_vec(), bytes].concat(),
            false => bytes,
        };
        // Good or bad, it ends.
        drop(log::read(&bytes));
    }
}
