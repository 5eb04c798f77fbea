//! `retry_host_predicate`, compiled: hosts that a retry stays away from.

use prost_types::Struct;

use crate::{
    api::envoy::{
        config::{
            core::v3::Metadata,
            route::v3::retry_policy::{
                RetryHostPredicate, retry_host_predicate::ConfigType as Config,
            },
        },
        extensions::retry::host::{
            omit_canary_hosts::v3::OmitCanaryHostsPredicate,
            omit_host_metadata::v3::OmitHostMetadataConfig,
            previous_hosts::v3::PreviousHostsPredicate,
        },
    },
    config::{At, Reported, type_name, unpack},
    upstream::{Endpoint, host::LB_METADATA},
};

const PREVIOUS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
const CANARIES: &str = "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate";
const METADATA: &str = "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig";

/// Hosts that a retry stays away from.
#[derive(Clone, Debug, Default)]
pub struct AvoidedHosts {
    previous: bool,
    canaries: bool,
    labelled: Vec<Struct>,
}

impl AvoidedHosts {
    pub(super) fn compile(
        predicates: Vec<RetryHostPredicate>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut avoided = Self::default();
        let mut outcome = Ok(());
        for (index, predicate) in predicates.into_iter().enumerate() {
            if let Err(reported) = avoided.add(predicate, &at.index(index)) {
                outcome = Err(reported);
            }
        }
        outcome.map(|()| avoided)
    }

    fn add(&mut self, predicate: RetryHostPredicate, at: &At<'_>) -> Result<(), Reported> {
        let RetryHostPredicate { name, config_type } = predicate;
        let at = at.field("typed_config");
        let Some(Config::TypedConfig(any)) = config_type else {
            return Err(at.error(format_args!("{name}: is required")));
        };
        match type_name(&any) {
            PREVIOUS => {
                let PreviousHostsPredicate {} = unpack(&any, &at)?;
                self.previous = true;
            }
            CANARIES => {
                let OmitCanaryHostsPredicate {} = unpack(&any, &at)?;
                self.canaries = true;
            }
            METADATA => {
                let OmitHostMetadataConfig { metadata_match } = unpack(&any, &at)?;
                let Metadata {
                    mut filter_metadata,
                    // Hosts are compared by what is not typed, as in Envoy.
                    typed_filter_metadata: _,
                } = metadata_match.unwrap_or_default();
                self.labelled.extend(filter_metadata.remove(LB_METADATA));
            }
            other => return Err(at.error(format_args!("{other} is not supported yet"))),
        }
        Ok(())
    }

    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        !self.previous && !self.canaries && self.labelled.is_empty()
    }

    /// Whether a retry is to stay away from a host, if it can.
    pub fn has(&self, endpoint: &Endpoint, was_tried: impl Fn() -> bool) -> bool {
        (self.previous && was_tried())
            || (self.canaries && endpoint.is_canary())
            || self
                .labelled
                .iter()
                .any(|labels| endpoint.has_labels(labels))
    }
}
