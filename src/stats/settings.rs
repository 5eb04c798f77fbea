//! `bootstrap.stats_config`, compiled: how stats are shown.

use crate::{
    api::envoy::{
        config::metrics::v3::{HistogramBucketSettings, StatsConfig, StatsMatcher, stats_matcher},
        r#type::matcher::v3::ListStringMatcher,
    },
    config::{At, Reported},
    model::matcher::StringMatcher,
    refuse,
};

use super::{histogram::DEFAULT_BUCKETS, tags::TagRules};

/// How stats are shown.
#[derive(Debug, Default)]
pub struct Settings {
    /// How tags are found in names.
    pub tags: TagRules,
    /// Histograms are brought up to date when the admin shows them, not by the clock.
    pub flush_on_admin: bool,
    matcher: Matcher,
    buckets: Vec<(StringMatcher, Vec<f64>)>,
}

/// Which stats there are, for those who look.
#[derive(Debug, Default)]
enum Matcher {
    #[default]
    All,
    None,
    Not(Vec<StringMatcher>),
    Only(Vec<StringMatcher>),
}

impl Settings {
    /// Compiles the message; `command_line` is that of `--stats-tag`.
    ///
    /// # Errors
    /// Reports every rule that cannot be followed.
    pub fn compile(
        message: StatsConfig,
        command_line: &[(String, String)],
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let StatsConfig {
            stats_tags,
            use_all_default_tags,
            stats_matcher,
            histogram_bucket_settings,
            allow_default_tag_overrides,
        } = message;
        let refused = refuse!(at; allow_default_tag_overrides);
        let tags = TagRules::compile(
            stats_tags,
            use_all_default_tags.unwrap_or(true),
            command_line,
            &at.field("stats_tags"),
        );
        let matcher = match stats_matcher {
            None => Ok(Matcher::All),
            Some(matcher) => Matcher::compile(matcher, &at.field("stats_matcher")),
        };
        let list = at.field("histogram_bucket_settings");
        let buckets: Vec<_> = histogram_bucket_settings
            .into_iter()
            .enumerate()
            .map(|(index, message)| compile_buckets(message, &list.index(index)))
            .collect();
        refused?;
        Ok(Self {
            tags: tags?,
            flush_on_admin: false,
            matcher: matcher?,
            buckets: buckets.into_iter().collect::<Result<_, _>>()?,
        })
    }

    /// Whether `stats_matcher` lets this stat be.
    pub fn shows(&self, name: &str) -> bool {
        let any = |matchers: &[StringMatcher]| {
            matchers
                .iter()
                .any(|matcher| matcher.is_match(name.as_bytes()))
        };
        match &self.matcher {
            Matcher::All => true,
            Matcher::None => false,
            Matcher::Not(matchers) => !any(matchers),
            Matcher::Only(matchers) => any(matchers),
        }
    }

    /// Whether there is a `stats_matcher`.
    pub fn hides_some(&self) -> bool {
        !matches!(self.matcher, Matcher::All)
    }

    /// The upper bounds of a histogram's buckets.
    pub fn bounds(&self, name: &str) -> &[f64] {
        self.buckets
            .iter()
            .find(|(matcher, _)| matcher.is_match(name.as_bytes()))
            .map_or(&DEFAULT_BUCKETS, |(_, bounds)| bounds)
    }
}

impl Matcher {
    fn compile(message: StatsMatcher, at: &At<'_>) -> Result<Self, Reported> {
        use stats_matcher::StatsMatcher as Kind;
        let list = |list: ListStringMatcher, field| {
            let ListStringMatcher { patterns } = list;
            let at = at.field(field);
            let at = at.field("patterns");
            let compiled: Vec<_> = patterns
                .into_iter()
                .enumerate()
                .map(|(index, pattern)| StringMatcher::compile(pattern, &at.index(index)))
                .collect();
            compiled.into_iter().collect::<Result<Vec<_>, _>>()
        };
        match message.stats_matcher {
            None => {
                Err(at.error("one of reject_all, exclusion_list and inclusion_list is required"))
            }
            Some(Kind::RejectAll(true)) => Ok(Self::None),
            Some(Kind::RejectAll(false)) => Ok(Self::All),
            Some(Kind::ExclusionList(patterns)) => Ok(Self::Not(list(patterns, "exclusion_list")?)),
            Some(Kind::InclusionList(patterns)) => {
                Ok(Self::Only(list(patterns, "inclusion_list")?))
            }
        }
    }
}

fn compile_buckets(
    message: HistogramBucketSettings,
    at: &At<'_>,
) -> Result<(StringMatcher, Vec<f64>), Reported> {
    let HistogramBucketSettings {
        r#match,
        mut buckets,
        bins,
    } = message;
    refuse!(at; bins)?;
    let Some(matcher) = r#match else {
        return Err(at.field("match").error("is required"));
    };
    buckets.sort_by(f64::total_cmp);
    Ok((
        StringMatcher::compile(matcher, &at.field("match"))?,
        buckets,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::envoy::r#type::matcher::v3::{
            StringMatcher as PbMatcher, string_matcher::MatchPattern,
        },
        config::Report,
    };

    fn prefix(text: &str) -> PbMatcher {
        PbMatcher {
            match_pattern: Some(MatchPattern::Prefix(text.to_owned())),
            ..Default::default()
        }
    }

    #[test]
    fn matchers_and_buckets_go_by_the_whole_name() {
        let message = StatsConfig {
            stats_matcher: Some(StatsMatcher {
                stats_matcher: Some(stats_matcher::StatsMatcher::ExclusionList(
                    ListStringMatcher {
                        patterns: vec![prefix("cluster.")],
                    },
                )),
            }),
            histogram_bucket_settings: vec![HistogramBucketSettings {
                r#match: Some(prefix("http.")),
                buckets: vec![10.0, 1.0],
                bins: None,
            }],
            ..Default::default()
        };
        let report = Report::new();
        let settings = Settings::compile(message, &[], &report.root()).unwrap();
        assert!(settings.shows("http.in.x") && !settings.shows("cluster.c.x"));
        assert_eq!(settings.bounds("http.in.t"), [1.0, 10.0]);
        assert_eq!(settings.bounds("listener.l.t"), DEFAULT_BUCKETS);
    }
}
