//! The main promise: a hundred moves of the listener file and a hundred of the
//! cluster file, under load, and nobody who is connected notices. The same with one
//! worker, with connections drained at once, and where only what is named by others
//! moves: routes, endpoints, secrets.
//!
//! Eight keep-alive HTTP/1 clients, four HTTP/2 connections, eight WebSockets,
//! half of them over HTTP/2, and eight TCP streams run throughout, each on the one connection it opened
//! at the start. One more client opens a connection for each request, to find
//! a gap in accepting. A violation is a failed request, a connection that the
//! proxy closes or asks to close, a tunnel that breaks, or a response that
//! shows a configuration which had been replaced more than a second before
//! the request was sent.
//!
//! What has to end, for its listener is removed or its transport changes, is asked to
//! first: the last two tests hold that no request is lost even then.

mod common;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::client::{
    self, Failure, H1, H2, Outgoing, Reply, dial, tcp_echo, websocket, websocket_echo,
};
use common::config::{
    CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, answer, any_host, assignment, cluster, discovery,
    file_source, file_watched, http_with, listener, route, tcp, typed,
};
use common::tls::Authority;
use common::{Home, Origin, Port, Proxy, Value, json, with};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;

/// How many times each of the two files is replaced.
const MOVES: u64 = 100;
/// The same where something is varied.
const FEWER_MOVES: u64 = 25;
/// Time between two moves of the same file.
const PACE: Duration = Duration::from_millis(200);
/// From this long after a move on, nobody may see what it replaced.
const SETTLED: Duration = Duration::from_secs(1);
const HTTP1_CLIENTS: usize = 8;
const HTTP2_CLIENTS: usize = 4;
/// Concurrent requests on each HTTP/2 connection.
const STREAMS: usize = 2;
const WEBSOCKETS: usize = 8;
const TCP_STREAMS: usize = 8;
/// Origins that the endpoint of one cluster moves through, so that a response
/// tells which cluster configuration it came by.
const MARKERS: usize = 16;
/// Time between two requests of a client.
const PAUSE: Duration = Duration::from_millis(10);
/// More violations than this add nothing to a report.
const REPORTED: usize = 25;

/// Which files move.
#[derive(Clone, Copy, PartialEq)]
enum Moving {
    /// All listeners, and all clusters.
    Lists,
    /// One route table; the endpoints of each cluster, and the secret of one.
    Named,
}

#[tokio::test]
async fn a_hundred_moves_under_load_lose_nothing() {
    nothing_is_lost(MOVES, Moving::Lists, &["--concurrency", "2"]).await;
}

#[tokio::test]
async fn one_worker_that_drains_at_once_loses_nothing() {
    let arguments = ["--concurrency", "1", "--drain-strategy", "immediate"];
    nothing_is_lost(FEWER_MOVES, Moving::Lists, &arguments).await;
}

#[tokio::test]
async fn routes_endpoints_and_secrets_that_move_lose_nothing() {
    nothing_is_lost(FEWER_MOVES, Moving::Named, &["--concurrency", "2"]).await;
}

