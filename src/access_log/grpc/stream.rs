//! The stream to a log's service, on the control thread.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    access_log::files::Settings,
    api::envoy::service::accesslog::v3::{
        StreamAccessLogsMessage, StreamAccessLogsResponse, stream_access_logs_message::Identifier,
    },
    stats::{self, Block},
    upstream::grpc::{self, Backoff, Caller},
};

use super::{Kind, Service};

crate::stat_table! {
    /// Stats of all services together, under `access_logs.grpc_access_log.`.
    pub mod service_stats {
        counters { grpc_entries_flush_failed, grpc_entries_flushed, logs_dropped, logs_written }
        gauges {}
        histograms {}
        texts {}
    }
}

/// The most buffers of workers that wait for one service. When it is so slow, or
/// away for so long, that there are more, they are dropped and counted in
/// `logs_dropped`.
const MAX_WAITING: usize = 256;

/// How soon a stream is opened again, unless a retry policy says otherwise.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_millis(500),
    max: Duration::from_secs(30),
};

const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// Where entries for one service go, from every worker. Its stream ends when no
/// configuration refers to it any more and what it was handed has been sent.
#[derive(Debug)]
pub struct ServiceSink {
    config: Box<[u8]>,
    settings: Settings,
    jobs: mpsc::Sender<Job>,
    stats: Arc<Block>,
}

/// What the stream's task is told, in order.
#[derive(Debug)]
enum Job {
    Send(Batch),
    /// End the stream, and say when the service has taken everything.
    Finish(oneshot::Sender<()>),
}

/// Entries as they stand in a message.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    entries: u64,
}

impl ServiceSink {
    /// A sink whose stream is opened with its first entries. Without a caller, in
    /// validation, nothing is ever sent.
    ///
    /// With one, to be called within a tokio `LocalSet`.
    pub(super) fn open(
        config: &[u8],
        settings: Settings,
        service: Service,
        caller: Option<Caller>,
        stats: &stats::Registry,
    ) -> Self {
        let (sender, jobs) = mpsc::channel(MAX_WAITING);
        let stats = stats.block("access_logs.grpc_access_log.", &service_stats::TABLE);
        if let Some(caller) = caller {
            let task = Task {
                service,
                caller,
                jobs,
                stats: stats.clone(),
            };
            tokio::task::spawn_local(task.run());
        }
        Self {
            config: config.into(),
            settings,
            jobs: sender,
            stats,
        }
    }

    /// When a worker's buffer is handed over.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// What it was opened for, encoded.
    pub(in crate::access_log) fn config(&self) -> &[u8] {
        &self.config
    }

    /// An entry waits in a worker's buffer.
    pub(in crate::access_log) fn appended(&self) {
        self.stats.inc(service_stats::logs_written);
    }

    /// Hands entries over, or drops them when too many wait.
    pub(in crate::access_log) fn send(&self, bytes: Vec<u8>, entries: u64) {
        let batch = Batch { bytes, entries };
        if self.jobs.try_send(Job::Send(batch)).is_err() {
            self.stats.add(service_stats::logs_dropped, entries);
        }
    }

    /// Resolves when the service has taken everything.
    pub(in crate::access_log) async fn finish(&self) {
        let (done, is_done) = oneshot::channel();
        if self.jobs.send(Job::Finish(done)).await.is_ok() {
            // A task that ended has nothing to send any more.
            is_done.await.ok();
        }
    }
}

/// Keeps the stream.
struct Task {
    service: Service,
    caller: Caller,
    jobs: mpsc::Receiver<Job>,
    stats: Arc<Block>,
}

impl Task {
    /// Runs until the sink is gone.
    async fn run(mut self) {
        let (mut failures, mut said) = (0, String::new());
        while let Some(job) = self.jobs.recv().await {
            let batch = match job {
                Job::Send(batch) => batch,
                // There is no stream: all there was has been sent.
                Job::Finish(done) => {
                    done.send(()).ok();
                    continue;
                }
            };
            match self.converse(batch).await {
                Ok(()) => failures = 0,
                Err(Failure { status, sent }) => {
                    failures = if sent { 1 } else { failures + 1 };
                    let (name, reason) = (&self.service.log_name, grpc::describe(&status));
                    let server = self.service.target.server.name();
                    let details =
                        format!("access log '{name}': the stream to {server} closed: {reason}");
                    match details == said {
                        true => tracing::debug!(target: "grpc", "{details}"),
                        false => tracing::warn!(target: "grpc", "{details}"),
                    }
                    said = details;
                    let backoff = self.service.backoff.or(self.service.target.backoff);
                    let random = RandomState::new().hash_one(());
                    time::sleep(backoff.unwrap_or(BACKOFF).pause(failures, random)).await;
                }
            }
        }
    }

