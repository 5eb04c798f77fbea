//! From `xds.type.matcher.v3.Matcher` to [`Matcher`].

use prost_types::Any;

use crate::{
    api::{
        envoy::{
            extensions::matching::{
                common_inputs::environment_variable::v3::Config as Variable,
                input_matchers::{
                    consistent_hashing::v3::ConsistentHashing, ip::v3::Ip,
                    runtime_fraction::v3::RuntimeFraction as FractionMessage,
                },
            },
            r#type::matcher::v3::{self as text, string_matcher::MatchPattern as Pattern},
        },
        xds::{
            core::v3::{CidrRange, TypedExtensionConfig},
            r#type::matcher::v3::{
                self as pb, IpMatcher, ServerNameMatcher,
                ip_matcher::IpRangeMatcher,
                matcher::{
                    MatcherList, MatcherTree, MatcherType, OnMatch as OnMatchMessage,
                    matcher_list::{
                        FieldMatcher, Predicate as PredicateMessage,
                        predicate::{MatchType, PredicateList, SinglePredicate, single_predicate},
                    },
                    matcher_tree::{MatchMap, TreeType},
                    on_match::OnMatch as OnMatchKind,
                },
                server_name_matcher::DomainMatcher,
                string_matcher::MatchPattern as XdsPattern,
            },
        },
    },
    config::{At, Reported, type_name, unpack},
    model::{
        Context,
        matcher::{IpTable, StringMatcher, ip},
    },
    runtime::RuntimeFraction,
};

use super::{
    Domains, ExactMap, Field, Input, Kind, Matcher, Next, OnMatch, PrefixMap, Ranges,
    predicate::{Condition, Predicate, ip_stats},
};

/// What a matcher's user gives it to ask for and to lead to.
pub trait Vocabulary {
    /// A value that can be asked for.
    type Input;
    /// What a matcher leads to.
    type Action;

    /// Compiles an input.
    ///
    /// # Errors
    /// When there is none of this type, or it is wrong.
    fn input(&self, any: &Any, at: &At<'_>) -> Result<Self::Input, Reported>;

    /// Compiles an action.
    ///
    /// # Errors
    /// As for an input.
    fn action(&self, any: &Any, at: &At<'_>) -> Result<Self::Action, Reported>;
}

impl<I, A> Matcher<I, A> {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: pb::Matcher,
        words: &impl Vocabulary<Input = I, Action = A>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        Compiler { words, cx }.matcher(message, at)
    }
}

struct Compiler<'a, V> {
    words: &'a V,
    cx: &'a Context<'a>,
}

/// What is done at the end of a line that a matcher of this vocabulary takes.
type Then<V> = OnMatch<<V as Vocabulary>::Input, <V as Vocabulary>::Action>;
type KindOf<V> = Kind<<V as Vocabulary>::Input, <V as Vocabulary>::Action>;

