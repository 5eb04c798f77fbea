//! `RING_HASH` and `MAGLEV`, compiled. What the older fields say is taken as the typed
//! policy that says the same.

use crate::{
    api::envoy::{
        config::cluster::v3::cluster::{
            MaglevLbConfig, RingHashLbConfig,
            common_lb_config::ConsistentHashingLbConfig as Common,
            ring_hash_lb_config::HashFunction as OldHashFunction,
        },
        extensions::load_balancing_policies::{
            common::v3::ConsistentHashingLbConfig,
            maglev::v3::Maglev,
            ring_hash::v3::{RingHash, ring_hash::HashFunction as TypedHashFunction},
        },
    },
    config::{At, Reported},
    model::route::HashPolicy,
    upstream::balance::{HashFunction, Hashing, RingSettings, TableKind},
};

/// Places on a ring, at least, unless set.
const MIN_RING_SIZE: u64 = 1024;
/// Places on a ring, at most, unless set.
const MAX_RING_SIZE: u64 = 8 * 1024 * 1024;
/// Places in a table, unless set.
const MAGLEV_TABLE_SIZE: u64 = 65537;

/// `ring_hash_lb_config`, as a typed policy.
pub(super) fn ring(message: RingHashLbConfig, common: Option<Common>) -> RingHash {
    let RingHashLbConfig {
        minimum_ring_size,
        hash_function,
        maximum_ring_size,
    } = message;
    let function = match hash_function == i32::from(OldHashFunction::MurmurHash2) {
        true => TypedHashFunction::MurmurHash2,
        false => TypedHashFunction::XxHash,
    };
    RingHash {
        hash_function: function.into(),
        minimum_ring_size,
        maximum_ring_size,
        consistent_hashing_lb_config: common.map(consistent),
        ..RingHash::default()
    }
}

/// `maglev_lb_config`, as a typed policy.
pub(super) fn maglev(message: MaglevLbConfig, common: Option<Common>) -> Maglev {
    let MaglevLbConfig { table_size } = message;
    Maglev {
        table_size,
        consistent_hashing_lb_config: common.map(consistent),
        ..Maglev::default()
    }
}

fn consistent(message: Common) -> ConsistentHashingLbConfig {
    let Common {
        use_hostname_for_hashing,
        hash_balance_factor,
    } = message;
    ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
        hash_policy: Vec::new(),
    }
}

/// The policy, and whether localities have weights.
pub(super) fn compile_ring(message: RingHash, at: &At<'_>) -> Result<(Hashing, bool), Reported> {
    let RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = message;
    let murmur = hash_function == i32::from(TypedHashFunction::MurmurHash2);
    let settings = RingSettings {
        min_size: minimum_ring_size.unwrap_or(MIN_RING_SIZE),
        max_size: maximum_ring_size.unwrap_or(MAX_RING_SIZE),
        function: match murmur {
            true => HashFunction::MurmurHash2,
            false => HashFunction::XxHash,
        },
    };
    if settings.min_size > settings.max_size {
        let place = at.field("minimum_ring_size");
        return Err(place.error(format_args!(
            "{} is more than maximum_ring_size, {}",
            settings.min_size, settings.max_size
        )));
    }
    // Deprecated, and of no account beside what took their place.
    let config = consistent_hashing_lb_config.unwrap_or(ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
        hash_policy: Vec::new(),
    });
    let hashing = compile_consistent(config, TableKind::Ring(settings), at)?;
    Ok((hashing, locality_weighted_lb_config.is_some()))
}

/// The policy, and whether localities have weights.
pub(super) fn compile_maglev(message: Maglev, at: &At<'_>) -> Result<(Hashing, bool), Reported> {
    let Maglev {
        table_size,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = message;
    let size = table_size.unwrap_or(MAGLEV_TABLE_SIZE);
    if !is_prime(size) {
        let place = at.field("table_size");
        return Err(place.error(format_args!("{size} is not a prime number")));
    }
    let config = consistent_hashing_lb_config.unwrap_or_default();
    let hashing = compile_consistent(config, TableKind::Maglev { size }, at)?;
    Ok((hashing, locality_weighted_lb_config.is_some()))
}

fn compile_consistent(
    message: ConsistentHashingLbConfig,
    table: TableKind,
    at: &At<'_>,
) -> Result<Hashing, Reported> {
    let ConsistentHashingLbConfig {
        use_hostname_for_hashing,
        hash_balance_factor,
        hash_policy,
    } = message;
    let at = at.field("consistent_hashing_lb_config");
    let own = !hash_policy.is_empty();
    let policies = HashPolicy::compile_all(hash_policy, &at.field("hash_policy"))?;
    Ok(Hashing {
        table,
        use_hostname: use_hostname_for_hashing,
        balance_factor: hash_balance_factor,
        policies: own.then_some(policies),
    })
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && !divisors.any(|divisor| number.is_multiple_of(divisor))
}
