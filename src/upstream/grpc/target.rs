//! `envoy.config.core.v3.GrpcService`, compiled: whom to call, and how.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::channel::{Channel, Channels};
use crate::{
    api::envoy::config::core::v3::{
        BackoffStrategy, GrpcService, HeaderValue as HeaderMessage, RetryPolicy,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
    },
    config::{At, Reported, duration, optional_duration},
    refuse,
};

/// What is received at most in one message unless `max_receive_message_length`
/// says otherwise: larger than any sane configuration, and far below what would
/// end the process. Envoy has no limit.
pub const DEFAULT_MAX_MESSAGE: usize = 64 << 20;

/// Whom to call, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// Whom.
    pub server: Server,
    /// `timeout`, of a call that is no stream.
    pub timeout: Option<Duration>,
    /// `initial_metadata`.
    pub metadata: HeaderMap,
    /// `max_receive_message_length` in bytes, 64 MiB unless set.
    pub max_message: usize,
    /// `retry_policy.retry_back_off`: how soon a stream that ended is opened again.
    pub backoff: Option<Backoff>,
}

/// Whom to call.
#[derive(Clone, Debug)]
pub enum Server {
    /// `envoy_grpc`.
    Cluster {
        /// The cluster's name.
        name: Arc<str>,
        /// `authority`; the cluster's name unless set.
        authority: Option<Box<str>>,
    },
    /// `google_grpc`.
    Channel(Arc<Channel>),
}

impl Server {
    /// The cluster's name, or the server's address.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Cluster { name, .. } => name,
            Self::Channel(channel) => &channel.name,
        }
    }

    /// What calls are addressed to.
    pub(super) fn authority(&self) -> &str {
        match self {
            Self::Cluster { name, authority } => authority.as_deref().unwrap_or(name),
            Self::Channel(channel) => &channel.authority,
        }
    }
}

/// An exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait is up to this.
    pub base: Duration,
    /// No wait is longer than this.
    pub max: Duration,
}

impl Backoff {
    /// A random wait, twice as long at most after each failure. `random` says
    /// which share of it.
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let most = self.base.saturating_mul(doubled).min(self.max);
        // From 0 to 1, to a millionth.
        most.mul_f64((random % 1_000_000) as f64 / 1e6)
    }

    /// Compiles `retry_back_off`.
    ///
    /// # Errors
    /// What is wrong has been reported at `at`, its place.
    pub fn compile(
        message: Option<BackoffStrategy>,
        at: &At<'_>,
    ) -> Result<Option<Self>, Reported> {
        let Some(BackoffStrategy {
            base_interval,
            max_interval,
        }) = message
        else {
            return Ok(None);
        };
        let place = at.field("base_interval");
        let base = base_interval.ok_or_else(|| place.error("is required"))?;
        let base = duration(&base, &place)?;
        let max = optional_duration(max_interval.as_ref(), &at.field("max_interval"))?;
        let max = max.unwrap_or(base * 10);
        match max < base {
            true => Err(at
                .field("max_interval")
                .error("must not be shorter than base_interval")),
            false => Ok(Some(Self { base, max })),
        }
    }
}

impl Target {
    /// A cluster, with nothing else said.
    pub fn cluster(name: &str) -> Self {
        Self {
            server: Server::Cluster {
                name: name.into(),
                authority: None,
            },
            timeout: None,
            metadata: HeaderMap::new(),
            max_message: DEFAULT_MAX_MESSAGE,
            backoff: None,
        }
    }

    /// Compiles a service.
    ///
    /// # Errors
    /// What is wrong, or not supported, has been reported.
    pub fn compile(
        message: &GrpcService,
        channels: &Channels,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let GrpcService {
            timeout,
            initial_metadata,
            retry_policy,
            target_specifier,
        } = message.clone();
        let timeout = optional_duration(timeout.as_ref(), &at.field("timeout"));
        let metadata = compile_metadata(initial_metadata, &at.field("initial_metadata"));
        let backoff = match retry_policy {
            Some(policy) => compile_backoff(policy, &at.field("retry_policy")),
            None => Ok(None),
        };
        let found = match target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(envoy)) => {
                Found::cluster(envoy, &at.field("envoy_grpc"))
            }
            Some(TargetSpecifier::GoogleGrpc(google)) => {
                Channel::compile(&google, channels, &at.field("google_grpc")).map(Found::channel)
            }
            None => Err(at.error("names no target; use envoy_grpc or google_grpc")),
        };
        let (metadata, timeout, backoff) = (metadata?, timeout?, backoff?);
        let Found {
            server,
            max_message,
            backoff: own_backoff,
        } = found?;
        Ok(Self {
            server,
            timeout,
            metadata,
            max_message: max_message.unwrap_or(DEFAULT_MAX_MESSAGE),
            backoff: own_backoff.or(backoff),
        })
    }
}

