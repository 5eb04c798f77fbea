//! `lb_policy`, `load_balancing_policy` and `common_lb_config`, compiled.

use super::{hashing, subsets};
use crate::{
    api::envoy::{
        config::{
            cluster::v3::{
                self as pb,
                cluster::{
                    CommonLbConfig, LbConfig, LbPolicy, LbSubsetConfig, LeastRequestLbConfig,
                    RoundRobinLbConfig,
                    common_lb_config::{
                        ConsistentHashingLbConfig, LocalityConfigSpecifier as Specifier,
                        ZoneAwareLbConfig,
                    },
                },
            },
            core::v3::{RuntimeDouble, TypedExtensionConfig},
        },
        extensions::load_balancing_policies::{
            common::v3::{
                LocalityLbConfig,
                locality_lb_config::{
                    LocalityConfigSpecifier as TypedSpecifier, ZoneAwareLbConfig as TypedZoneAware,
                },
            },
            least_request::v3::{
                LeastRequest as TypedLeastRequest, least_request::SelectionMethod,
            },
            random::v3::Random,
            round_robin::v3::RoundRobin,
        },
        r#type::v3::Percent,
    },
    config::{At, Reported, unpack},
    model::Context,
    refuse,
    runtime::Key,
    upstream::balance::{Balancing, Hashing, LeastRequest, Policy},
};

/// The runtime's panic threshold, of all clusters.
const PANIC_THRESHOLD_KEY: &str = "upstream.healthy_panic_threshold";

/// Where a cluster says how it balances.
pub(super) struct Balance {
    /// The cluster's type brings its own: `ORIGINAL_DST`.
    pub(super) provided: bool,
    /// Hosts have names: `STRICT_DNS`.
    pub(super) strict_dns: bool,
    pub(super) lb_policy: i32,
    pub(super) lb_config: Option<LbConfig>,
    pub(super) lb_subset_config: Option<LbSubsetConfig>,
    pub(super) load_balancing_policy: Option<pb::LoadBalancingPolicy>,
    pub(super) common_lb_config: Option<CommonLbConfig>,
}