impl<V: Vocabulary> Compiler<'_, V> {
    fn matcher(
        &self,
        message: pb::Matcher,
        at: &At<'_>,
    ) -> Result<Matcher<V::Input, V::Action>, Reported> {
        let pb::Matcher {
            on_no_match,
            matcher_type,
        } = message;
        let kind = match matcher_type {
            None => Ok(Kind::Nothing),
            Some(MatcherType::MatcherList(list)) => self.list(list, &at.field("matcher_list")),
            Some(MatcherType::MatcherTree(tree)) => self.tree(tree, &at.field("matcher_tree")),
        };
        let on_no_match = on_no_match
            .map(|then| self.on_match(Some(*then), &at.field("on_no_match")))
            .transpose();
        Ok(Matcher {
            kind: kind?,
            on_no_match: on_no_match?,
        })
    }

    fn on_match(&self, message: Option<OnMatchMessage>, at: &At<'_>) -> Result<Then<V>, Reported> {
        let Some(OnMatchMessage {
            keep_matching,
            on_match: Some(kind),
        }) = message
        else {
            return Err(at.error("is required: one of matcher and action"));
        };
        let next = match kind {
            OnMatchKind::Matcher(matcher) => {
                Next::Matcher(Box::new(self.matcher(*matcher, &at.field("matcher"))?))
            }
            OnMatchKind::Action(extension) => {
                let (any, at) = (extension.typed_config, at.field("action"));
                let at = at.field("typed_config");
                Next::Action(self.words.action(&required(any, &at)?, &at)?)
            }
        };
        Ok(OnMatch {
            next,
            passed_over: keep_matching,
        })
    }

    fn list(&self, message: MatcherList, at: &At<'_>) -> Result<KindOf<V>, Reported> {
        let MatcherList { matchers } = message;
        let at = at.field("matchers");
        let compiled = all(matchers, |index, matcher| {
            let at = at.index(index);
            let FieldMatcher {
                predicate,
                on_match,
            } = matcher;
            let predicate = self.predicate(predicate, &at.field("predicate"));
            let on_match = self.on_match(on_match, &at.field("on_match"));
            Ok(Field {
                predicate: predicate?,
                on_match: on_match?,
            })
        });
        Ok(Kind::List(compiled?.into()))
    }

    fn tree(&self, message: MatcherTree, at: &At<'_>) -> Result<KindOf<V>, Reported> {
        let MatcherTree { input, tree_type } = message;
        let input = self.input(input, &at.field("input"));
        match tree_type {
            Some(TreeType::ExactMatchMap(map)) => {
                let map = self.map(map, &at.field("exact_match_map"));
                Ok(Kind::Exact(input?, ExactMap::new(map?)))
            }
            Some(TreeType::PrefixMatchMap(map)) => {
                let map = self.map(map, &at.field("prefix_match_map"));
                Ok(Kind::Prefix(input?, PrefixMap::new(map?)))
            }
            Some(TreeType::CustomMatch(extension)) => {
                let (any, at) = (extension.typed_config, at.field("custom_match"));
                let at = at.field("typed_config");
                let any = required(any, &at)?;
                match type_name(&any) {
                    "xds.type.matcher.v3.IPMatcher" => {
                        let ranges = self.ranges(unpack(&any, &at)?, &at);
                        Ok(Kind::Ranges(input?, ranges?))
                    }
                    "xds.type.matcher.v3.ServerNameMatcher" => {
                        let domains = self.domains(unpack(&any, &at)?, &at);
                        Ok(Kind::Domains(input?, domains?))
                    }
                    other => Err(at.error(format_args!(
                        "the matcher {other:?} is not supported; there are \
                         xds.type.matcher.v3.IPMatcher and xds.type.matcher.v3.ServerNameMatcher"
                    ))),
                }
            }
            None => {
                Err(at
                    .error("one of exact_match_map, prefix_match_map and custom_match is required"))
            }
        }
    }

    fn map(&self, message: MatchMap, at: &At<'_>) -> Result<Vec<(String, Then<V>)>, Reported> {
        let MatchMap { map } = message;
        let at = at.field("map");
        // In an order of its own, so that errors come in the same one each time.
        let map = std::collections::BTreeMap::from_iter(map);
        all(map, |_, (key, then)| {
            let then = self.on_match(Some(then), &at.key(&key))?;
            Ok((key, then))
        })
    }

    fn ranges(
        &self,
        message: IpMatcher,
        at: &At<'_>,
    ) -> Result<Ranges<V::Input, V::Action>, Reported> {
        let IpMatcher { range_matchers } = message;
        let at = at.field("range_matchers");
        let mut by_range = std::collections::BTreeMap::<_, Vec<usize>>::new();
        let matches = all(range_matchers, |index, message| {
            let at = at.index(index);
            let IpRangeMatcher {
                ranges,
                on_match,
                exclusive,
            } = message;
            let on_match = self.on_match(on_match, &at.field("on_match"));
            let at = at.field("ranges");
            let ranges = all(ranges, |n, range| {
                let CidrRange {
                    address_prefix,
                    prefix_len,
                } = range;
                ip::range(&address_prefix, prefix_len, &at.index(n))
            });
            for range in ranges? {
                by_range.entry(range).or_default().push(index);
            }
            Ok((on_match?, exclusive))
        });
        Ok(Ranges {
            matches: matches?.into(),
            table: IpTable::new(by_range),
        })
    }

    fn domains(
        &self,
        message: ServerNameMatcher,
        at: &At<'_>,
    ) -> Result<Domains<Then<V>>, Reported> {
        let ServerNameMatcher { domain_matchers } = message;
        let at = at.field("domain_matchers");
        let mut names = Vec::with_capacity(domain_matchers.len());
        let matches = all(domain_matchers, |index, message| {
            let DomainMatcher { domains, on_match } = message;
            names.push(domains);
            self.on_match(on_match, &at.index(index).field("on_match"))
        });
        let mut compiled = Domains::new(matches?);
        let mut outcome = Ok(());
        for (index, domains) in names.iter().enumerate() {
            let at = at.index(index);
            let at = at.field("domains");
            for (n, domain) in domains.iter().enumerate() {
                outcome = outcome.and(compiled.insert(domain, index, &at.index(n)));
            }
        }
        outcome.map(|()| compiled)
    }

    fn predicate(
        &self,
        message: Option<PredicateMessage>,
        at: &At<'_>,
    ) -> Result<Predicate<V::Input>, Reported> {
        let list = |list: PredicateList, at: &At<'_>| {
            let PredicateList { predicate } = list;
            let at = at.field("predicate");
            let all = all(predicate, |index, one| {
                self.predicate(Some(one), &at.index(index))
            });
            all.map(Into::into)
        };
        match message.and_then(|message| message.match_type) {
            Some(MatchType::SinglePredicate(single)) => {
                self.single(single, &at.field("single_predicate"))
            }
            Some(MatchType::OrMatcher(some)) => {
                Ok(Predicate::Or(list(some, &at.field("or_matcher"))?))
            }
            Some(MatchType::AndMatcher(every)) => {
                Ok(Predicate::And(list(every, &at.field("and_matcher"))?))
            }
            Some(MatchType::NotMatcher(not)) => {
                let not = self.predicate(Some(*not), &at.field("not_matcher"))?;
                Ok(Predicate::Not(Box::new(not)))
            }
            None => Err(at.error(
                "is required: one of single_predicate, or_matcher, and_matcher and not_matcher",
            )),
        }
    }

    fn single(
        &self,
        message: SinglePredicate,
        at: &At<'_>,
    ) -> Result<Predicate<V::Input>, Reported> {
        let SinglePredicate { input, matcher } = message;
        let input = self.input(input, &at.field("input"));
        let condition = match matcher {
            Some(single_predicate::Matcher::ValueMatch(text)) => {
                let at = at.field("value_match");
                string_matcher(text, &at).map(Condition::Text)
            }
            Some(single_predicate::Matcher::CustomMatch(extension)) => {
                let at = at.field("custom_match");
                self.condition(extension, &at.field("typed_config"))
            }
            None => Err(at.error("one of value_match and custom_match is required")),
        };
        Ok(Predicate::Single(input?, condition?))
    }

    fn input(
        &self,
        message: Option<TypedExtensionConfig>,
        at: &At<'_>,
    ) -> Result<Input<V::Input>, Reported> {
        let at = at.field("typed_config");
        let any = required(message.and_then(|message| message.typed_config), &at)?;
        match type_name(&any) {
            "envoy.extensions.matching.common_inputs.environment_variable.v3.Config" => {
                let Variable { name } = unpack(&any, &at)?;
                let value = std::env::var(name).ok();
                Ok(Input::Known(value.map(Into::into)))
            }
            _ => self.words.input(&any, &at).map(Input::Own),
        }
    }

    fn condition(&self, message: TypedExtensionConfig, at: &At<'_>) -> Result<Condition, Reported> {
        let any = required(message.typed_config, at)?;
        match type_name(&any) {
            "envoy.extensions.matching.input_matchers.ip.v3.Ip" => {
                let Ip {
                    cidr_ranges,
                    stat_prefix,
                } = unpack(&any, at)?;
                let ranges = ip::ranges(&cidr_ranges, &at.field("cidr_ranges"))?;
                let stats = self.cx.stats;
                let stats = stats.block(&format!("{stat_prefix}."), &ip_stats::TABLE);
                Ok(Condition::ip(ranges, stats))
            }
            "envoy.extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing" => {
                let ConsistentHashing {
                    threshold,
                    modulo,
                    seed,
                } = unpack(&any, at)?;
                if threshold > modulo {
                    return Err(at.field("threshold").error(format_args!(
                        "{threshold} exceeds modulo, which is {modulo}"
                    )));
                }
                Ok(Condition::Hash {
                    seed,
                    modulo,
                    threshold,
                })
            }
            "envoy.extensions.matching.input_matchers.runtime_fraction.v3.RuntimeFraction" => {
                let FractionMessage {
                    runtime_fraction,
                    seed,
                } = unpack(&any, at)?;
                let at = at.field("runtime_fraction");
                let message = runtime_fraction.ok_or_else(|| at.error("is required"))?;
                let fraction = RuntimeFraction::compile(message, self.cx.runtime, &at)?;
                Ok(Condition::Fraction(fraction, seed))
            }
            other => Err(at.error(format_args!(
                "the matcher {other:?} is not supported; there are \
                 envoy.matching.matchers.ip, envoy.matching.matchers.consistent_hashing and \
                 envoy.matching.matchers.runtime_fraction"
            ))),
        }
    }
}