/// What a target's specifier says.
struct Found {
    server: Server,
    max_message: Option<usize>,
    backoff: Option<Backoff>,
}

impl Found {
    fn cluster(message: EnvoyGrpc, at: &At<'_>) -> Result<Self, Reported> {
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            // None are sent in any case.
            skip_envoy_headers: _,
        } = message;
        if HeaderValue::from_str(&authority).is_err() {
            let at = at.field("authority");
            return Err(at.error(format_args!("{authority:?} cannot be a header's value")));
        }
        let backoff = match retry_policy {
            Some(policy) => compile_backoff(policy, &at.field("retry_policy"))?,
            None => None,
        };
        Ok(Self {
            server: Server::Cluster {
                name: cluster_name.into(),
                authority: (!authority.is_empty()).then(|| authority.into()),
            },
            max_message: max_receive_message_length.map(|bytes| bytes as usize),
            backoff,
        })
    }

    fn channel(channel: Arc<Channel>) -> Self {
        Self {
            max_message: channel.max_message,
            server: Server::Channel(channel),
            backoff: None,
        }
    }
}

fn compile_metadata(headers: Vec<HeaderMessage>, at: &At<'_>) -> Result<HeaderMap, Reported> {
    let mut metadata = HeaderMap::new();
    let mut outcome = Ok(());
    for (index, header) in headers.into_iter().enumerate() {
        let at = at.index(index);
        let HeaderMessage {
            key,
            value,
            raw_value,
        } = header;
        let bytes = match raw_value.is_empty() {
            true => value.into_bytes(),
            false => raw_value.to_vec(),
        };
        if bytes.contains(&b'%') {
            outcome = Err(at
                .field("value")
                .error("substitution (%) is not supported here"));
            continue;
        }
        match (
            HeaderName::try_from(&key),
            HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)),
        ) {
            (Ok(name), Ok(value)) => {
                metadata.append(name, value);
            }
            (Err(_), _) => {
                let at = at.field("key");
                outcome = Err(at.error(format_args!("{key:?} cannot be a header's name")));
            }
            (_, Err(_)) => outcome = Err(at.field("value").error("cannot be a header's value")),
        }
    }
    outcome.map(|()| metadata)
}

/// Of a retry policy a stream uses the backoff alone: it is opened again whatever
/// ended it, for as long as it is needed.
fn compile_backoff(message: RetryPolicy, at: &At<'_>) -> Result<Option<Backoff>, Reported> {
    let RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = message;
    refuse!(at;
        num_retries, retry_on, retry_priority, retry_host_predicate,
        host_selection_retry_max_attempts,
    )?;
    Backoff::compile(retry_back_off, &at.field("retry_back_off"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Report, model::testing::read};

    fn compile(yaml: &str) -> Result<Target, String> {
        let report = Report::new();
        let channels = Channels::default();
        Target::compile(&read(yaml), &channels, &report.root()).map_err(|_| report.to_string())
    }

    #[test]
    fn a_service_says_whom_to_call_and_how() {
        let target = compile(
            "envoy_grpc: {cluster_name: xds, authority: control.example, \
               retry_policy: {retry_back_off: {base_interval: 1s}}, \
               max_receive_message_length: 1000}\n\
             initial_metadata: [{key: x-token, value: abc}]\n",
        )
        .unwrap();
        assert_eq!(&**target.server.name(), "xds");
        assert_eq!(target.server.authority(), "control.example");
        assert_eq!(target.metadata["x-token"], "abc");
        assert_eq!(target.max_message, 1000);
        let backoff = target.backoff.unwrap();
        assert_eq!(backoff.base, Duration::from_secs(1));
        assert_eq!(backoff.max, Duration::from_secs(10));
    }

    #[test]
    fn waits_grow_to_their_limit_and_differ() {
        let backoff = Backoff {
            base: Duration::from_millis(500),
            max: Duration::from_secs(30),
        };
        let longest = |failures| {
            let waits = (0..200).map(|n| backoff.pause(failures, n * 5_000));
            waits.max().unwrap()
        };
        for (failures, most) in [(0, 500), (1, 500), (2, 1000), (4, 4000), (40, 30_000)] {
            let (most, longest) = (Duration::from_millis(most), longest(failures));
            assert!(
                longest <= most && longest > most / 2,
                "{failures}: {longest:?}"
            );
        }
    }

    #[test]
    fn what_has_no_effect_is_refused_by_name() {
        let said = compile("{envoy_grpc: {cluster_name: xds, retry_policy: {num_retries: 2}}}");
        assert_eq!(
            said.unwrap_err(),
            "envoy_grpc.retry_policy.num_retries: is not supported yet"
        );
        let said = compile(
            "{envoy_grpc: {cluster_name: xds}, initial_metadata: [{key: a, value: '%B%'}]}",
        );
        assert_eq!(
            said.unwrap_err(),
            "initial_metadata[0].value: substitution (%) is not supported here"
        );
    }
}