pub(super) fn compile(
    message: Balance,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Balancing, Reported> {
    let Balance {
        provided,
        strict_dns,
        lb_policy,
        lb_config,
        lb_subset_config,
        load_balancing_policy,
        common_lb_config,
    } = message;
    let subsets_at = at.field("lb_subset_config");
    if lb_subset_config.is_some() && load_balancing_policy.is_some() {
        return Err(subsets_at.error("cannot be combined with load_balancing_policy"));
    }
    // Without a selector it means nothing, in Envoy too.
    let subsets = lb_subset_config.filter(|config| !config.subset_selectors.is_empty());
    let mut balancing = Balancing {
        panic_threshold_key: cx.runtime.key(PANIC_THRESHOLD_KEY),
        ..Balancing::default()
    };
    let consistent = compile_common(
        common_lb_config.unwrap_or_default(),
        &mut balancing,
        &at.field("common_lb_config"),
    )?;
    let by_hostname = consistent
        .as_ref()
        .is_some_and(|c| c.use_hostname_for_hashing);
    if by_hostname && !strict_dns {
        let at = at.field("common_lb_config");
        let at = at.field("consistent_hashing_lb_config");
        let place = at.field("use_hostname_for_hashing");
        return Err(place.error("is only allowed with cluster type 'STRICT_DNS'"));
    }
    if provided {
        if subsets.is_some() {
            return Err(subsets_at.error("cannot be combined with lb_policy CLUSTER_PROVIDED"));
        }
        check_provided(lb_policy, load_balancing_policy, at)?;
        return Ok(balancing);
    }
    match load_balancing_policy {
        // It takes the place of `lb_policy`, as in Envoy.
        Some(policy) => compile_typed(
            policy,
            &mut balancing,
            cx,
            &at.field("load_balancing_policy"),
        )?,
        None => {
            let config = (lb_config, consistent);
            compile_policy(lb_policy, config, &mut balancing, cx, at)?;
        }
    }
    if let Some(config) = subsets {
        let compiled = subsets::compile(subsets::typed(config), &subsets_at)?;
        if compiled.locality_weight_aware && !balancing.locality_weighted {
            let at = subsets_at.field("locality_weight_aware");
            return Err(at.error("needs common_lb_config.locality_weighted_lb_config"));
        }
        divide(compiled, &mut balancing);
    }
    Ok(balancing)
}

/// Divides the hosts, for which all else is settled.
fn divide(compiled: subsets::Compiled, balancing: &mut Balancing) {
    balancing.locality_weighted &= compiled.locality_weight_aware;
    balancing.subsets = Some(Box::new(compiled.settings));
}

/// A cluster that brings its own load balancer has no other.
fn check_provided(
    lb_policy: i32,
    typed: Option<pb::LoadBalancingPolicy>,
    at: &At<'_>,
) -> Result<(), Reported> {
    const PROVIDED: &str = "envoy.extensions.load_balancing_policies.cluster_provided.v3.";
    if let Some(pb::LoadBalancingPolicy { policies }) = typed {
        let configs = policies
            .into_iter()
            .map(|policy| policy.typed_extension_config);
        let mut kinds = configs.flatten().filter_map(|config| config.typed_config);
        if kinds.any(|any| any.type_url.contains(PROVIDED)) {
            return Ok(());
        }
    } else if lb_policy == i32::from(LbPolicy::ClusterProvided) {
        return Ok(());
    }
    Err(at
        .field("lb_policy")
        .error("only 'CLUSTER_PROVIDED' is allowed with cluster type 'ORIGINAL_DST'"))
}

fn compile_policy(
    lb_policy: i32,
    (lb_config, consistent): (Option<LbConfig>, Option<ConsistentHashingLbConfig>),
    balancing: &mut Balancing,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(), Reported> {
    let place = at.field("lb_policy");
    let policy = LbPolicy::try_from(lb_policy)
        .map_err(|_| place.error(format_args!("{lb_policy} is not a value of LbPolicy")))?;
    balancing.policy = match (policy, lb_config) {
        (LbPolicy::RoundRobin, config) => {
            if let Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })) =
                config
            {
                refuse!(at.field("round_robin_lb_config"); slow_start_config)?;
            }
            Policy::RoundRobin
        }
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            let at = at.field("least_request_lb_config");
            let LeastRequestLbConfig {
                choice_count,
                active_request_bias,
                slow_start_config,
            } = config;
            refuse!(at; slow_start_config)?;
            let default = LeastRequest::default();
            let (bias, bias_key) = bias(active_request_bias, cx, &at)?;
            Policy::LeastRequest(LeastRequest {
                choices: choice_count.unwrap_or(default.choices),
                bias,
                bias_key,
                full_scan: false,
            })
        }
        // The settings of a policy that is not used mean nothing, in Envoy too.
        (LbPolicy::LeastRequest, _) => Policy::LeastRequest(LeastRequest::default()),
        (LbPolicy::Random, _) => Policy::Random,
        (LbPolicy::ClusterProvided, _) => {
            return Err(
                place.error("CLUSTER_PROVIDED needs a cluster_type that brings a load balancer")
            );
        }
        (LbPolicy::LoadBalancingPolicyConfig, _) => {
            return Err(place.error("needs load_balancing_policy"));
        }
        (LbPolicy::RingHash, config) => {
            let config = match config {
                Some(LbConfig::RingHashLbConfig(config)) => config,
                _ => Default::default(),
            };
            let config = hashing::ring(config, consistent);
            let (hashing, _) = hashing::compile_ring(config, &at.field("ring_hash_lb_config"))?;
            Policy::Hash(hashing)
        }
        (LbPolicy::Maglev, config) => {
            let config = match config {
                Some(LbConfig::MaglevLbConfig(config)) => config,
                _ => Default::default(),
            };
            let config = hashing::maglev(config, consistent);
            let (hashing, _) = hashing::compile_maglev(config, &at.field("maglev_lb_config"))?;
            Policy::Hash(hashing)
        }
    };
    Ok(())
}

/// `active_request_bias`, and the key of the runtime that goes before it.
fn bias(
    message: Option<RuntimeDouble>,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(f64, Option<Key>), Reported> {
    let Some(RuntimeDouble {
        default_value,
        runtime_key,
    }) = message
    else {
        return Ok((LeastRequest::default().bias, None));
    };
    match default_value >= 0.0 {
        true => Ok((default_value, cx.runtime.key(&runtime_key))),
        false => {
            let at = at.field("active_request_bias");
            Err(at.field("default_value").error("must not be negative"))
        }
    }
}

/// Gives what is for policies that go by a hash; to others it means nothing, in Envoy too.
fn compile_common(
    message: CommonLbConfig,
    balancing: &mut Balancing,
    at: &At<'_>,
) -> Result<Option<ConsistentHashingLbConfig>, Reported> {
    let CommonLbConfig {
        healthy_panic_threshold,
        // Updates that come close together are merged by the control thread anyway.
        update_merge_window: _,
        // Says what happens until the first active health check, and
        // `health_checks` is refused.
        ignore_new_hosts_until_first_hc: _,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = message;
    refuse!(at; close_connections_on_host_set_change, override_host_status)?;
    if let Some(Percent { value }) = healthy_panic_threshold {
        if !(0.0..=100.0).contains(&value) {
            let place = at.field("healthy_panic_threshold");
            return Err(place.error(format_args!("{value} is not between 0 and 100")));
        }
        balancing.panic_threshold = value;
    }
    match locality_config_specifier {
        Some(Specifier::LocalityWeightedLbConfig(_)) => balancing.locality_weighted = true,
        Some(Specifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
            // Zone-aware routing begins when the bootstrap names a local cluster,
            // which is refused; until then Envoy balances as if this were not here.
            routing_enabled: _,
            min_cluster_size: _,
            fail_traffic_on_panic,
        })) => balancing.fail_traffic_on_panic = fail_traffic_on_panic,
        None => {}
    }
    Ok(consistent_hashing_lb_config)
}

