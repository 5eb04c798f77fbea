//! `lb_subset_config` and `envoy.load_balancing_policies.subset`, compiled.

use crate::{
    api::envoy::{
        config::cluster::v3::{
            LoadBalancingPolicy,
            cluster::{LbSubsetConfig, lb_subset_config::LbSubsetSelector},
        },
        extensions::load_balancing_policies::subset::v3::{
            Subset,
            subset::{
                LbSubsetFallbackPolicy, LbSubsetMetadataFallbackPolicy,
                LbSubsetSelector as TypedSelector,
                lb_subset_selector::LbSubsetSelectorFallbackPolicy,
            },
        },
    },
    config::{At, Reported},
    upstream::balance::{FallbackPolicy, SelectorFallback, SubsetSelector, SubsetSettings},
};

/// What a cluster says about its subsets, in whichever form.
pub(super) struct Compiled {
    pub(super) settings: SubsetSettings,
    pub(super) locality_weight_aware: bool,
    /// How a host is chosen in a subset; the cluster's own policy where this is not said.
    pub(super) policy: Option<LoadBalancingPolicy>,
}

/// The extension that says the same. Its enums have the same values.
pub(super) fn typed(message: LbSubsetConfig) -> Subset {
    let LbSubsetConfig {
        fallback_policy,
        default_subset,
        subset_selectors,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
    } = message;
    let selectors = subset_selectors.into_iter().map(|selector| {
        let LbSubsetSelector {
            keys,
            fallback_policy,
            fallback_keys_subset,
            single_host_per_subset,
        } = selector;
        TypedSelector {
            keys,
            fallback_policy,
            fallback_keys_subset,
            single_host_per_subset,
        }
    });
    Subset {
        fallback_policy,
        default_subset,
        subset_selectors: selectors.collect(),
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
        subset_lb_policy: None,
        allow_redundant_keys: false,
    }
}

pub(super) fn compile(message: Subset, at: &At<'_>) -> Result<Compiled, Reported> {
    let Subset {
        fallback_policy,
        default_subset,
        subset_selectors,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
        subset_lb_policy,
        allow_redundant_keys,
    } = message;
    let fallback = match LbSubsetFallbackPolicy::try_from(fallback_policy) {
        Ok(LbSubsetFallbackPolicy::AnyEndpoint) => FallbackPolicy::AnyEndpoint,
        Ok(LbSubsetFallbackPolicy::DefaultSubset) => FallbackPolicy::DefaultSubset,
        Ok(LbSubsetFallbackPolicy::NoFallback) | Err(_) => FallbackPolicy::NoFallback,
    };
    let mut selectors: Vec<SubsetSelector> = Vec::with_capacity(subset_selectors.len());
    let mut outcome = Ok(());
    let selectors_at = at.field("subset_selectors");
    for (index, selector) in subset_selectors.into_iter().enumerate() {
        match compile_selector(selector, &selectors_at.index(index)) {
            // The first with these keys counts, and one without any has no subsets.
            Ok(selector)
                if selector.keys.is_empty()
                    || selectors.iter().any(|before| before.keys == selector.keys) => {}
            Ok(selector) => selectors.push(selector),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome?;
    if allow_redundant_keys {
        // The one with the most keys that are asked for.
        selectors.sort_by_key(|selector| std::cmp::Reverse(selector.keys.len()));
    }
    let fallback_list = LbSubsetMetadataFallbackPolicy::FallbackList;
    Ok(Compiled {
        settings: SubsetSettings {
            fallback,
            default_subset: default_subset.unwrap_or_default(),
            selectors: selectors.into(),
            scale_locality_weight,
            panic_mode_any,
            list_as_any,
            fallback_list: metadata_fallback_policy == i32::from(fallback_list),
            allow_redundant_keys,
        },
        locality_weight_aware,
        policy: subset_lb_policy,
    })
}

fn compile_selector(message: TypedSelector, at: &At<'_>) -> Result<SubsetSelector, Reported> {
    let TypedSelector {
        keys,
        fallback_policy,
        fallback_keys_subset,
        single_host_per_subset,
    } = message;
    use LbSubsetSelectorFallbackPolicy as Policy;
    let keys = in_order(keys);
    let fewer = in_order(fallback_keys_subset);
    let policy = Policy::try_from(fallback_policy).unwrap_or(Policy::NotDefined);
    let fewer_at = at.field("fallback_keys_subset");
    if policy != Policy::KeysSubset && !fewer.is_empty() {
        return Err(fewer_at.error("can be set only with fallback_policy KEYS_SUBSET"));
    }
    let fallback = match policy {
        Policy::NotDefined => SelectorFallback::NotDefined,
        Policy::NoFallback => SelectorFallback::Policy(FallbackPolicy::NoFallback),
        Policy::AnyEndpoint => SelectorFallback::Policy(FallbackPolicy::AnyEndpoint),
        Policy::DefaultSubset => SelectorFallback::Policy(FallbackPolicy::DefaultSubset),
        Policy::KeysSubset if fewer.is_empty() => {
            return Err(fewer_at.error("is required with fallback_policy KEYS_SUBSET"));
        }
        Policy::KeysSubset if !fewer.iter().all(|key| keys.contains(key)) => {
            return Err(fewer_at.error("must be among keys"));
        }
        Policy::KeysSubset if fewer.len() == keys.len() => {
            return Err(fewer_at.error("must be fewer than keys"));
        }
        Policy::KeysSubset => SelectorFallback::KeysSubset(fewer),
    };
    Ok(SubsetSelector {
        keys,
        fallback,
        single_host: single_host_per_subset,
    })
}

/// In order, each but once.
fn in_order(mut keys: Vec<String>) -> Box<[Box<str>]> {
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().map(Into::into).collect()
}
