use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tokio::{net::UdpSocket, task::LocalSet};

use crate::{
    config::Report,
    model::{
        cluster::Cluster,
        testing::{World, read},
    },
    upstream::{ClusterDriver, stats::cluster_stats},
};

/// What the name server knows; a name without entry gets NXDOMAIN, and an entry
/// of `None` SERVFAIL.
type Zone = Rc<RefCell<HashMap<&'static str, Option<Vec<IpAddr>>>>>;

/// A name server on a free port of the loopback interface.
async fn serve(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let answer = answer(&query, &zone.borrow());
            socket
                .send_to(&answer.to_vec().unwrap(), peer)
                .await
                .unwrap();
        }
    });
    address
}

fn answer(query: &Message, zone: &HashMap<&'static str, Option<Vec<IpAddr>>>) -> Message {
    let question = query.queries[0].clone();
    let mut answer = Message::new(
        query.metadata.id,
        MessageType::Response,
        query.metadata.op_code,
    );
    let name = question.name().to_ascii();
    match zone.get(name.trim_end_matches('.')) {
        None => answer.metadata.response_code = ResponseCode::NXDomain,
        Some(None) => answer.metadata.response_code = ResponseCode::ServFail,
        Some(Some(addresses)) => {
            for ip in addresses {
                let data = RData::from(*ip);
                if data.record_type() == question.query_type() {
                    let record = Record::from_rdata(question.name().clone(), 1, data);
                    answer.answers.push(record);
                }
            }
        }
    }
    debug_assert!(matches!(
        question.query_type(),
        RecordType::A | RecordType::AAAA
    ));
    answer.queries.push(question);
    answer
}

fn compile(world: &World, kind: &str, name: &str, server: SocketAddr, more: &str) -> Arc<Cluster> {
    let yaml = format!(
        "name: web\ntype: {kind}\ndns_refresh_rate: 0.02s\n{more}\n\
         typed_dns_resolver_config:\n  name: cares\n  typed_config:\n    \
         '@type': type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig\n    \
         resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}]\n    \
         dns_resolver_options: {{no_default_search_domain: true}}\n    query_timeout_seconds: 1\n    query_tries: 1\n\
         load_assignment:\n  cluster_name: web\n  endpoints:\n  - lb_endpoints:\n    \
         - endpoint: {{address: {{socket_address: {{address: {name}, port_value: 80}}}}}}\n",
        server.port()
    );
    let report = Report::new();
    let cluster = Cluster::compile(read(&yaml), None, &world.cx(), &report.root());
    Arc::new(cluster.unwrap_or_else(|_| panic!("{report}")))
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    let set = cluster.hosts().load();
    let mut found: Vec<_> = set
        .endpoints()
        .map(|e| e.host.address().to_string())
        .collect();
    found.sort();
    found
}

async fn until(mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it happens soon");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn every_address_of_a_name_is_a_host_until_another_answer() {
    LocalSet::new()
        .run_until(async {
            let zone = Zone::default();
            let two = vec![ip("127.0.0.2"), ip("127.0.0.3")];
            zone.borrow_mut().insert("web.test", Some(two));
            let server = serve(zone.clone()).await;
            let world = World::new();
            let cluster = compile(&world, "STRICT_DNS", "web.test", server, "");
            let driver = ClusterDriver::start(Arc::clone(&cluster));
            driver.warmed().await;
            assert_eq!(addresses(&cluster), ["127.0.0.2:80", "127.0.0.3:80"]);
            let kept = cluster.hosts().load();
            let kept = kept
                .endpoints()
                .find(|e| e.host.address().to_string() == "127.0.0.3:80");
            let kept = kept.unwrap().host.id();

            let other = vec![ip("127.0.0.3"), ip("127.0.0.4")];
            zone.borrow_mut().insert("web.test", Some(other));
            until(|| addresses(&cluster) == ["127.0.0.3:80", "127.0.0.4:80"]).await;
            let now = cluster.hosts().load();
            assert!(
                now.endpoints().any(|e| e.host.id() == kept),
                "the host is the same"
            );
            assert_eq!(&*now.endpoints().next().unwrap().hostname, "web.test");

            until(|| cluster.stats.counter(cluster_stats::update_no_rebuild) > 0).await;

            // Neither a failure nor a name that is gone takes them away.
            zone.borrow_mut().insert("web.test", None);
            until(|| cluster.stats.counter(cluster_stats::update_failure) > 0).await;
            zone.borrow_mut().remove("web.test");
            until(|| cluster.stats.counter(cluster_stats::update_empty) > 0).await;
            assert_eq!(addresses(&cluster), ["127.0.0.3:80", "127.0.0.4:80"]);
        })
        .await;
}

