//! `ListenerFilterChainMatchPredicate`: when a listener filter is passed over.

use crate::{
    api::envoy::{
        config::listener::v3::{
            ListenerFilterChainMatchPredicate as Message,
            listener_filter_chain_match_predicate::{MatchSet, Rule},
        },
        r#type::v3::Int32Range,
    },
    config::{At, Reported},
    net::ConnectionInfo,
};

/// A condition on a connection that has just been accepted.
#[derive(Debug)]
pub enum Predicate {
    /// Any of them.
    Or(Box<[Predicate]>),
    /// All of them.
    And(Box<[Predicate]>),
    /// The opposite.
    Not(Box<Predicate>),
    /// Always.
    Any,
    /// The port the client connected to: from the first, to before the second.
    DestinationPort(i32, i32),
}

impl Predicate {
    /// Compiles a predicate.
    ///
    /// # Errors
    /// When one of its parts says nothing.
    pub fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        Ok(match message.rule {
            Some(Rule::OrMatch(set)) => Self::Or(all(set, &at.field("or_match"))?),
            Some(Rule::AndMatch(set)) => Self::And(all(set, &at.field("and_match"))?),
            Some(Rule::NotMatch(rule)) => {
                Self::Not(Box::new(Self::compile(*rule, &at.field("not_match"))?))
            }
            // The rules of the API allow true alone.
            Some(Rule::AnyMatch(_)) => Self::Any,
            Some(Rule::DestinationPortRange(Int32Range { start, end })) => {
                Self::DestinationPort(start, end)
            }
            None => {
                return Err(at.error(
                    "one of or_match, and_match, not_match, any_match and \
                     destination_port_range is required",
                ));
            }
        })
    }

    /// Whether the connection meets it. One without a port meets every range, as in Envoy.
    pub fn is_met(&self, info: &ConnectionInfo) -> bool {
        match self {
            Self::Or(rules) => rules.iter().any(|rule| rule.is_met(info)),
            Self::And(rules) => rules.iter().all(|rule| rule.is_met(info)),
            Self::Not(rule) => !rule.is_met(info),
            Self::Any => true,
            Self::DestinationPort(from, to) => info
                .local
                .ip()
                .is_none_or(|ip| (*from..*to).contains(&ip.port().into())),
        }
    }
}

fn all(set: MatchSet, at: &At<'_>) -> Result<Box<[Predicate]>, Reported> {
    let MatchSet { rules } = set;
    let at = at.field("rules");
    let rules = rules.into_iter().enumerate();
    rules
        .map(|(index, rule)| Predicate::compile(rule, &at.index(index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Report, model::testing::read};

    #[test]
    fn ports_are_weighed_as_the_rule_says() {
        let message = read(
            "and_match: { rules: [
               { destination_port_range: { start: 80, end: 90 } },
               { not_match: { or_match: { rules: [
                 { destination_port_range: { start: 85, end: 86 } },
                 { not_match: { any_match: true } } ] } } } ] }",
        );
        let report = Report::new();
        let predicate = Predicate::compile(message, &report.root()).unwrap();
        let met = |port: u16| {
            let local = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            let info = ConnectionInfo::new(1, local.into(), local.into());
            predicate.is_met(&info)
        };
        assert_eq!(
            [79, 80, 85, 86, 89, 90].map(met),
            [false, true, false, true, true, false]
        );
    }
}
