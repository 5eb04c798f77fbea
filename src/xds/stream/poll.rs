//! Asks a server again and again by plain HTTP: `api_type: REST`.

use std::{
    hash::{BuildHasher, RandomState},
    rc::{Rc, Weak},
    sync::Arc,
};

use bytes::Bytes;
use http::{StatusCode, uri::PathAndQuery};
use tokio::{
    sync::{Notify, mpsc},
    time,
};

use crate::{
    admin::json::{self, Defaults},
    config::{Discovery, Document, Format},
    upstream::grpc::{self, DEFAULT_MAX_MESSAGE, Kept, Server, Upstreams},
    xds::{
        api_source::Polling,
        mux::{Request, TypeUrl},
    },
};

use super::{Arrival, Event, Stream};

/// What asks for one resource, or all of a type. It holds the stream only while
/// it uses it, so that it ends with the last who has an interest in it.
pub(super) struct Poller {
    pub stream: Weak<Stream>,
    pub wake: Rc<Notify>,
    pub server: Server,
    pub polling: Polling,
    pub path: PathAndQuery,
    pub type_url: TypeUrl,
    pub upstreams: Rc<Upstreams>,
    pub arrivals: mpsc::Sender<Arrival>,
}

impl Poller {
    /// Runs until it is aborted, or nobody has an interest any more.
    pub async fn run(self) {
        let (mut kept, mut said) = (Kept::default(), None);
        self.upstreams.exists(&self.server).await;
        while self.stream.strong_count() > 0 {
            let Some(request) = self.request() else {
                // Nobody asks for anything yet.
                self.wake.notified().await;
                continue;
            };
            let event = match self.ask(request, &mut kept).await {
                Ok(event) => {
                    if said.take().is_some() {
                        self.tell(Event::Connected).await;
                    }
                    event
                }
                Err(reason) => {
                    let path = &self.path;
                    let details: Arc<str> =
                        format!("REST update for {path} failed: {reason}").into();
                    // The same again and again is said once.
                    match said.as_ref() == Some(&details) {
                        true => tracing::debug!(target: "config", "{details}"),
                        false => tracing::warn!(target: "config", "{details}"),
                    }
                    said = Some(details.clone());
                    Event::Failed(details)
                }
            };
            self.tell(event).await;
            time::sleep(self.polling.pause(RandomState::new().hash_one(()))).await;
        }
    }

    async fn tell(&self, event: Event) {
        let stream = self.stream.clone();
        // Without a configurator the process ends.
        drop(self.arrivals.send(Arrival { stream, event }).await);
    }

    /// What is asked for now, as JSON.
    fn request(&self) -> Option<Bytes> {
        let stream = self.stream.upgrade()?;
        let mut machine = stream.machine.borrow_mut();
        // Each request stands for itself.
        machine.connected();
        match machine.next_request()? {
            Request::Sotw(request) => Some(json::document(&request, Defaults::Skip).into()),
            Request::Delta(_) => None,
        }
    }

    /// One request, and what it is answered.
    ///
    /// # Errors
    /// Why there is no answer.
    async fn ask(&self, request: Bytes, kept: &mut Kept) -> Result<Event, String> {
        let (server, path) = (&self.server, &self.path);
        let most = DEFAULT_MAX_MESSAGE;
        let asked = self.upstreams.post(server, path, request, most, kept);
        let timeout = self.polling.timeout;
        match time::timeout(timeout, asked).await {
            Err(_) => Err(format!("no answer from {} in {timeout:?}", server.name())),
            Ok(Err(status)) => Err(grpc::describe(&status)),
            Ok(Ok((StatusCode::OK, body))) => Ok(Event::Fetched(self.read(&body))),
            // It has nothing newer than the version that was accepted.
            Ok(Ok((StatusCode::NOT_MODIFIED, _))) => Ok(Event::Unchanged),
            Ok(Ok((status, _))) => Err(format!("{} answers {status}", server.name())),
        }
    }

    /// How long a resource lives is not minded where a server is polled, as in Envoy:
    /// the next answer says what there is.
    ///
    /// # Errors
    /// What is wrong, with its line and column in the answer.
    fn read(&self, body: &Bytes) -> Result<Discovery, String> {
        let place = format!("{}{}", self.server.name(), self.path);
        let document = Document::new(place, Format::Json, body.to_vec());
        let answer = document.and_then(|document| Discovery::of(&document, &self.type_url));
        answer.map_err(|error| error.to_string())
    }
}
