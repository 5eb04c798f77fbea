//! Small conversions that every `compile` function needs.

use std::time::Duration;

use prost::{Message, Name};
use prost_types::Any;

use super::place::{At, Reported};
use crate::api::envoy::r#type::v3::{FractionalPercent, Percent, fractional_percent};

/// The message in an `Any` that has to be of a given type.
///
/// # Errors
/// When it is of another type, or its bytes are not that message.
pub fn unpack<M: Message + Name + Default>(any: &Any, at: &At<'_>) -> Result<M, Reported> {
    let expected = M::full_name();
    match type_name(any) {
        name if name == expected => {}
        "" => return Err(at.error(format_args!("is empty, expected {expected}"))),
        name => return Err(at.error(format_args!("expected {expected}, found {name}"))),
    }
    M::decode(any.value.as_slice())
        .map_err(|error| at.error(format_args!("is not a valid {expected}: {error}")))
}

/// The full name of the message in an `Any`.
pub fn type_name(any: &Any) -> &str {
    type_of_url(&any.type_url)
}

/// The full name of the message that a type URL names.
pub fn type_of_url(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

/// A duration that must not be negative.
///
/// # Errors
/// When it is negative.
pub fn duration(duration: &prost_types::Duration, at: &At<'_>) -> Result<Duration, Reported> {
    Duration::try_from(*duration).map_err(|_| at.error("must not be negative"))
}

/// A duration that may be absent and must not be negative.
///
/// # Errors
/// When it is negative.
pub fn optional_duration(
    value: Option<&prost_types::Duration>,
    at: &At<'_>,
) -> Result<Option<Duration>, Reported> {
    value.map(|value| duration(value, at)).transpose()
}

/// A share of events, exact: `numerator` of every `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many: 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// Whether a uniformly random number falls into this share.
    pub fn contains(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// A fractional percentage.
///
/// # Errors
/// When its denominator is not defined.
pub fn fraction(percent: &FractionalPercent, at: &At<'_>) -> Result<Fraction, Reported> {
    use fractional_percent::DenominatorType;
    let FractionalPercent {
        numerator,
        denominator,
    } = *percent;
    let denominator = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => {
            let at = at.field("denominator");
            return Err(at.error(format_args!("must be a defined value, is {denominator}")));
        }
    };
    Ok(Fraction {
        numerator,
        denominator,
    })
}

/// A percentage as a share from 0 to 1.
pub fn share(percent: &Percent) -> f64 {
    percent.value / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::envoy::extensions::filters::{
            http::router::v3::Router, network::tcp_proxy::v3::TcpProxy,
        },
        config::Report,
    };

    #[test]
    fn unpack_names_what_was_expected() {
        let report = Report::new();
        let at = report.root();
        let any = Any {
            type_url: Router::type_url(),
            value: Vec::new(),
        };
        assert!(unpack::<Router>(&any, &at).is_ok());
        assert!(unpack::<TcpProxy>(&any, &at.field("typed_config")).is_err());
        assert_eq!(
            report.to_string(),
            "typed_config: expected envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
             found envoy.extensions.filters.http.router.v3.Router"
        );
    }
}
