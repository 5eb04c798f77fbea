use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::xds::mux::testing::*;

fn machine() -> Delta {
    let mut machine = Delta::new(node(), true);
    machine.connected();
    machine
}

fn request(machine: &mut Delta) -> DeltaDiscoveryRequest {
    machine.next_request().expect("there is something to say")
}

fn resource(name: &str, version: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(cluster(name)),
        ..Resource::default()
    }
}

fn answer(nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        nonce: nonce.to_owned(),
        type_url: CLUSTERS.to_owned(),
        resources,
        removed_resources: removed.iter().map(|&name| name.to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn take(machine: &mut Delta, answer: DeltaDiscoveryResponse, verdict: &Verdict) -> Update {
    let push = machine.receive(answer, now()).unwrap();
    machine.verdict(&push.answered(), verdict);
    push.update.unwrap()
}

#[test]
fn what_is_held_is_said_when_it_is_let_go() {
    let (mut machine, kind) = (machine(), clusters());
    machine.subscribe(&kind, WILDCARD);
    machine.hold(&kind, true);
    // A stream begins all the same.
    assert_eq!(request(&mut machine).response_nonce, "");
    for nonce in ["a", "b"] {
        take(&mut machine, answer(nonce, vec![], &[]), &Verdict::Ack);
        assert_eq!(machine.next_request(), None);
    }
    machine.hold(&kind, false);
    assert_eq!(request(&mut machine).response_nonce, "a");
    assert_eq!(request(&mut machine).response_nonce, "b");
    assert_eq!(machine.next_request(), None);
}

#[test]
fn no_more_is_held_than_there_is_room_for() {
    let (mut machine, kind) = (machine(), clusters());
    machine.subscribe(&kind, WILDCARD);
    request(&mut machine);
    machine.hold(&kind, true);
    for turn in 0..=MAX_HELD {
        let nonce = turn.to_string();
        take(&mut machine, answer(&nonce, vec![], &[]), &Verdict::Ack);
    }
    assert_eq!(request(&mut machine).response_nonce, "0");
    assert_eq!(request(&mut machine).response_nonce, "1");
    assert_eq!(machine.next_request(), None);
}

#[test]
fn what_is_not_there_is_asked_for_again() {
    let (mut machine, kind) = (machine(), clusters());
    machine.subscribe(&kind, "a");
    assert_eq!(request(&mut machine).resource_names_subscribe, ["a"]);
    take(&mut machine, answer("1", vec![], &["a"]), &Verdict::Ack);
    machine.unsubscribe(&kind, "a");
    machine.subscribe(&kind, "a");
    let again = request(&mut machine);
    assert_eq!(again.resource_names_subscribe, ["a"]);
    assert!(again.resource_names_unsubscribe.is_empty());
    // What is there is known.
    take(
        &mut machine,
        answer("2", vec![resource("a", "1")], &[]),
        &Verdict::Ack,
    );
    machine.unsubscribe(&kind, "a");
    machine.subscribe(&kind, "a");
    assert!(request(&mut machine).resource_names_subscribe.is_empty());
}

#[test]
fn the_wildcard_alone_names_nothing() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    let first = request(&mut machine);
    assert_eq!(first.node.unwrap().id, "node");
    assert!(first.resource_names_subscribe.is_empty());
    machine.subscribe(&clusters(), "x");
    assert_eq!(request(&mut machine).resource_names_subscribe, ["x"]);
    machine.connected();
    assert_eq!(request(&mut machine).resource_names_subscribe, ["*", "x"]);
}

#[test]
fn each_answer_is_acknowledged_by_its_nonce_in_order() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    request(&mut machine);
    let update = take(
        &mut machine,
        answer("a", vec![resource("x", "1")], &["y"]),
        &Verdict::Ack,
    );
    assert_eq!(&*update.resources[0].version, "1");
    assert_eq!(update.gone, Gone::Named(vec!["y".into()]));
    let refused = Verdict::Nack {
        details: "z: no".into(),
        refused: Some(HashSet::from(["z".into()])),
    };
    take(
        &mut machine,
        answer("b", vec![resource("z", "2")], &[]),
        &refused,
    );
    machine.subscribe(&clusters(), "w");
    assert_eq!(machine.pending(), 2);
    let ack = request(&mut machine);
    assert_eq!((&*ack.response_nonce, ack.error_detail), ("a", None));
    assert_eq!(ack.resource_names_subscribe, ["w"]);
    let nack = request(&mut machine);
    assert_eq!(nack.response_nonce, "b");
    assert_eq!(nack.error_detail.unwrap().message, "z: no");
    assert_eq!(machine.next_request(), None);
    // What comes by itself has no nonce.
    machine.unsubscribe(&clusters(), "w");
    let request = request(&mut machine);
    assert_eq!(request.resource_names_unsubscribe, ["w"]);
    assert_eq!(request.response_nonce, "");
}