async fn nothing_is_lost(moves: u64, moving: Moving, arguments: &[&str]) {
    let home = Home::new();
    let site = Site::new(moving).await;
    site.move_listeners(&home, 0);
    site.move_clusters(&home, 0);
    if moving == Moving::Named {
        let listeners = site.listeners(&home, 0);
        home.mv_value("lds.yaml", &discovery(LISTENER, listeners));
        let clusters = site.clusters(&home, 0);
        home.mv_value("cds.yaml", &discovery(CLUSTER, clusters));
    }
    let bootstrap = file_watched(&home.text("lds.yaml"), &home.text("cds.yaml"));
    let arguments = [arguments, &["--drain-time-s", "2"]].concat();
    let proxy = Proxy::start(&home, &bootstrap, &arguments).await;

    let watch = Watch::new();
    let clients = site.start_clients(&watch).await;
    for generation in 1..=moves {
        tokio::time::sleep(PACE / 2).await;
        site.move_listeners(&home, generation);
        watch.moved(|moves| &mut moves.listeners);
        tokio::time::sleep(PACE / 2).await;
        site.move_clusters(&home, generation);
        watch.moved(|moves| &mut moves.clusters);
    }
    // Beyond the drain time, when whatever drains would have been cut.
    tokio::time::sleep(Duration::from_secs(3)).await;
    watch.stop();
    for client in clients {
        client.await.expect("no client panics");
    }

    let report = watch.report();
    assert!(report.is_empty(), "{report}");
    assert_eq!(
        site.tcp.connections(),
        TCP_STREAMS as u64,
        "TCP streams at the origin"
    );
    assert_eq!(
        site.websocket.connections(),
        WEBSOCKETS as u64,
        "WebSockets at the origin"
    );
    // One connection per request in flight and worker at most; not new ones
    // for each configuration.
    let most = 2 * (HTTP1_CLIENTS + HTTP2_CLIENTS * STREAMS + 1) as u64;
    assert!(
        site.steady.connections() <= most,
        "{} connections to a host that never changed",
        site.steady.connections()
    );
    let admin = proxy.admin();
    let subscriptions: &[&str] = match moving {
        Moving::Lists => &["listener_manager.lds", "cluster_manager.cds"],
        Moving::Named => &["http.ingress.rds.routes", "cluster.marked", "sds.trust"],
    };
    for subscription in subscriptions {
        let rejected = admin.stat(&format!("{subscription}.update_rejected")).await;
        assert_eq!(rejected, Some(0), "{subscription}.update_rejected");
        admin
            .stat_reaches(&format!("{subscription}.update_success"), 2)
            .await;
    }
    let least = 10 * moves;
    assert!(
        watch.requests() > least,
        "only {} requests",
        watch.requests()
    );
}

#[tokio::test]
async fn connections_whose_transport_changes_end_between_requests() {
    // What a connection was told at its start it cannot be told again.
    let limits = |generation: u64| json!({ "max_request_headers_kb": 61 + generation % 2 });
    let present = |_| true;
    connections_are_asked_to_end(limits, present).await;
}

#[tokio::test]
async fn connections_of_a_listener_that_goes_and_comes_end_between_requests() {
    let same = |_| json!({});
    let present = |generation: u64| generation.is_multiple_of(2);
    connections_are_asked_to_end(same, present).await;
}

