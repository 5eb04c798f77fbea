//! Access logs that go to a gRPC service.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nuncio::api::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse, stream_access_logs_message::LogEntries,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::common::client::{body, get, once, request};
use crate::common::config::{
    answer, any_host, bootstrap, cluster, http_with, listener, route, typed,
};
use crate::common::{Home, Origin, Port, Proxy, Value, eventually, json};
use crate::scene::http2_cluster;

type Messages = Arc<Mutex<Vec<StreamAccessLogsMessage>>>;

/// A service that remembers what it was sent, from the moment it begins on.
struct LogService {
    port: Port,
    messages: Messages,
    task: Option<JoinHandle<()>>,
}

impl LogService {
    fn new() -> Self {
        Self {
            port: Port::free(),
            messages: Arc::default(),
            task: None,
        }
    }

    async fn begin(&mut self) {
        let address = (Ipv4Addr::LOCALHOST, self.port.number());
        let listener = TcpListener::bind(address).await.expect("the port");
        let messages = self.messages.clone();
        self.task = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let messages = messages.clone();
                let service = service_fn(move |request| {
                    let sink = Remember(messages.clone());
                    async move {
                        let codec = ProstCodec::<StreamAccessLogsResponse, _>::default();
                        let mut grpc = tonic::server::Grpc::new(codec);
                        Ok::<_, std::convert::Infallible>(
                            grpc.client_streaming(sink, request).await,
                        )
                    }
                });
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        }));
    }

    fn messages(&self) -> Vec<StreamAccessLogsMessage> {
        self.messages.lock().expect("no panic").clone()
    }

    /// The paths of the requests that were logged.
    fn paths(&self) -> Vec<String> {
        let messages = self.messages().into_iter();
        let entries = messages.flat_map(|message| match message.log_entries {
            Some(LogEntries::HttpLogs(logs)) => logs.log_entry,
            _ => Vec::new(),
        });
        entries
            .map(|entry| entry.request.expect("a request").path)
            .collect()
    }
}

impl Drop for LogService {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Remember(Messages);

impl tonic::server::ClientStreamingService<StreamAccessLogsMessage> for Remember {
    type Response = StreamAccessLogsResponse;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<StreamAccessLogsResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<StreamAccessLogsMessage>>) -> Self::Future {
        let messages = self.0.clone();
        Box::pin(async move {
            let mut incoming = request.into_inner();
            while let Some(Ok(message)) = incoming.next().await {
                messages.lock().expect("no panic").push(message);
            }
            Ok(Response::new(StreamAccessLogsResponse {}))
        })
    }
}

fn logged(service: u16, port: u16) -> Value {
    let hosts = vec![any_host(vec![answer("/", 201, "hi")])];
    logged_of(service, port, hosts, vec![])
}

fn logged_of(service: u16, port: u16, hosts: Vec<Value>, clusters: Vec<Value>) -> Value {
    let log = typed(
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        json!({ "common_config": {
            "log_name": "requests",
            "transport_api_version": "V3",
            "grpc_service": { "envoy_grpc": { "cluster_name": "logs" } },
            "buffer_flush_interval": "0.05s",
        } }),
    );
    let http = http_with(json!({
        "access_log": [{ "name": "log", "typed_config": log }],
        "route_config": { "virtual_hosts": hosts },
    }));
    let mut clusters = clusters;
    clusters.push(http2_cluster("logs", service));
    bootstrap(vec![listener("web", port, http)], clusters)
}

/// When what happened, in the order in which it has to.
#[tokio::test]
async fn moments_are_told() {
    let (mut service, home, port) = (LogService::new(), Home::new(), Port::free());
    let origin = Origin::http("one").await;
    let config = logged_of(
        service.port.number(),
        port.number(),
        vec![any_host(vec![route("/", "backend")])],
        vec![cluster("backend", &[origin.port()])],
    );
    service.begin().await;
    let _proxy = Proxy::start(&home, &config, &[]).await;
    let asked = body(request("POST", "a.com", "/"), "hello");
    let reply = once(port.number(), asked).await.expect("an answer");
    assert_eq!(reply.status, 200);
    let message = eventually("the entry", || async { service.messages().pop() }).await;
    let Some(LogEntries::HttpLogs(logs)) = message.log_entries else {
        panic!("other logs");
    };
    let common = logs.log_entry[0]
        .common_properties
        .clone()
        .expect("what all have");
    let moments = [
        common.time_to_last_rx_byte,
        common.time_to_last_upstream_tx_byte,
        common.time_to_first_upstream_rx_byte,
        common.time_to_last_upstream_rx_byte,
        common.time_to_last_downstream_tx_byte,
    ];
    let moments = moments.map(|moment| {
        let moment = moment.expect("a moment");
        (moment.seconds, moment.nanos)
    });
    assert!(moments.is_sorted(), "{moments:?}");
    let first = common.time_to_first_upstream_tx_byte.expect("a moment");
    assert!(
        (first.seconds, first.nanos) <= moments[1],
        "{first:?} {moments:?}"
    );
    let first = common.time_to_first_downstream_tx_byte.expect("a moment");
    assert!(
        (first.seconds, first.nanos) >= moments[2],
        "{first:?} {moments:?}"
    );
    assert!(
        (first.seconds, first.nanos) <= moments[4],
        "{first:?} {moments:?}"
    );
}

/// Nothing is lost that waits for the service, nor what is left at the end.
#[tokio::test]
async fn entries_reach_their_service() {
    let (mut service, home, port) = (LogService::new(), Home::new(), Port::free());
    let config = logged(service.port.number(), port.number());
    let mut proxy = Proxy::start(&home, &config, &[]).await;
    service.begin().await;
    assert_eq!(get(port.number(), "/first").await.status, 201);
    eventually("the first entry", || async {
        (service.paths() == ["/first"]).then_some(())
    })
    .await;
    let message = service.messages().remove(0);
    let identifier = message.identifier.expect("who says it");
    assert_eq!(identifier.log_name, "requests");
    let Some(LogEntries::HttpLogs(logs)) = message.log_entries else {
        panic!("other logs");
    };
    let entry = &logs.log_entry[0];
    let response = entry.response.as_ref().expect("a response");
    assert_eq!(response.response_code, Some(201));
    assert_eq!(response.response_code_details, "direct_response");
    let admin = proxy.admin();
    admin
        .stat_reaches("access_logs.grpc_access_log.logs_written", 1)
        .await;
    // What waits in buffers when the process ends is sent.
    for path in ["/2", "/3", "/4"] {
        get(port.number(), path).await;
    }
    proxy.signal("TERM");
    proxy.end().await;
    let mut paths = service.paths();
    // Each worker sends its own.
    paths.sort_unstable();
    assert_eq!(paths, ["/2", "/3", "/4", "/first"]);
    assert!(
        service.messages()[1..]
            .iter()
            .all(|m| m.identifier.is_none())
    );
}
