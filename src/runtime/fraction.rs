//! Defaults in the configuration that a runtime key may override.

use crate::{
    api::envoy::{
        config::core::v3::{RuntimeFeatureFlag, RuntimeFractionalPercent, RuntimeUInt32},
        r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
    config::{At, Reported},
};

use super::{Key, Runtime};

/// Parts of which a [`Fraction`]'s numerator counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denominator {
    /// 100
    #[default]
    Hundred,
    /// 10,000
    TenThousand,
    /// 1,000,000
    Million,
}

impl Denominator {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "HUNDRED" => Some(Self::Hundred),
            "TEN_THOUSAND" => Some(Self::TenThousand),
            "MILLION" => Some(Self::Million),
            _ => None,
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::Hundred => 100,
            Self::TenThousand => 10_000,
            Self::Million => 1_000_000,
        }
    }
}

/// `envoy.type.v3.FractionalPercent`, compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fraction {
    /// How many parts.
    pub numerator: u32,
    /// Of how many.
    pub denominator: Denominator,
}

impl Fraction {
    /// Always true.
    pub const ALL: Self = Self {
        numerator: 100,
        denominator: Denominator::Hundred,
    };

    /// Compiles the message.
    ///
    /// # Errors
    /// When the denominator is not one of the API's.
    pub fn compile(message: FractionalPercent, at: &At<'_>) -> Result<Self, Reported> {
        let FractionalPercent {
            numerator,
            denominator,
        } = message;
        let denominator = match DenominatorType::try_from(denominator) {
            Ok(DenominatorType::Hundred) => Denominator::Hundred,
            Ok(DenominatorType::TenThousand) => Denominator::TenThousand,
            Ok(DenominatorType::Million) => Denominator::Million,
            Err(_) => {
                let message = format!(
                    "{denominator} is none of HUNDRED (0), TEN_THOUSAND (1) and MILLION (2)"
                );
                return Err(at.field("denominator").error(message));
            }
        };
        Ok(Self {
            numerator,
            denominator,
        })
    }

    /// Whether a request that drew this number is within the fraction.
    pub fn includes(self, random: u64) -> bool {
        random % self.denominator.number() < u64::from(self.numerator)
    }
}

/// `envoy.config.core.v3.RuntimeFractionalPercent`, compiled.
#[derive(Clone, Debug)]
pub struct RuntimeFraction {
    default: Fraction,
    key: Option<Key>,
}

impl RuntimeFraction {
    /// A fraction that no key overrides.
    pub fn fixed(fraction: Fraction) -> Self {
        Self {
            default: fraction,
            key: None,
        }
    }

    /// Compiles the message.
    ///
    /// # Errors
    /// When the default is missing or its denominator unknown.
    pub fn compile(
        message: RuntimeFractionalPercent,
        runtime: &Runtime,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let RuntimeFractionalPercent {
            default_value,
            runtime_key,
        } = message;
        let Some(default) = default_value else {
            return Err(at.field("default_value").error("is required"));
        };
        Ok(Self {
            default: Fraction::compile(default, &at.field("default_value"))?,
            key: runtime.key(&runtime_key),
        })
    }

    /// The fraction in force: a whole number under the key counts as percent.
    pub fn fraction(&self) -> Fraction {
        let Some(key) = &self.key else {
            return self.default;
        };
        key.read(|value| match (value.fraction, value.integer) {
            (Some(fraction), _) => Some(fraction),
            (None, Some(percent)) => Some(Fraction {
                numerator: percent.min(100) as u32,
                denominator: Denominator::Hundred,
            }),
            (None, None) => None,
        })
        .unwrap_or(self.default)
    }

    /// Whether a request that drew this number is within the fraction.
    pub fn enabled(&self, random: u64) -> bool {
        self.fraction().includes(random)
    }
}

/// `envoy.config.core.v3.RuntimeUInt32`, compiled.
#[derive(Clone, Debug)]
pub struct RuntimeNumber {
    default: u32,
    key: Option<Key>,
}

impl RuntimeNumber {
    /// Compiles the message.
    pub fn compile(message: RuntimeUInt32, runtime: &Runtime) -> Self {
        let RuntimeUInt32 {
            default_value,
            runtime_key,
        } = message;
        Self {
            default: default_value,
            key: runtime.key(&runtime_key),
        }
    }

    /// The number in force.
    pub fn get(&self) -> u32 {
        self.key
            .as_ref()
            .and_then(|key| key.read(|value| u32::try_from(value.integer?).ok()))
            .unwrap_or(self.default)
    }
}

/// `envoy.config.core.v3.RuntimeFeatureFlag`, compiled.
#[derive(Clone, Debug)]
pub struct RuntimeFlag {
    default: bool,
    key: Option<Key>,
}

impl RuntimeFlag {
    /// Compiles the message.
    ///
    /// # Errors
    /// When the default is missing.
    pub fn compile(
        message: RuntimeFeatureFlag,
        runtime: &Runtime,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let RuntimeFeatureFlag {
            default_value,
            runtime_key,
        } = message;
        let Some(default) = default_value else {
            return Err(at.field("default_value").error("is required"));
        };
        Ok(Self {
            default,
            key: runtime.key(&runtime_key),
        })
    }

    /// Whether the feature is on.
    pub fn get(&self) -> bool {
        self.key
            .as_ref()
            .and_then(|key| key.read(|value| value.boolean))
            .unwrap_or(self.default)
    }
}
