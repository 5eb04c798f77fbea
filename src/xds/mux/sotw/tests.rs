use super::*;
use crate::xds::mux::testing::*;

fn machine() -> Sotw {
    let mut machine = Sotw::new(node(), true);
    machine.connected();
    machine
}

fn request(machine: &mut Sotw) -> DiscoveryRequest {
    machine.next_request().expect("there is something to say")
}

#[test]
fn what_is_held_is_said_when_it_is_let_go() {
    let (mut machine, kind) = (machine(), clusters());
    machine.subscribe(&kind, WILDCARD);
    machine.hold(&kind, true);
    // A stream begins all the same.
    assert_eq!(request(&mut machine).response_nonce, "");
    for (version, nonce) in [("1", "a"), ("2", "b")] {
        let push = machine.receive(answer(version, nonce, &[]), now());
        machine.verdict(&push.unwrap().answered(), &Verdict::Ack);
        assert_eq!(machine.next_request(), None);
    }
    machine.hold(&kind, false);
    let ack = request(&mut machine);
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("2", "b"));
    machine.hold(&kind, true);
    machine.hold(&kind, false);
    assert_eq!(machine.next_request(), None);
}

fn answer(version: &str, nonce: &str, names: &[&str]) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        nonce: nonce.to_owned(),
        type_url: CLUSTERS.to_owned(),
        resources: names.iter().map(|name| cluster(name)).collect(),
        ..DiscoveryResponse::default()
    }
}

fn names(push: &Push) -> Vec<&str> {
    let update = push.update.as_ref().unwrap();
    update.resources.iter().map(|r| &*r.name).collect()
}

#[test]
fn an_answer_is_acknowledged_by_its_version_and_nonce() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    let first = request(&mut machine);
    assert_eq!(first.node.unwrap().id, "node");
    assert!(first.resource_names.is_empty() && first.version_info.is_empty());
    assert_eq!(machine.next_request(), None);

    let push = machine.receive(answer("1", "a", &["x"]), now()).unwrap();
    assert_eq!(names(&push), ["x"]);
    assert_eq!(push.update.as_ref().unwrap().gone, Gone::Absent);
    machine.verdict(&push.answered(), &Verdict::Ack);
    let ack = request(&mut machine);
    assert_eq!((&*ack.version_info, &*ack.response_nonce), ("1", "a"));
    assert_eq!((ack.error_detail, ack.node), (None, None));
}

#[test]
fn a_refused_answer_keeps_the_version_before_it() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    request(&mut machine);
    let push = machine.receive(answer("1", "a", &[]), now()).unwrap();
    machine.verdict(&push.answered(), &Verdict::Ack);
    request(&mut machine);
    let push = machine.receive(answer("2", "b", &["x"]), now()).unwrap();
    machine.verdict(&push.answered(), &Verdict::refused("x: no"));
    let nack = request(&mut machine);
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("1", "b"));
    assert_eq!(nack.error_detail.unwrap().message, "x: no");
    // It is said once: a later change of names is no second refusal.
    machine.subscribe(&clusters(), "y");
    assert_eq!(request(&mut machine).error_detail, None);
}

#[test]
fn names_are_sent_whole_and_empty_only_after_there_were_some() {
    let mut machine = machine();
    let kind = clusters();
    for name in ["b", "a", "a"] {
        machine.subscribe(&kind, name);
    }
    assert_eq!(request(&mut machine).resource_names, ["a", "b"]);
    machine.unsubscribe(&kind, "a");
    assert_eq!(machine.next_request(), None);
    machine.unsubscribe(&kind, "a");
    assert_eq!(request(&mut machine).resource_names, ["b"]);
    machine.unsubscribe(&kind, "b");
    assert!(request(&mut machine).resource_names.is_empty());
    // On the next stream it would be the wildcard.
    machine.connected();
    assert_eq!(machine.next_request(), None);
}

#[test]
fn a_name_beside_the_wildcard_makes_it_explicit() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    machine.subscribe(&clusters(), "x");
    assert_eq!(request(&mut machine).resource_names, ["*", "x"]);
}

#[test]
fn a_new_stream_asks_again_with_the_version_and_without_the_nonce() {
    let mut machine = machine();
    machine.subscribe(&endpoints(), "x");
    machine.subscribe(&clusters(), WILDCARD);
    request(&mut machine);
    request(&mut machine);
    let push = machine.receive(answer("1", "a", &["x"]), now()).unwrap();
    machine.verdict(&push.answered(), &Verdict::Ack);
    machine.connected();
    let first = request(&mut machine);
    assert_eq!(first.type_url, CLUSTERS);
    assert_eq!((&*first.version_info, &*first.response_nonce), ("1", ""));
    assert!(first.node.is_some());
    let second = request(&mut machine);
    assert_eq!(second.type_url, ENDPOINTS);
    assert!(second.node.is_none());
    assert_eq!(machine.next_request(), None);
}