/// The first policy of the list that is known, as Envoy takes it.
fn compile_typed(
    message: pb::LoadBalancingPolicy,
    balancing: &mut Balancing,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(), Reported> {
    let at = at.field("policies");
    let mut names = Vec::new();
    for (index, policy) in message.policies.into_iter().enumerate() {
        let at = at.index(index);
        let pb::load_balancing_policy::Policy {
            typed_extension_config,
        } = policy;
        let at = at.field("typed_extension_config");
        let Some(TypedExtensionConfig { name, typed_config }) = typed_extension_config else {
            return Err(at.error("is required"));
        };
        let typed_config = typed_config.unwrap_or_default();
        let at = at.field("typed_config");
        let type_name = typed_config.type_url.rsplit('/').next().unwrap_or_default();
        let locality = match type_name.strip_prefix("envoy.extensions.load_balancing_policies.") {
            Some("round_robin.v3.RoundRobin") => {
                let RoundRobin {
                    slow_start_config,
                    locality_lb_config,
                } = unpack(&typed_config, &at)?;
                refuse!(at; slow_start_config)?;
                balancing.policy = Policy::RoundRobin;
                locality_lb_config
            }
            Some("random.v3.Random") => {
                let Random { locality_lb_config } = unpack(&typed_config, &at)?;
                balancing.policy = Policy::Random;
                locality_lb_config
            }
            Some("least_request.v3.LeastRequest") => {
                let (policy, locality) =
                    compile_least_request(unpack(&typed_config, &at)?, cx, &at)?;
                balancing.policy = Policy::LeastRequest(policy);
                locality
            }
            Some("ring_hash.v3.RingHash") => {
                let message = unpack(&typed_config, &at)?;
                return hash(hashing::compile_ring(message, &at)?, balancing);
            }
            Some("maglev.v3.Maglev") => {
                let message = unpack(&typed_config, &at)?;
                return hash(hashing::compile_maglev(message, &at)?, balancing);
            }
            Some("subset.v3.Subset") if balancing.subsets.is_none() => {
                let compiled = subsets::compile(unpack(&typed_config, &at)?, &at)?;
                let at = at.field("subset_lb_policy");
                let Some(policy) = compiled.policy.clone() else {
                    return Err(at.error("is required"));
                };
                // Subsets of subsets are known by the same labels: there is nothing in them.
                balancing.subsets = Some(Box::default());
                compile_typed(policy, balancing, cx, &at)?;
                divide(compiled, balancing);
                return Ok(());
            }
            _ => {
                names.push(format!("{name:?} ({})", typed_config.type_url));
                continue;
            }
        };
        return compile_locality(locality, balancing, &at.field("locality_lb_config"));
    }
    Err(at.error(format_args!(
        "none of these policies is supported: {}; supported are round_robin, random, \
         least_request, ring_hash, maglev, subset",
        names.join(", ")
    )))
}

fn hash(
    (hashing, locality_weighted): (Hashing, bool),
    balancing: &mut Balancing,
) -> Result<(), Reported> {
    balancing.policy = Policy::Hash(hashing);
    balancing.locality_weighted = locality_weighted;
    Ok(())
}

fn compile_least_request(
    message: TypedLeastRequest,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(LeastRequest, Option<LocalityLbConfig>), Reported> {
    let TypedLeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = message;
    refuse!(at; slow_start_config)?;
    let full_scan =
        enable_full_scan == Some(true) || selection_method == i32::from(SelectionMethod::FullScan);
    let (bias, bias_key) = bias(active_request_bias, cx, at)?;
    let policy = LeastRequest {
        choices: choice_count.unwrap_or(LeastRequest::default().choices),
        bias,
        bias_key,
        full_scan,
    };
    Ok((policy, locality_lb_config))
}

fn compile_locality(
    message: Option<LocalityLbConfig>,
    balancing: &mut Balancing,
    at: &At<'_>,
) -> Result<(), Reported> {
    // A typed policy brings its own, and `common_lb_config` does not apply.
    balancing.locality_weighted = false;
    balancing.fail_traffic_on_panic = false;
    let Some(LocalityLbConfig {
        locality_config_specifier,
    }) = message
    else {
        return Ok(());
    };
    match locality_config_specifier {
        Some(TypedSpecifier::LocalityWeightedLbConfig(_)) => balancing.locality_weighted = true,
        Some(TypedSpecifier::ZoneAwareLbConfig(TypedZoneAware {
            // As in `common_lb_config`: without a local cluster they mean nothing.
            routing_enabled: _,
            min_cluster_size: _,
            fail_traffic_on_panic,
            force_locality_direct_routing: _,
            force_local_zone: _,
            locality_basis: _,
        })) => balancing.fail_traffic_on_panic = fail_traffic_on_panic,
        None => {
            return Err(
                at.error("one of zone_aware_lb_config, locality_weighted_lb_config is required")
            );
        }
    }
    Ok(())
}
