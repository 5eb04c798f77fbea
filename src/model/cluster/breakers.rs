//! `circuit_breakers`, compiled.

use crate::{
    api::envoy::{
        config::{
            cluster::v3::{self as pb, circuit_breakers::thresholds},
            core::v3::RoutingPriority,
        },
        r#type::v3::Percent,
    },
    config::{At, Reported},
    refuse,
    upstream::breakers::{RetryBudget, Thresholds},
};

/// The limits of each priority.
pub(super) fn compile(
    message: Option<pb::CircuitBreakers>,
    at: &At<'_>,
) -> Result<[Thresholds; 2], Reported> {
    let at = at.field("circuit_breakers");
    let pb::CircuitBreakers {
        thresholds,
        per_host_thresholds,
    } = message.unwrap_or_default();
    let mut outcome = refuse!(at; per_host_thresholds);
    let mut compiled: [Option<Thresholds>; 2] = [None; 2];
    for (index, message) in thresholds.into_iter().enumerate() {
        let at = at.field("thresholds");
        let at = at.index(index);
        match compile_thresholds(message, &at) {
            // Envoy takes the first of each priority.
            Ok((priority, limits)) => {
                compiled[priority].get_or_insert(limits);
            }
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| compiled.map(Option::unwrap_or_default))
}

fn priority(value: i32, at: &At<'_>) -> Result<usize, Reported> {
    match RoutingPriority::try_from(value) {
        Ok(RoutingPriority::Default) => Ok(0),
        Ok(RoutingPriority::High) => Ok(1),
        Err(_) => Err(at.field("priority").error("must be DEFAULT or HIGH")),
    }
}

fn compile_thresholds(
    message: pb::circuit_breakers::Thresholds,
    at: &At<'_>,
) -> Result<(usize, Thresholds), Reported> {
    let pb::circuit_breakers::Thresholds {
        priority: level,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        track_remaining,
        max_connection_pools,
        retry_budget,
    } = message;
    refuse!(at; max_connection_pools)?;
    let default = Thresholds::default();
    let limits = Thresholds {
        max_connections: max_connections.unwrap_or(default.max_connections),
        max_pending_requests: max_pending_requests.unwrap_or(default.max_pending_requests),
        max_requests: max_requests.unwrap_or(default.max_requests),
        max_retries: max_retries.unwrap_or(default.max_retries),
        retry_budget: retry_budget
            .map(|budget| compile_budget(budget, &at.field("retry_budget")))
            .transpose()?,
        track_remaining,
    };
    Ok((priority(level, at)?, limits))
}

fn compile_budget(message: thresholds::RetryBudget, at: &At<'_>) -> Result<RetryBudget, Reported> {
    let thresholds::RetryBudget {
        budget_percent,
        min_retry_concurrency,
        budget_interval,
    } = message;
    refuse!(at; budget_interval)?;
    let default = RetryBudget::default();
    Ok(RetryBudget {
        percent: budget_percent.map_or(default.percent, |Percent { value }| value),
        min_concurrency: min_retry_concurrency.unwrap_or(default.min_concurrency),
    })
}
