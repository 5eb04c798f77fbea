//! Conversations with management servers: who asked for what, and what came.
//!
//! A [`Stream`] belongs to those who ask by it: each holds an [`Interest`], and
//! the last one that goes ends it. ADS is one stream for every type; any other
//! source has one for each type, shared by all who ask there.
//!
//! Answers go to the configurator one at a time: while it applies one, the next
//! is not read, and the server's flow control window fills. So a server that
//! floods is slowed down, and what is sent by this proxy while an answer is
//! applied (new subscriptions, and the verdict) goes out together afterwards.

mod codec;
mod driver;
mod poll;
mod service;

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
};

use crate::{
    api::envoy::config::core::v3::Node,
    config::{At, Discovery, Reported},
    stats::{self, Block},
    upstream::grpc::{Caller, Upstreams},
};

use super::{
    api_source::{ApiSource, Variant},
    config_source::Origin,
    mux::{Answered, Machine, Push, Response, TypeUrl, Verdict, WILDCARD},
    named::AnyNamed,
    stats::control_plane_stats as names,
    update::{Gone, Received, Update},
};

/// Answers that wait to be applied, of all streams.
const WAITING_ANSWERS: usize = 1;

/// What a stream tells the configurator.
pub struct Arrival {
    /// Which stream; it may have ended.
    pub stream: Weak<Stream>,
    /// What happened.
    pub event: Event,
}

/// What happens to a stream.
#[derive(Debug)]
pub enum Event {
    /// A server takes part.
    Connected,
    /// An answer came.
    Answer(Response),
    /// An answer to a poll came; or why it cannot be read.
    Fetched(Result<Discovery, String>),
    /// The server that is polled has nothing new.
    Unchanged,
    /// There is no server, or not any more.
    Failed(Arc<str>),
}

/// All streams, and what they need.
pub struct Streams {
    upstreams: Rc<Upstreams>,
    node: Arc<Node>,
    stats: Arc<stats::Registry>,
    arrivals: mpsc::Sender<Arrival>,
    open: RefCell<HashMap<Key, Weak<Stream>>>,
}

/// ADS is one; others differ by what they are for. Where a server is polled, each
/// name has its own: the version that is there says nothing of another's.
type Key = (Arc<ApiSource>, Option<TypeUrl>, Option<Box<str>>);