#[test]
fn a_new_stream_begins_with_all_names_and_versions() {
    let mut machine = machine();
    machine.subscribe(&clusters(), "x");
    machine.subscribe(&clusters(), "y");
    machine.subscribe(&clusters(), "z");
    assert_eq!(
        request(&mut machine).resource_names_subscribe,
        ["x", "y", "z"]
    );
    let pushed = vec![resource("x", "1"), resource("y", "1"), resource("z", "1")];
    take(&mut machine, answer("a", pushed, &[]), &Verdict::Ack);
    take(&mut machine, answer("b", vec![], &["y"]), &Verdict::Ack);
    machine.unsubscribe(&clusters(), "z");
    machine.connected();
    let first = request(&mut machine);
    assert_eq!(first.resource_names_subscribe, ["x", "y"]);
    let versions = BTreeMap::from([("x".to_owned(), "1".to_owned())]);
    assert_eq!(first.initial_resource_versions, versions);
    assert_eq!(first.response_nonce, "");
    assert_eq!(machine.next_request(), None);
}

#[test]
fn versions_are_those_of_what_was_accepted() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    request(&mut machine);
    take(
        &mut machine,
        answer("a", vec![resource("x", "1"), resource("y", "1")], &[]),
        &Verdict::Ack,
    );
    let refused = Verdict::Nack {
        details: "x: no".into(),
        refused: Some(HashSet::from(["x".into()])),
    };
    take(
        &mut machine,
        answer("b", vec![resource("x", "2"), resource("y", "2")], &[]),
        &refused,
    );
    machine.connected();
    let versions = [("x", "1"), ("y", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(
        request(&mut machine).initial_resource_versions,
        BTreeMap::from(versions)
    );
}

#[test]
fn what_is_given_up_and_asked_for_again_in_between_is_not_mentioned() {
    let mut machine = machine();
    let kind = clusters();
    machine.subscribe(&kind, "x");
    request(&mut machine);
    take(
        &mut machine,
        answer("a", vec![resource("x", "1")], &[]),
        &Verdict::Ack,
    );
    request(&mut machine);
    machine.unsubscribe(&kind, "x");
    machine.subscribe(&kind, "x");
    assert_eq!(machine.next_request(), None);
    assert!(machine.known(&kind, "x").is_some());
    machine.unsubscribe(&kind, "x");
    assert_eq!(request(&mut machine).resource_names_unsubscribe, ["x"]);
    assert!(machine.known(&kind, "x").is_none());
    machine.subscribe(&kind, "x");
    assert_eq!(request(&mut machine).resource_names_subscribe, ["x"]);
}

#[test]
fn contradictions_refuse_the_answer() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    let twice = answer("a", vec![resource("x", "1"), resource("x", "2")], &[]);
    let push = machine.receive(twice, now()).unwrap();
    assert_eq!(
        push.update.unwrap_err(),
        "duplicate name x found among added/updated resources"
    );
    let both = answer("b", vec![resource("x", "1")], &["x"]);
    let push = machine.receive(both, now()).unwrap();
    assert_eq!(
        push.update.unwrap_err(),
        "duplicate name x found in the union of added+removed resources"
    );
    let mut wrong = resource("x", "1");
    wrong.resource = Some(assignment("x"));
    let push = machine.receive(answer("c", vec![wrong], &[]), now());
    let said = push.unwrap().update.unwrap_err();
    assert!(
        said.starts_with("resources[0]: x: expected envoy.config.cluster.v3.Cluster"),
        "{said}"
    );
}

#[test]
fn heartbeats_keep_what_has_a_ttl() {
    let (mut machine, start) = (machine(), now());
    machine.subscribe(&clusters(), "x");
    let living = |resource| Resource {
        ttl: Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        }),
        ..resource
    };
    machine.receive(answer("a", vec![living(resource("x", "1"))], &[]), start);
    let beat = Resource {
        resource: None,
        ..living(resource("x", "1"))
    };
    let later = start + Duration::from_secs(9);
    let push = machine
        .receive(answer("b", vec![beat], &[]), later)
        .unwrap();
    assert!(push.update.unwrap().resources.is_empty());
    assert!(machine.expire(start + Duration::from_secs(18)).is_empty());
    let ended = machine.expire(later + Duration::from_secs(10));
    assert_eq!(
        ended[0].update.as_ref().unwrap().gone,
        Gone::Named(vec!["x".into()])
    );
}
