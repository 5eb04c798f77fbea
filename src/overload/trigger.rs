//! From how much of a resource is used to how much is done about it.

use crate::{
    api::envoy::config::overload::v3::{self as pb, trigger::TriggerOneof},
    config::{At, Reported},
};

/// One trigger of an action or load shed point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trigger {
    /// All, from this pressure on.
    Threshold(f64),
    /// More and more between two pressures.
    Scaled {
        /// Nothing at or below it.
        from: f64,
        /// All from here on.
        to: f64,
    },
}

impl Trigger {
    /// Compiles what a trigger says of its resource.
    ///
    /// # Errors
    /// When it says nothing, or contradicts itself.
    pub fn compile(message: Option<TriggerOneof>, at: &At<'_>) -> Result<Self, Reported> {
        match message {
            Some(TriggerOneof::Threshold(pb::ThresholdTrigger { value })) => {
                Ok(Self::Threshold(value))
            }
            Some(TriggerOneof::Scaled(scaled)) => {
                let pb::ScaledTrigger {
                    scaling_threshold: from,
                    saturation_threshold: to,
                } = scaled;
                match from < to {
                    true => Ok(Self::Scaled { from, to }),
                    false => Err(at
                        .field("scaled")
                        .error("scaling_threshold must be less than saturation_threshold")),
                }
            }
            None => Err(at.error("one of threshold, scaled is required")),
        }
    }

    /// The share that is in force at a pressure.
    pub fn share(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(value) => f64::from(pressure >= value),
            Self::Scaled { from, to } => ((pressure - from) / (to - from)).clamp(0.0, 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_with_the_pressure() {
        let threshold = Trigger::Threshold(0.9);
        assert_eq!(
            [0.89, 0.9, 1.0].map(|p| threshold.share(p)),
            [0.0, 1.0, 1.0]
        );
        let scaled = Trigger::Scaled {
            from: 0.5,
            to: 0.75,
        };
        let shares = [0.2, 0.5, 0.5625, 0.75, 0.9].map(|p| scaled.share(p));
        assert_eq!(shares, [0.0, 0.0, 0.25, 1.0, 1.0]);
    }
}