#[test]
fn what_nobody_asked_for_is_not_passed_on() {
    let mut machine = machine();
    machine.subscribe(&clusters(), "x");
    request(&mut machine);
    let push = machine.receive(answer("1", "a", &["x", "y"]), now());
    let push = push.unwrap();
    assert_eq!(names(&push), ["x"]);
    let gone = &push.update.as_ref().unwrap().gone;
    assert_eq!(*gone, Gone::Named(Vec::new()));
    let mut other = answer("1", "a", &["x"]);
    other.type_url = ENDPOINTS.to_owned();
    assert!(machine.receive(other, now()).is_none());
}

#[test]
fn an_answer_that_crosses_the_last_unsubscription_is_refused_in_silence() {
    let mut machine = machine();
    machine.subscribe(&clusters(), "x");
    request(&mut machine);
    machine.unsubscribe(&clusters(), "x");
    request(&mut machine);
    assert!(machine.receive(answer("1", "a", &["x"]), now()).is_none());
    let request = request(&mut machine);
    assert_eq!(
        (&*request.version_info, &*request.response_nonce),
        ("", "a")
    );
    assert!(machine.receive(answer("2", "b", &[]), now()).is_none());
    assert_eq!(machine.next_request(), None);
}

#[test]
fn a_resource_of_another_type_refuses_the_answer() {
    let mut machine = machine();
    machine.subscribe(&clusters(), WILDCARD);
    let mut wrong = answer("1", "a", &["x"]);
    wrong.resources.push(assignment("y"));
    wrong.resources.push(broken(CLUSTERS));
    let push = machine.receive(wrong, now()).unwrap();
    let said = push.update.unwrap_err();
    assert!(
        said.contains("resources[1]: expected envoy.config.cluster.v3.Cluster"),
        "{said}"
    );
    assert!(said.contains("resources[2]: is not a valid"), "{said}");
}

#[test]
fn a_name_twice_refuses_the_answer() {
    let mut machine = machine();
    machine.subscribe(&clusters(), "x");
    let push = machine.receive(answer("1", "a", &["x", "x"]), now());
    assert_eq!(
        push.unwrap().update.unwrap_err(),
        "resources[1]: duplicate resource x found"
    );
}

#[test]
fn what_is_known_is_kept_until_the_server_hears_that_it_is_not_wanted() {
    let mut machine = machine();
    let kind = clusters();
    machine.subscribe(&kind, "x");
    machine.subscribe(&kind, "y");
    request(&mut machine);
    let push = machine
        .receive(answer("1", "a", &["x", "y"]), now())
        .unwrap();
    let verdict = Verdict::Nack {
        details: "y: no".into(),
        refused: Some(HashSet::from(["y".into()])),
    };
    machine.verdict(&push.answered(), &verdict);
    assert!(machine.known(&kind, "x").is_some());
    assert!(machine.known(&kind, "y").is_none());
    machine.unsubscribe(&kind, "x");
    machine.subscribe(&kind, "x");
    request(&mut machine);
    assert!(machine.known(&kind, "x").is_some());
    machine.unsubscribe(&kind, "x");
    request(&mut machine);
    assert!(machine.known(&kind, "x").is_none());
}

#[test]
fn a_ttl_ends_a_resource_unless_a_heartbeat_comes() {
    let (mut machine, start) = (machine(), now());
    machine.subscribe(&clusters(), WILDCARD);
    let mut living = answer("1", "a", &[]);
    living.resources = vec![wrapped(Some(cluster("x")), "x", 10)];
    machine.receive(living, start).unwrap();
    let mut heartbeat = answer("1", "b", &[]);
    heartbeat.resources = vec![wrapped(None, "x", 10)];
    let later = start + std::time::Duration::from_secs(5);
    let push = machine.receive(heartbeat, later).unwrap();
    let update = push.update.unwrap();
    assert!(update.resources.is_empty());
    assert_eq!(update.gone, Gone::Named(Vec::new()));
    assert_eq!(
        machine.ttls.next(),
        Some(later + std::time::Duration::from_secs(10))
    );
    let ended = machine.expire(later + std::time::Duration::from_secs(10));
    assert_eq!(ended[0].nonce, None);
    let update = ended[0].update.as_ref().unwrap();
    assert_eq!(update.gone, Gone::Named(vec!["x".into()]));
}