/// Moves a listener that changes by `settings`, and is there or not, under clients
/// that open a new connection when they are told that the old one ends.
async fn connections_are_asked_to_end(
    settings: impl Fn(u64) -> Value,
    is_present: impl Fn(u64) -> bool,
) {
    const MOVES: u64 = 10;
    let (home, port) = (Home::new(), Port::free());
    let steady = Origin::http("steady").await;
    let number = port.number();
    let move_it = |generation: u64| {
        let routes = json!({ "route_config": {
            "name": "routes",
            "virtual_hosts": [any_host(vec![route("/", "steady")])],
        } });
        let filter = http_with(with(routes, settings(generation)));
        let listeners = match is_present(generation) {
            true => vec![listener("http", number, filter)],
            false => vec![],
        };
        home.mv_value("lds.yaml", &discovery(LISTENER, listeners));
    };
    move_it(0);
    let clusters = vec![cluster("steady", &[steady.port()])];
    home.mv_value("cds.yaml", &discovery(CLUSTER, clusters));
    let bootstrap = file_watched(&home.text("lds.yaml"), &home.text("cds.yaml"));
    let proxy = Proxy::start(&home, &bootstrap, &["--drain-time-s", "1"]).await;

    let watch = Watch::new();
    let mut clients = Vec::new();
    for _ in 0..HTTP1_CLIENTS {
        let watch = Arc::clone(&watch);
        clients.push(tokio::spawn(async move {
            let mut opened = 0;
            let mut current = None;
            while watch.goes_on().await {
                let mut connection = match current.take() {
                    Some(connection) => connection,
                    // While the listener is away there is nobody to connect to.
                    None => match H1::connect(number).await {
                        Ok(connection) => (connection, 0),
                        Err(_) => continue,
                    },
                };
                let request = client::request("GET", "example.com", "/");
                let request = client::header(request, "x-origin-delay-ms", "20");
                match connection.0.send(request).await {
                    Ok(reply) if reply.status != 200 => {
                        watch.violation(format!("{}: {}", reply.status, reply.text()));
                    }
                    Ok(reply) if reply.header("connection") == "close" => opened += 1,
                    Ok(_) => current = Some((connection.0, connection.1 + 1)),
                    // The kernel may have opened it just before the listener went.
                    Err(_) if connection.1 == 0 => {}
                    Err(error) => watch.violation(format!("after {}: {error}", connection.1)),
                }
            }
            opened
        }));
    }
    for generation in 1..=MOVES {
        tokio::time::sleep(Duration::from_millis(400)).await;
        move_it(generation);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    watch.stop();
    let mut asked = 0;
    for client in clients {
        asked += client.await.expect("no client panics");
    }
    let report = watch.report();
    assert!(report.is_empty(), "{report}");
    assert!(asked >= MOVES, "asked to close only {asked} times");
    let rejected = proxy
        .admin()
        .stat("listener_manager.lds.update_rejected")
        .await;
    assert_eq!(rejected, Some(0));
}

/// The configuration under test and the origins behind it.
struct Site {
    moving: Moving,
    authorities: [Authority; 2],
    http_port: Port,
    tcp_port: Port,
    extra_port: Port,
    markers: Vec<Origin>,
    steady: Origin,
    websocket: Origin,
    tcp: Origin,
}

impl Site {
    async fn new(moving: Moving) -> Self {
        let mut markers = Vec::new();
        for number in 0..MARKERS {
            markers.push(Origin::http(&number.to_string()).await);
        }
        let authorities = [Authority::new(), Authority::new()];
        let steady = match moving {
            Moving::Lists => Origin::http("steady").await,
            Moving::Named => Origin::https("steady", &authorities[0].issue(&["steady"])).await,
        };
        Self {
            moving,
            authorities,
            http_port: Port::free(),
            tcp_port: Port::free(),
            extra_port: Port::free(),
            markers,
            steady,
            websocket: Origin::websocket_echo().await,
            tcp: Origin::tcp_echo().await,
        }
    }

    /// Every generation writes its number into a response header of every
    /// route; besides, one kind of change comes after the other.
    fn routes(&self, generation: u64) -> Value {
        let mut routes = vec![
            answer("/direct", 200, &format!("generation {generation}")),
            route("/marked", "marked"),
            route("/steady", "steady"),
            route("/websocket", "websocket"),
        ];
        if generation % 5 == 1 {
            routes.insert(0, answer("/new", 200, "a route that comes and goes"));
        }
        let mut table = json!({
            "name": "routes",
            "virtual_hosts": [any_host(routes)],
            "response_headers_to_add": [
                { "header": { "key": "x-generation", "value": generation.to_string() } },
            ],
        });
        if generation % 5 == 2 {
            table["request_headers_to_add"] =
                json!([{ "header": { "key": "x-rule", "value": "comes and goes" } }]);
        }
        table
    }

    fn listeners(&self, home: &Home, generation: u64) -> Vec<Value> {
        let mut http = json!({
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "http2_protocol_options": { "allow_connect": true },
        });
        match self.moving {
            Moving::Lists => {
                http["stat_prefix"] = format!("http_{}", generation / 5 % 2).into();
                http["route_config"] = self.routes(generation);
            }
            Moving::Named => {
                http["rds"] = json!({
                    "route_config_name": "routes",
                    "config_source": file_source(&home.text("rds.yaml")),
                });
            }
        }
        let mut all = vec![
            listener("http", self.http_port.number(), http_with(http)),
            listener(
                "tcp",
                self.tcp_port.number(),
                tcp(&format!("tcp_{}", generation % 2), "tcp"),
            ),
        ];
        if generation % 5 == 3 {
            let unrelated = http_with(json!({
                "route_config": { "virtual_hosts": [any_host(vec![answer("/", 200, "extra")])] },
            }));
            all.push(listener("extra", self.extra_port.number(), unrelated));
        }
        all
    }

    /// The endpoint of `marked` is another one in every generation; `steady`,
    /// `websocket` and `tcp` keep theirs while all else about them changes.
    fn clusters(&self, home: &Home, generation: u64) -> Vec<Value> {
        match self.moving {
            Moving::Lists => self.whole_clusters(generation),
            Moving::Named => {
                let eds = |name: &str| {
                    let file = home.text(&format!("{name}.yaml"));
                    json!({
                        "name": name, "type": "EDS", "connect_timeout": "5s",
                        "eds_cluster_config": { "eds_config": file_source(&file) },
                    })
                };
                let secret = json!({
                    "name": "trust", "sds_config": file_source(&home.text("sds.yaml")),
                });
                let mut steady = eds("steady");
                steady["transport_socket"] = json!({
                    "name": "envoy.transport_sockets.tls",
                    "typed_config": typed(
                        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                        json!({
                            "sni": "steady",
                            "common_tls_context": { "validation_context_sds_secret_config": secret },
                        }),
                    ),
                });
                vec![eds("marked"), steady, eds("websocket"), eds("tcp")]
            }
        }
    }

    fn whole_clusters(&self, generation: u64) -> Vec<Value> {
        let marker = &self.markers[marker_of(generation)];
        let policy = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"][generation as usize % 3];
        let settings = json!({
            "connect_timeout": format!("{}s", 2 + generation % 3),
            "circuit_breakers": {
                "thresholds": [{ "max_requests": 1000 + generation }],
            },
            "lb_policy": policy,
        });
        let settled =
            |name, origin: &Origin| with(cluster(name, &[origin.port()]), settings.clone());
        let mut all = vec![
            cluster("marked", &[marker.port()]),
            settled("steady", &self.steady),
            settled("websocket", &self.websocket),
            settled("tcp", &self.tcp),
        ];
        if generation % 4 == 1 {
            all.push(cluster("extra", &[self.steady.port()]));
        }
        all
    }

    fn move_listeners(&self, home: &Home, generation: u64) {
        match self.moving {
            Moving::Lists => {
                let listeners = self.listeners(home, generation);
                home.mv_value("lds.yaml", &discovery(LISTENER, listeners));
            }
            Moving::Named => {
                home.mv_value(
                    "rds.yaml",
                    &discovery(ROUTES, vec![self.routes(generation)]),
                );
            }
        }
    }

    fn move_clusters(&self, home: &Home, generation: u64) {
        if self.moving == Moving::Lists {
            let clusters = self.clusters(home, generation);
            home.mv_value("cds.yaml", &discovery(CLUSTER, clusters));
            return;
        }
        // The secret first: what comes by it is trusted before and after.
        let count = 1 + generation as usize % 2;
        let trusted: Vec<_> = self.authorities[..count]
            .iter()
            .map(Authority::certificate)
            .collect();
        let secret = json!({
            "name": "trust",
            "validation_context": { "trusted_ca": { "inline_string": trusted.concat() } },
        });
        home.mv_value("sds.yaml", &discovery(SECRET, vec![secret]));
        let marker = &self.markers[marker_of(generation)];
        for (name, origin) in [
            ("marked", marker),
            ("steady", &self.steady),
            ("websocket", &self.websocket),
            ("tcp", &self.tcp),
        ] {
            let mut endpoints = assignment(name, &[origin.port()]);
            endpoints["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] =
                (1 + generation % 7).into();
            home.mv_value(
                &format!("{name}.yaml"),
                &discovery(ENDPOINTS, vec![endpoints]),
            );
        }
    }

    async fn start_clients(&self, watch: &Arc<Watch>) -> Vec<JoinHandle<()>> {
        let port = self.http_port.number();
        let mut clients = Vec::new();
        for number in 0..HTTP1_CLIENTS {
            let connection = H1::connect(port).await.expect("HTTP/1 connection");
            let watch = Arc::clone(watch);
            clients.push(tokio::spawn(http1_client(number, connection, watch)));
        }
        for number in 0..HTTP2_CLIENTS {
            let connection = H2::connect(port).await.expect("HTTP/2 connection");
            for _ in 0..STREAMS {
                let watch = Arc::clone(watch);
                clients.push(tokio::spawn(http2_client(
                    number,
                    connection.clone(),
                    watch,
                )));
            }
        }
        // Half of the WebSockets over HTTP/2.
        let shared = H2::connect(port).await.expect("HTTP/2 connection");
        for number in 0..WEBSOCKETS / 2 {
            let socket = websocket(port, "/websocket").await.expect("WebSocket");
            let client = websocket_client(2 * number, socket, Arc::clone(watch));
            clients.push(tokio::spawn(client));
            let socket = shared.websocket("/websocket").await.expect("WebSocket");
            let client = websocket_client(2 * number + 1, socket, Arc::clone(watch));
            clients.push(tokio::spawn(client));
        }
        for number in 0..TCP_STREAMS {
            let mut stream = dial(self.tcp_port.number()).await.expect("TCP stream");
            let watch = Arc::clone(watch);
            clients.push(tokio::spawn(async move {
                for turn in 0_usize.. {
                    let message = vec![turn as u8; 1 + (turn * 997) % 8_000];
                    let echo = tcp_echo(&mut stream, &message).await;
                    if !watch.tunnel(&format!("TCP stream {number}"), echo).await {
                        break;
                    }
                }
            }));
        }
        let watch = Arc::clone(watch);
        clients.push(tokio::spawn(async move {
            while watch.goes_on().await {
                watch
                    .request("new connection", |request| client::once(port, request))
                    .await;
            }
        }));
        clients
    }
}

fn marker_of(generation: u64) -> usize {
    (generation % MARKERS as u64) as usize
}

async fn http1_client(number: usize, mut connection: H1, watch: Arc<Watch>) {
    let name = format!("HTTP/1 client {number}");
    while watch.goes_on().await {
        watch
            .request(&name, |request| connection.send(request))
            .await;
        if connection.is_closed() {
            watch.violation(format!("{name}: connection closed"));
            break;
        }
    }
}

async fn http2_client(number: usize, connection: H2, watch: Arc<Watch>) {
    let name = format!("HTTP/2 connection {number}");
    while watch.goes_on().await {
        watch
            .request(&name, |request| connection.send(request))
            .await;
        if connection.is_closed() {
            watch.violation(format!("{name}: connection closed"));
            break;
        }
    }
}

/// When each file was moved, and everything that went wrong.
struct Watch {
    stopped: AtomicBool,
    moves: Mutex<Moves>,
    violations: Mutex<Vec<String>>,
    requests: Mutex<u64>,
}

/// The time of each move; the index is the generation.
struct Moves {
    listeners: Vec<Instant>,
    clusters: Vec<Instant>,
}

/// The oldest generations that a request sent now may still meet.
#[derive(Clone, Copy)]
struct Oldest {
    listeners: u64,
    clusters: u64,
}

impl Watch {
    fn new() -> Arc<Self> {
        let start = Instant::now();
        Arc::new(Self {
            stopped: AtomicBool::new(false),
            moves: Mutex::new(Moves {
                listeners: vec![start],
                clusters: vec![start],
            }),
            violations: Mutex::default(),
            requests: Mutex::default(),
        })
    }

    fn moved(&self, file: impl Fn(&mut Moves) -> &mut Vec<Instant>) {
        let mut moves = self.moves.lock().expect("no panic");
        file(&mut moves).push(Instant::now());
    }

    fn oldest(&self) -> Oldest {
        let settled = |moves: &Vec<Instant>| {
            let count = moves.iter().filter(|at| at.elapsed() > SETTLED).count();
            count.saturating_sub(1) as u64
        };
        let moves = self.moves.lock().expect("no panic");
        Oldest {
            listeners: settled(&moves.listeners),
            clusters: settled(&moves.clusters),
        }
    }

    fn newest_cluster(&self) -> u64 {
        self.moves.lock().expect("no panic").clusters.len() as u64 - 1
    }

    /// Waits the pause between two requests; false when the test is over.
    async fn goes_on(&self) -> bool {
        tokio::time::sleep(PAUSE).await;
        !self.stopped.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn violation(&self, text: String) {
        self.violations.lock().expect("no panic").push(text);
    }

    fn requests(&self) -> u64 {
        *self.requests.lock().expect("no panic")
    }

    /// Notes how a message through a tunnel went; false to end it.
    async fn tunnel(&self, name: &str, echo: Result<(), Failure>) -> bool {
        if let Err(error) = echo {
            self.violation(format!("{name}: {error}"));
            return false;
        }
        self.goes_on().await
    }

    /// Sends the next request in turn and checks its response.
    async fn request<F>(&self, name: &str, send: impl FnOnce(Outgoing) -> F)
    where
        F: Future<Output = Result<Reply, Failure>>,
    {
        let turn = {
            let mut requests = self.requests.lock().expect("no panic");
            *requests += 1;
            *requests
        };
        let path = [
            "/marked",
            "/direct",
            "/steady",
            "/marked/slow",
            "/steady/post",
        ][(turn % 5) as usize];
        let mut request = client::request("GET", "example.com", path);
        match path {
            // In flight for as long as it takes two files to move.
            "/marked/slow" => request = client::header(request, "x-origin-delay-ms", "150"),
            "/steady/post" => {
                *request.method_mut() = http::Method::POST;
                request = client::body(request, vec![b'p'; 20_000]);
            }
            _ => {}
        }
        let oldest = self.oldest();
        match send(request).await {
            Err(error) => self.violation(format!("{name}: {path}: {error}")),
            Ok(reply) => self.check(name, path, &reply, oldest),
        }
    }

    fn check(&self, name: &str, path: &str, reply: &Reply, oldest: Oldest) {
        if reply.status != 200 {
            let text = reply.text();
            self.violation(format!("{name}: {path}: {} {text}", reply.status));
            return;
        }
        if reply.header("connection") == "close" {
            self.violation(format!("{name}: {path}: connection: close"));
        }
        let generation: u64 = reply.header("x-generation").parse().unwrap_or(0);
        if generation < oldest.listeners {
            self.violation(format!(
                "{name}: {path}: listener of generation {generation} after {}",
                oldest.listeners
            ));
        }
        if path == "/steady/post" && reply.seen().body.len() != 20_000 {
            self.violation(format!("{name}: {path}: the body is not whole"));
        }
        if path.starts_with("/marked") {
            let origin: usize = reply.seen().origin.parse().expect("a marker's number");
            let mut accepted = oldest.clusters..=self.newest_cluster();
            if !accepted.any(|generation| marker_of(generation) == origin) {
                self.violation(format!(
                    "{name}: {path}: origin {origin} after generation {}",
                    oldest.clusters
                ));
            }
        }
    }

    fn report(&self) -> String {
        let violations = self.violations.lock().expect("no panic");
        if violations.is_empty() {
            return String::new();
        }
        let requests = self.requests();
        let mut report = format!("{} violations in {requests} requests:", violations.len());
        for violation in violations.iter().take(REPORTED) {
            report.push_str("\n  ");
            report.push_str(violation);
        }
        report
    }
}

async fn websocket_client<S>(number: usize, mut socket: WebSocketStream<S>, watch: Arc<Watch>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for turn in 0_usize.. {
        let message = "x".repeat(1 + (turn * 997) % 8_000);
        let echo = websocket_echo(&mut socket, &message).await;
        if !watch.tunnel(&format!("WebSocket {number}"), echo).await {
            break;
        }
    }
}