    /// One stream, from its first entries until it ends.
    async fn converse(&mut self, first: Batch) -> Result<(), Failure> {
        let target = &self.service.target;
        let upstreams = &self.caller.upstreams;
        upstreams.exists(&target.server).await;
        let opened = upstreams.open(target).await;
        let mut opened = opened.map_err(|status| {
            self.stats
                .add(service_stats::grpc_entries_flush_failed, first.entries);
            Failure {
                status,
                sent: false,
            }
        })?;
        let (messages, outgoing) = mpsc::channel(1);
        let outgoing = stream::unfold(outgoing, |mut outgoing| async {
            outgoing.recv().await.map(|message| (message, outgoing))
        });
        let mut request = tonic::Request::new(outgoing);
        *request.metadata_mut() = grpc::metadata(&target.metadata);
        let mut client = opened.client(target.max_message);
        let call = async {
            let unavailable = |error: hyper::Error| Status::unavailable(error.to_string());
            client.ready().await.map_err(unavailable)?;
            let method = PathAndQuery::from_static(METHOD);
            let answer = client.client_streaming(request, method, RawCodec).await;
            answer.map(drop)
        };
        tokio::pin!(call);
        let progress = Progress {
            stats: &self.stats,
            in_hand: Cell::new(first.entries),
            any_sent: Cell::new(false),
        };
        let introduction = self.service.introduction(&self.caller);
        let first = self.service.message(introduction, &first);
        let speaking = speak(&mut self.jobs, &self.service, first, messages, &progress);
        let outcome = tokio::select! {
            outcome = call.as_mut() => outcome,
            // The end of what there is to say is the end of the stream.
            asked = speaking => {
                let outcome = call.await;
                if let Some(asked) = asked {
                    asked.send(()).ok();
                }
                outcome
            }
        };
        let (sent, in_hand) = (progress.any_sent.get(), progress.in_hand.get());
        self.stats
            .add(service_stats::grpc_entries_flush_failed, in_hand);
        let code = outcome
            .as_ref()
            .map_or_else(Status::code, |()| tonic::Code::Ok);
        opened.ended(code);
        outcome.map_err(|status| Failure { status, sent })
    }
}

/// Sends what workers hand over, until there is nothing more to say, or somebody
/// asks for the end: whom to tell.
async fn speak(
    jobs: &mut mpsc::Receiver<Job>,
    service: &Service,
    mut message: Bytes,
    messages: mpsc::Sender<Bytes>,
    progress: &Progress<'_>,
) -> Option<oneshot::Sender<()>> {
    loop {
        messages.send(message).await.ok()?;
        progress.sent();
        match jobs.recv().await? {
            Job::Send(batch) => {
                progress.has(batch.entries);
                message = service.message(BytesMut::new(), &batch);
            }
            Job::Finish(asked) => return Some(asked),
        }
    }
}

impl Service {
    /// What the first message of a stream begins with: who sends it.
    fn introduction(&self, caller: &Caller) -> BytesMut {
        let identifier = Identifier {
            node: Some((*caller.node).clone()),
            log_name: self.log_name.clone(),
        };
        let introduction = StreamAccessLogsMessage {
            identifier: Some(identifier),
            log_entries: None,
        };
        BytesMut::from(&*introduction.encode_to_vec())
    }

    /// What is there already, with these entries.
    fn message(&self, mut message: BytesMut, batch: &Batch) -> Bytes {
        let field = match self.kind {
            Kind::Http => 2,
            Kind::Tcp => 3,
        };
        let delimited = prost::encoding::WireType::LengthDelimited;
        prost::encoding::encode_key(field, delimited, &mut message);
        prost::encoding::encode_varint(batch.bytes.len() as u64, &mut message);
        message.put_slice(&batch.bytes);
        message.freeze()
    }
}

/// How far the entries of a stream have come.
struct Progress<'a> {
    stats: &'a Block,
    /// Entries of the message that waits to be sent.
    in_hand: Cell<u64>,
    any_sent: Cell<bool>,
}

impl Progress<'_> {
    /// A message with so many entries waits to be sent.
    fn has(&self, entries: u64) {
        self.in_hand.set(entries);
    }

    /// It is on its way.
    fn sent(&self) {
        self.stats
            .add(service_stats::grpc_entries_flushed, self.in_hand.take());
        self.any_sent.set(true);
    }
}

/// Why a stream ended, and whether anything was sent by it.
struct Failure {
    status: Status,
    sent: bool,
}

/// Messages that are encoded already.
#[derive(Clone, Copy, Debug)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = StreamAccessLogsResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = StreamAccessLogsResponse;
    type Error = Status;

    fn decode(
        &mut self,
        buffer: &mut DecodeBuf<'_>,
    ) -> Result<Option<StreamAccessLogsResponse>, Status> {
        let decoded = StreamAccessLogsResponse::decode(buffer);
        decoded
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
