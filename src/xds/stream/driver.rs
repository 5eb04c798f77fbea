//! Keeps a stream open: connects, sends what there is to say, hands on what
//! comes, and begins again when it ends.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream;
use http::uri::PathAndQuery;
use tokio::{
    sync::{Notify, mpsc},
    time,
};
use tonic::Status;

use crate::{
    stats::Block,
    upstream::grpc::{self, Backoff, Target, Upstreams},
    xds::{
        api_source::ApiSource,
        mux::{Request, rate_limit::Bucket},
        stats::control_plane_stats as names,
    },
};

use super::{Arrival, Event, Stream, codec::DiscoveryCodec};

/// How soon a stream is opened again, unless `retry_back_off` says otherwise.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(500),
    max: Duration::from_secs(30),
};

/// While so many requests wait to be sent (the rate is limited, or the server
/// does not read), its answers are not read either.
const MAX_PENDING: usize = 100;

/// How often it is looked whether those that wait have been sent.
const PENDING_CHECK: Duration = Duration::from_millis(50);

/// What keeps a stream open. It holds the stream only while it uses it, so that
/// the stream ends with the last who has an interest in it.
pub(super) struct Driver {
    pub stream: Weak<Stream>,
    pub wake: Rc<Notify>,
    pub source: Arc<ApiSource>,
    pub method: PathAndQuery,
    pub upstreams: Rc<Upstreams>,
    pub arrivals: mpsc::Sender<Arrival>,
    pub stats: Arc<Block>,
}

impl Driver {
    /// Runs until it is aborted, or nobody has an interest any more.
    pub async fn run(self) {
        let (mut turn, mut failures, mut said) = (0, 0, String::new());
        let limit = self.source.rate_limit;
        // It holds for all streams together.
        let mut bucket = limit.map(|limit| Bucket::new(limit, Instant::now()));
        // The first who asks may come late: LDS waits for clusters.
        while self.stream.strong_count() > 0 && self.pending() == 0 {
            self.wake.notified().await;
        }
        while self.stream.strong_count() > 0 {
            let target = &self.source.servers[turn % self.source.servers.len()];
            let mut answered = false;
            let status = self.converse(target, &mut bucket, &mut answered).await;
            self.stats.gauge_set(names::connected_state, 0);
            // After a conversation it begins with the first server again; one
            // that does not answer is left for the next.
            (turn, failures) = match answered {
                true => (0, 0),
                false => (turn + 1, failures + 1),
            };
            let details = self.describe(target, &status);
            // The same again and again is said once.
            match answered || details != said {
                true => tracing::warn!(target: "config", "{details}"),
                false => tracing::debug!(target: "config", "{details}"),
            }
            self.tell(Event::Failed(details.as_str().into())).await;
            said = details;
            let backoff = target.backoff.unwrap_or(BACKOFF);
            let random = RandomState::new().hash_one(());
            time::sleep(backoff.pause(failures, random)).await;
        }
    }

    fn describe(&self, target: &Target, status: &Status) -> String {
        let method = self.method.path().rsplit('/').next().unwrap_or_default();
        let (server, reason) = (target.server.name(), grpc::describe(status));
        format!("{method} gRPC config stream to {server} closed: {reason}")
    }

    async fn tell(&self, event: Event) {
        let stream = self.stream.clone();
        // Without a configurator the process ends.
        drop(self.arrivals.send(Arrival { stream, event }).await);
    }

    /// One stream, until it ends; says why it did.
    async fn converse(
        &self,
        target: &Target,
        bucket: &mut Option<Bucket>,
        answered: &mut bool,
    ) -> Status {
        self.upstreams.exists(&target.server).await;
        let mut opened = match self.upstreams.open(target).await {
            Ok(opened) => opened,
            Err(status) => return status,
        };
        if let Some(stream) = self.stream.upgrade() {
            stream.machine.borrow_mut().connected();
            stream.has_something_to_say();
        }
        self.stats.gauge_set(names::connected_state, 1);
        let (requests, outgoing) = mpsc::channel(1);
        let outgoing = stream::unfold(outgoing, |mut outgoing| async {
            outgoing.recv().await.map(|request| (request, outgoing))
        });
        let mut request = tonic::Request::new(outgoing);
        *request.metadata_mut() = grpc::metadata(&target.metadata);
        let mut client = opened.client(target.max_message);
        let listening = async {
            client
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = DiscoveryCodec(self.source.variant);
            let call = client.streaming(request, self.method.clone(), codec);
            let mut answers = call.await?.into_inner();
            self.tell(Event::Connected).await;
            while let Some(answer) = answers.message().await? {
                *answered = true;
                self.tell(Event::Answer(answer)).await;
                self.let_requests_go_out().await;
            }
            Ok(())
        };
        let outcome: Result<(), Status> = tokio::select! {
            outcome = listening => outcome,
            never = self.speak(requests, bucket) => match never {},
        };
        let status = match outcome {
            Ok(()) => Status::ok(""),
            Err(status) => status,
        };
        opened.ended(status.code());
        status
    }

    /// Sends what there is to say, as fast as it may.
    async fn speak(
        &self,
        requests: mpsc::Sender<Request>,
        bucket: &mut Option<Bucket>,
    ) -> Infallible {
        loop {
            if self.pending() == 0 {
                self.wake.notified().await;
                continue;
            }
            if let Some(Err(wait)) = bucket.as_mut().map(|b| b.take(Instant::now())) {
                self.stats.inc(names::rate_limit_enforced);
                time::sleep(wait).await;
                continue;
            }
            // Room first: what is said is what holds when it can be sent.
            let Ok(room) = requests.reserve().await else {
                std::future::pending::<()>().await;
                continue;
            };
            let Some(stream) = self.stream.upgrade() else {
                std::future::pending::<()>().await;
                continue;
            };
            let next = stream.machine.borrow_mut().next_request();
            self.stats
                .gauge_set(names::pending_requests, self.pending() as u64);
            if let Some(request) = next {
                room.send(request);
            }
        }
    }

    fn pending(&self) -> usize {
        let stream = self.stream.upgrade();
        stream.map_or(0, |stream| stream.machine.borrow().pending())
    }

    async fn let_requests_go_out(&self) {
        while self.pending() > MAX_PENDING {
            time::sleep(PENDING_CHECK).await;
        }
    }
}
