//! What was asked of `/stats`.

use regex::Regex;

use crate::{
    admin::request::{self, Request},
    stats::listing::{Kind, Stat},
};

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line each.
    Text,
    /// One object.
    Json,
    /// A page, which may renew itself.
    Html {
        /// Whether it does.
        active: bool,
    },
    /// Prometheus's exposition format.
    Prometheus,
}

/// What is shown of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// Quantiles.
    Summary,
    /// Counts up to each bound.
    Cumulative,
    /// Counts between bounds.
    Disjoint,
    /// The bins themselves, and quantiles.
    Detailed,
}

/// A request to `/stats`, read.
#[derive(Clone, Debug)]
pub struct Query {
    /// Only what was written since the start.
    pub used_only: bool,
    /// Names to show, or to leave out when `inverted`.
    pub filter: Option<Regex>,
    /// `invert_filter`.
    pub inverted: bool,
    /// How the answer is written.
    pub format: Format,
    /// The one kind to show; all when `None`.
    pub kind: Option<Kind>,
    /// What is shown of a histogram; `None` when it was not said.
    pub buckets: Option<Buckets>,
    /// Whether Prometheus gets text readouts.
    pub text_readouts: bool,
    /// `hidden=only`: only stats that are hidden, of which there are none.
    pub hidden_only: bool,
}

/// A request that makes no sense. The texts are Envoy's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The filter is no regular expression.
    #[error("Invalid re2 regex: {0}")]
    Filter(String),
    /// Unknown format.
    #[error("usage: /stats?format=(html|active-html|json|prometheus|text)\n\n")]
    Format,
    /// Unknown type.
    #[error("invalid &type= param")]
    Type,
    /// Unknown histogram mode.
    #[error(
        "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n"
    )]
    Buckets,
    /// A histogram mode that Prometheus has no form for.
    #[error("unsupported prometheus histogram bucket mode")]
    PrometheusBuckets,
    /// A histogram mode that only Prometheus has a form for.
    #[error("Invalid histogram_buckets type for non prometheus stats type")]
    OnlyPrometheus,
    /// A histogram mode that Prometheus has no text form for.
    #[error(
        "unsupported prometheusnative histogram type when not using protobuf exposition format"
    )]
    OnlyProtobuf,
    /// Unknown choice of hidden stats.
    #[error("usage: /stats?hidden=(include|only|exclude)\n\n")]
    Hidden,
}

impl Query {
    /// Reads the parameters of `/stats`.
    ///
    /// # Errors
    /// When one is none of its values.
    pub fn parse(request: &Request) -> Result<Self, QueryError> {
        Self::read(request, QueryError::OnlyPrometheus)
    }

    /// `native` is the answer to who asks for Prometheus's own bins of histograms.
    fn read(request: &Request, native: QueryError) -> Result<Self, QueryError> {
        let format = match request.param("format") {
            None | Some("" | "text") => Format::Text,
            Some("json") => Format::Json,
            Some("html") => Format::Html { active: false },
            Some("active-html") => Format::Html { active: true },
            Some("prometheus") => Format::Prometheus,
            Some(_) => return Err(QueryError::Format),
        };
        let kind = match request.param("type") {
            None | Some("" | "All") => None,
            Some("Counters") => Some(Kind::Counter),
            Some("Gauges") => Some(Kind::Gauge),
            Some("TextReadouts") => Some(Kind::Text),
            Some("Histograms") => Some(Kind::Histogram),
            Some(_) => return Err(QueryError::Type),
        };
        let buckets = match request.param("histogram_buckets") {
            None | Some("") => None,
            Some("cumulative") => Some(Buckets::Cumulative),
            Some("disjoint") => Some(Buckets::Disjoint),
            Some("detailed") => Some(Buckets::Detailed),
            Some("summary" | "none") => Some(Buckets::Summary),
            Some("prometheusnative") if format == Format::Prometheus => {
                return Err(QueryError::OnlyProtobuf);
            }
            Some("prometheusnative") => return Err(native),
            Some(_) => return Err(QueryError::Buckets),
        };
        let filter = match request.param("filter") {
            None | Some("") => None,
            Some(filter) => Some(request::regex(filter).map_err(QueryError::Filter)?),
        };
        let hidden_only = match request.param("hidden") {
            None | Some("" | "include" | "exclude") => false,
            Some("only") => true,
            Some(_) => return Err(QueryError::Hidden),
        };
        Ok(Self {
            used_only: request.has("usedonly"),
            filter,
            inverted: request.has("invert_filter"),
            format,
            kind,
            buckets,
            text_readouts: request.has("text_readouts"),
            hidden_only,
        })
    }

    /// Reads the parameters of `/stats/prometheus`.
    ///
    /// # Errors
    /// When one is none of its values.
    pub fn parse_prometheus(request: &Request) -> Result<Self, QueryError> {
        let query = Self::read(request, QueryError::OnlyProtobuf)?;
        match query.buckets {
            None | Some(Buckets::Cumulative | Buckets::Summary) => Ok(query),
            Some(Buckets::Disjoint | Buckets::Detailed) => Err(QueryError::PrometheusBuckets),
        }
    }

    /// Whether a stat was asked for, its kind aside.
    pub fn wants(&self, stat: &Stat) -> bool {
        self.wants_used(stat.used) && self.wants_name(&stat.name)
    }

    /// Whether stats that are (not) used were asked for.
    pub fn wants_used(&self, used: bool) -> bool {
        (used || !self.used_only) && !self.hidden_only
    }

    /// Whether a name was asked for.
    pub fn wants_name(&self, name: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(name) != self.inverted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, String> {
        Query::parse(&Request::new(&format!("/stats?{query}"), None)).map_err(|e| e.to_string())
    }

    #[test]
    fn wrong_values_are_answered_as_envoy_does() {
        assert_eq!(parse("type=foo").unwrap_err(), "invalid &type= param");
        assert!(
            parse("format=foo")
                .unwrap_err()
                .starts_with("usage: /stats?format=")
        );
        assert!(
            parse("filter=(")
                .unwrap_err()
                .starts_with("Invalid re2 regex: ")
        );
        assert!(parse("histogram_buckets=x").is_err());
        assert!(parse("histogram_buckets=prometheusnative").is_err());
        assert!(parse("hidden=x").is_err());
    }

    #[test]
    fn no_stat_is_hidden() {
        assert!(!parse("hidden=only").unwrap().wants_used(true));
        assert!(parse("hidden=exclude").unwrap().wants_used(true));
    }

    #[test]
    fn a_filter_finds_anywhere_and_can_be_inverted() {
        let query = parse("filter=rq.total").unwrap();
        assert!(query.wants_name("http.in.rq_total") && !query.wants_name("http.in.cx_total"));
        let query = parse("filter=rq_total&invert_filter").unwrap();
        assert!(!query.wants_name("http.in.rq_total") && query.wants_name("http.in.cx_total"));
    }
}