#[tokio::test]
async fn a_logical_host_keeps_its_identity_when_its_address_changes() {
    LocalSet::new()
        .run_until(async {
            let zone = Zone::default();
            let both = vec![ip("127.0.0.2"), ip("::2"), ip("127.0.0.3")];
            zone.borrow_mut().insert("web.test", Some(both));
            let server = serve(zone.clone()).await;
            let world = World::new();
            let family = "dns_lookup_family: ALL";
            let cluster = compile(&world, "LOGICAL_DNS", "web.test", server, family);
            let driver = ClusterDriver::start(Arc::clone(&cluster));
            driver.warmed().await;
            let set = cluster.hosts().load();
            let host = Arc::clone(&set.endpoints().next().unwrap().host);
            assert_eq!(set.count().total, 1);
            assert_eq!(host.addresses().others.len(), 2);
            zone.borrow_mut()
                .insert("web.test", Some(vec![ip("127.0.0.9")]));
            until(|| host.address().to_string() == "127.0.0.9:80").await;
            assert!(host.addresses().others.is_empty());
        })
        .await;
}

#[tokio::test]
async fn families_are_asked_for_as_configured() {
    LocalSet::new()
        .run_until(async {
            let zone = Zone::default();
            let both = vec![ip("127.0.0.2"), ip("::2")];
            zone.borrow_mut().insert("both.test", Some(both));
            zone.borrow_mut()
                .insert("four.test", Some(vec![ip("127.0.0.2")]));
            let server = serve(zone.clone()).await;
            let world = World::new();
            for (name, family, expected) in [
                ("both.test", "AUTO", "[::2]:80"),
                ("four.test", "AUTO", "127.0.0.2:80"),
                ("both.test", "V4_ONLY", "127.0.0.2:80"),
                ("both.test", "V6_ONLY", "[::2]:80"),
                ("both.test", "V4_PREFERRED", "127.0.0.2:80"),
            ] {
                let family = format!("dns_lookup_family: {family}");
                let cluster = compile(&world, "STRICT_DNS", name, server, &family);
                let driver = ClusterDriver::start(Arc::clone(&cluster));
                driver.warmed().await;
                assert_eq!(addresses(&cluster), [expected], "{name} {family}");
            }
        })
        .await;
}

#[tokio::test]
async fn localhost_needs_no_name_server_and_reaches_both_loopbacks() {
    LocalSet::new()
        .run_until(async {
            let world = World::new();
            let nowhere = ([127, 0, 0, 1], 9).into();
            let cluster = compile(&world, "STRICT_DNS", "localhost", nowhere, "");
            let driver = ClusterDriver::start(Arc::clone(&cluster));
            driver.warmed().await;
            let set = cluster.hosts().load();
            let host = &set.endpoints().next().expect("a host").host;
            let addresses = host.addresses();
            let all: Vec<_> = std::iter::once(&addresses.first)
                .chain(&addresses.others)
                .map(ToString::to_string)
                .collect();
            assert!(all.contains(&"127.0.0.1:80".to_owned()), "{all:?}");
        })
        .await;
}

#[tokio::test]
async fn a_name_nobody_knows_warms_the_cluster_all_the_same() {
    LocalSet::new()
        .run_until(async {
            let server = serve(Zone::default()).await;
            let world = World::new();
            let cluster = compile(&world, "STRICT_DNS", "gone.test", server, "");
            let driver = ClusterDriver::start(Arc::clone(&cluster));
            driver.warmed().await;
            assert!(addresses(&cluster).is_empty());
        })
        .await;
}