fn required(any: Option<Any>, at: &At<'_>) -> Result<Any, Reported> {
    any.ok_or_else(|| at.error("is required"))
}

/// Compiles each, and goes on after an error to find the next.
fn all<M, T>(
    messages: impl IntoIterator<Item = M>,
    mut compile: impl FnMut(usize, M) -> Result<T, Reported>,
) -> Result<Vec<T>, Reported> {
    let mut compiled = Vec::new();
    let mut outcome = Ok(());
    for (index, message) in messages.into_iter().enumerate() {
        match compile(index, message) {
            Ok(one) => compiled.push(one),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| compiled)
}

/// The same as `envoy.type.matcher.v3.StringMatcher`, under another name.
fn string_matcher(message: pb::StringMatcher, at: &At<'_>) -> Result<StringMatcher, Reported> {
    let pb::StringMatcher {
        ignore_case,
        match_pattern,
    } = message;
    let pattern = match match_pattern {
        None => None,
        Some(XdsPattern::Exact(text)) => Some(Pattern::Exact(text)),
        Some(XdsPattern::Prefix(text)) => Some(Pattern::Prefix(text)),
        Some(XdsPattern::Suffix(text)) => Some(Pattern::Suffix(text)),
        Some(XdsPattern::Contains(text)) => Some(Pattern::Contains(text)),
        Some(XdsPattern::SafeRegex(pb::RegexMatcher {
            regex,
            // There is one engine.
            engine_type: _,
        })) => Some(Pattern::SafeRegex(text::RegexMatcher {
            regex,
            engine_type: None,
        })),
        Some(XdsPattern::Custom(_)) => return Err(at.field("custom").unsupported()),
    };
    let message = text::StringMatcher {
        ignore_case,
        match_pattern: pattern,
    };
    StringMatcher::compile(message, at)
}
