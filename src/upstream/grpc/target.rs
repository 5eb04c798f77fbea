//! `envoy.config.core.v3.GrpcService`, compiled: whom to call, and how.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// `authority`; the cluster's name unless set.
    pub authority: Option<Box<str>>,
    /// `timeout`, of a call that is no stream.
    pub timeout: Option<Duration>,
    /// `initial_metadata`.
    pub metadata: HeaderMap,
    /// `max_receive_message_length` in bytes, 64 MiB unless set.
    pub max_message: usize,
    /// `retry_policy.retry_back_off`: how soon a stream that ended is opened again.
    pub backoff: Option<Backoff>,
}

/// An exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait is up to this.
    pub base: Duration,
    /// No wait is longer than this.
    pub max: Duration,
}

impl Target {
    /// Compiles a service.
    ///
    /// # Errors
    /// What is wrong, or not supported, has been reported.
    pub fn compile(message: &GrpcService, at: &At<'_>) -> Result<Self, Reported> {
        let GrpcService {
            timeout,
            initial_metadata,
            retry_policy,
            target_specifier,
        } = message.clone();
        let timeout = optional_duration(timeout.as_ref(), &at.field("timeout"));
        let metadata = compile_metadata(initial_metadata, &at.field("initial_metadata"));
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy: own_retry_policy,
            max_receive_message_length,
            // None are sent in any case.
            skip_envoy_headers: _,
        } = match target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(envoy)) => envoy,
            Some(TargetSpecifier::GoogleGrpc(_)) => {
                return Err(at.field("google_grpc").unsupported());
            }
            None => return Err(at.error("names no target; use envoy_grpc")),
        };
        let at_envoy = at.field("envoy_grpc");
        let backoff = match own_retry_policy {
            Some(policy) => compile_backoff(policy, &at_envoy.field("retry_policy")),
            None => match retry_policy {
                Some(policy) => compile_backoff(policy, &at.field("retry_policy")),
                None => Ok(None),
            },
        };
        if HeaderValue::from_str(&authority).is_err() {
            let at = at_envoy.field("authority");
            return Err(at.error(format_args!("{authority:?} cannot be a header's value")));
        }
        Ok(Self {
            cluster: cluster_name.into(),
            authority: (!authority.is_empty()).then(|| authority.into()),
            timeout: timeout?,
            metadata: metadata?,
            max_message: max_receive_message_length
                .map_or(DEFAULT_MAX_MESSAGE, |bytes| bytes as usize),
            backoff: backoff?,
        })
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
    let Some(BackoffStrategy {
        base_interval,
        max_interval,
    }) = retry_back_off
    else {
        return Ok(None);
    };
    let at = at.field("retry_back_off");
    let place = at.field("base_interval");
    let base = base_interval.ok_or_else(|| place.error("is required"))?;
    let base = duration(&base, &place)?;
    let max = optional_duration(max_interval.as_ref(), &at.field("max_interval"))?;
    let max = max.unwrap_or(base * 10);
    match max < base {
        true => Err(at
            .field("max_interval")
            .error("must not be shorter than base_interval")),
        false => Ok(Some(Backoff { base, max })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Report, model::testing::read};

    fn compile(yaml: &str) -> Result<Target, String> {
        let report = Report::new();
        Target::compile(&read(yaml), &report.root()).map_err(|_| report.to_string())
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
        assert_eq!(&*target.cluster, "xds");
        assert_eq!(target.authority.as_deref(), Some("control.example"));
        assert_eq!(target.metadata["x-token"], "abc");
        assert_eq!(target.max_message, 1000);
        let backoff = target.backoff.unwrap();
        assert_eq!(backoff.base, Duration::from_secs(1));
        assert_eq!(backoff.max, Duration::from_secs(10));
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