impl Streams {
    /// None yet. What they tell is received by the configurator.
    pub fn new(
        upstreams: Rc<Upstreams>,
        node: Arc<Node>,
        stats: Arc<stats::Registry>,
    ) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, receiver) = mpsc::channel(WAITING_ANSWERS);
        let streams = Self {
            upstreams,
            node,
            stats,
            arrivals,
            open: RefCell::default(),
        };
        (streams, receiver)
    }

    /// What calls of this thread go through.
    pub fn upstreams(&self) -> &Rc<Upstreams> {
        &self.upstreams
    }

    /// What other services are called by.
    pub fn caller(&self) -> Caller {
        Caller {
            upstreams: self.upstreams.clone(),
            node: self.node.clone(),
        }
    }

    /// The stream for resources of a type from an origin, joined or begun.
    /// It is for the resource of this name, or all of them. `prefix` is where the
    /// stats of the subscription stand.
    ///
    /// # Errors
    /// When no service has them: reported at the place of the source.
    pub fn join(
        &self,
        origin: &Origin,
        type_url: &TypeUrl,
        name: &str,
        prefix: &str,
        at: &At<'_>,
    ) -> Result<Rc<Stream>, Reported> {
        let (source, kind, prefix) = match origin {
            Origin::Ads(source) => (source, None, ""),
            Origin::Api(source) => (source, Some(type_url.clone()), prefix),
            Origin::File(_) => return Err(at.error("is a file, which is not asked")),
        };
        let polled = source.polling.map(|_| Box::from(name));
        let key = (source.clone(), kind, polled);
        if let Some(known) = self.open.borrow().get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let method = service::method(key.1.as_deref(), source.variant).ok_or_else(|| {
            let variant = match source.variant {
                Variant::Sotw => "GRPC",
                Variant::Delta => "DELTA_GRPC",
                Variant::Rest => "REST",
            };
            at.error(format_args!("there is no {variant} service for {type_url}"))
        })?;
        let place = source.place.clone();
        let only_first = source.node_on_first_message_only;
        let stream = Rc::new(Stream {
            place,
            machine: RefCell::new(Machine::new(source.variant, self.node.clone(), only_first)),
            watchers: RefCell::default(),
            wake: Rc::new(Notify::new()),
            stats: self
                .stats
                .block(&format!("{prefix}control_plane."), &names::TABLE),
            polled: source.polling.map(|_| (type_url.clone(), name.into())),
            driver: RefCell::default(),
            failure: RefCell::default(),
        });
        let task = match (source.polling, &*source.servers) {
            (Some(polling), [target, ..]) => {
                let poller = poll::Poller {
                    stream: Rc::downgrade(&stream),
                    wake: stream.wake.clone(),
                    server: target.server.clone(),
                    polling,
                    path: method,
                    type_url: type_url.clone(),
                    upstreams: self.upstreams.clone(),
                    arrivals: self.arrivals.clone(),
                };
                tokio::task::spawn_local(poller.run())
            }
            _ => {
                let driver = driver::Driver {
                    stream: Rc::downgrade(&stream),
                    wake: stream.wake.clone(),
                    source: source.clone(),
                    method,
                    upstreams: self.upstreams.clone(),
                    arrivals: self.arrivals.clone(),
                    stats: stream.stats.clone(),
                };
                tokio::task::spawn_local(driver.run())
            }
        };
        stream.driver.replace(Some(task.abort_handle()));
        let mut open = self.open.borrow_mut();
        open.retain(|_, stream| stream.strong_count() > 0);
        open.insert(key, Rc::downgrade(&stream));
        Ok(stream)
    }

    /// When a TTL runs out.
    pub fn next_expiry(&self) -> Option<Instant> {
        let live = self.live();
        live.iter()
            .filter_map(|stream| stream.machine.borrow().next_expiry())
            .min()
    }

    /// What has outlived its TTL.
    pub fn expire(&self, now: Instant) -> Vec<(Rc<Stream>, Vec<Push>)> {
        let live = self.live().into_iter();
        live.map(|stream| {
            let ended = stream.machine.borrow_mut().expire(now);
            (stream, ended)
        })
        .collect()
    }

    fn live(&self) -> Vec<Rc<Stream>> {
        self.open
            .borrow()
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

type Watchers = HashMap<Arc<str>, Vec<Weak<dyn AnyNamed>>>;

/// One conversation.
pub struct Stream {
    /// The servers' names, for people.
    pub place: Arc<str>,
    machine: RefCell<Machine>,
    /// Who asked by name.
    watchers: RefCell<HashMap<TypeUrl, Watchers>>,
    wake: Rc<Notify>,
    stats: Arc<Block>,
    /// The type and name that a server is polled for.
    polled: Option<(TypeUrl, Arc<str>)>,
    driver: RefCell<Option<AbortHandle>>,
    failure: RefCell<Option<Arc<str>>>,
}

impl Stream {
    /// Asks for a resource, or with the wildcard for all, until the interest ends.
    pub fn subscribe(self: &Rc<Self>, type_url: &TypeUrl, name: &str) -> Interest {
        self.machine.borrow_mut().subscribe(type_url, name);
        self.has_something_to_say();
        Interest {
            stream: self.clone(),
            type_url: type_url.clone(),
            name: name.into(),
        }
    }

    /// Says who is to be handed resources of this name.
    pub fn watch(&self, type_url: &TypeUrl, name: &str, who: Weak<dyn AnyNamed>) {
        let mut watchers = self.watchers.borrow_mut();
        let of_type = watchers.entry(type_url.clone()).or_default();
        let same = of_type.entry(name.into()).or_default();
        same.retain(|other| other.strong_count() > 0);
        same.push(who);
    }

    /// Why there is no server, if there is none.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.failure.borrow().clone()
    }

    /// Notes whether there is a server.
    pub fn note_failure(&self, failure: Option<Arc<str>>) {
        *self.failure.borrow_mut() = failure;
    }

    /// Who asked for this name.
    pub fn watchers(&self, type_url: &str, name: &str) -> Vec<Rc<dyn AnyNamed>> {
        let watchers = self.watchers.borrow();
        let same = watchers.get(type_url).and_then(|of_type| of_type.get(name));
        same.into_iter()
            .flatten()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Everybody who asked for resources of a type by name.
    pub fn watchers_of(&self, type_url: &str) -> Vec<Rc<dyn AnyNamed>> {
        let watchers = self.watchers.borrow();
        let of_type = watchers.get(type_url).into_iter().flatten();
        let all = of_type.flat_map(|(_, same)| same);
        all.filter_map(Weak::upgrade).collect()
    }

    /// Everybody who asked by name.
    pub fn all_watchers(&self) -> Vec<Rc<dyn AnyNamed>> {
        let watchers = self.watchers.borrow();
        let all = watchers.values().flat_map(HashMap::values).flatten();
        all.filter_map(Weak::upgrade).collect()
    }

    /// See [`Machine::known`].
    pub fn known(&self, type_url: &str, name: &str) -> Option<Received> {
        self.machine.borrow().known(type_url, name)
    }

    /// See [`Machine::accepted`].
    pub fn accepted(&self, type_url: &str) -> Option<Update> {
        self.machine.borrow().accepted(type_url)
    }

    /// Takes an answer apart; `None` when nobody asked for what it holds.
    pub fn receive(&self, response: Response) -> Option<Push> {
        if let Some(identifier) = response.identifier() {
            self.stats.set_text(names::identifier, identifier);
        }
        let push = self.machine.borrow_mut().receive(response, Instant::now());
        // Even what is passed over may have to be answered.
        self.has_something_to_say();
        push
    }

    /// Takes an answer to a poll; `None` when this is a stream.
    pub fn fetched(&self, answer: Result<Discovery, String>) -> Option<Push> {
        let (type_url, name) = self.polled.as_ref()?;
        let update = answer.and_then(|answer| {
            let mut update = Update::from(answer);
            if **name != *WILDCARD {
                let other = update.resources.first().map(|other| other.name.clone());
                update.resources.retain(|received| received.name == *name);
                update.gone = Gone::Named(match (update.resources.is_empty(), other) {
                    (false, _) => Vec::new(),
                    (true, None) => vec![name.clone()],
                    (true, Some(other)) => {
                        return Err(format!("Unexpected resource (expecting {name}): {other}"));
                    }
                });
            }
            Ok(update)
        });
        Some(Push {
            type_url: type_url.clone(),
            // The next poll says what was accepted.
            nonce: Some(String::new()),
            update,
        })
    }

    /// Says what came of an answer.
    pub fn verdict(&self, push: &Answered, verdict: &Verdict) {
        self.machine.borrow_mut().verdict(push, verdict);
        self.has_something_to_say();
    }

    /// See [`Machine::hold`].
    pub fn hold(&self, type_url: &TypeUrl, held: bool) {
        self.machine.borrow_mut().hold(type_url, held);
        self.has_something_to_say();
    }

    fn has_something_to_say(&self) {
        if self.polled.is_none() {
            let pending = self.machine.borrow().pending();
            self.stats
                .gauge_set(names::pending_requests, pending as u64);
        }
        self.wake.notify_one();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get_mut() {
            driver.abort();
        }
        if self.polled.is_none() {
            self.stats.gauge_set(names::connected_state, 0);
        }
    }
}

/// A resource that somebody asks for, or all of a type; given up when dropped.
pub struct Interest {
    stream: Rc<Stream>,
    type_url: TypeUrl,
    name: Arc<str>,
}

impl Interest {
    /// By which it is asked for.
    pub fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }

    /// Whether this stream is the one by which it is asked for.
    pub fn is_by(&self, stream: &Rc<Stream>) -> bool {
        Rc::ptr_eq(&self.stream, stream)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let stream = &self.stream;
        stream
            .machine
            .borrow_mut()
            .unsubscribe(&self.type_url, &self.name);
        let mut watchers = stream.watchers.borrow_mut();
        if let Some(of_type) = watchers.get_mut(&*self.type_url)
            && let Some(same) = of_type.get_mut(&*self.name)
        {
            // The one who drops this cannot be upgraded any more.
            same.retain(|other| other.strong_count() > 0);
            if same.is_empty() {
                of_type.remove(&*self.name);
            }
        }
        drop(watchers);
        stream.has_something_to_say();
    }
}
