//! Tags: the variable parts of a stat's name, taken out of it for sinks that
//! have labels, by the rules Envoy has as its defaults.

use std::collections::HashSet;

use regex::Regex;

use crate::{
    api::envoy::config::metrics::v3::{TagSpecifier, tag_specifier::TagValue},
    config::{At, Reported},
};

/// How one tag is found in a name.
#[derive(Debug)]
enum Finder {
    /// The first group is what is removed, the second (or else the first) the value.
    Regex(Regex),
    /// Parts between dots: `*` is any one, `$` the tag, `**` the rest.
    Parts(&'static str),
    /// The same for every stat.
    Fixed(String),
}

#[derive(Debug)]
struct Rule {
    tag: String,
    finder: Finder,
    /// A value that is no tag.
    except: &'static str,
}

/// A stat's name without its tags, and the tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagged {
    /// What is left of the name.
    pub name: String,
    /// Names and values, in the order of the rules.
    pub tags: Vec<(String, String)>,
}

/// The rules in force.
#[derive(Debug)]
pub struct TagRules {
    rules: Vec<Rule>,
    has_own_patterns: bool,
}

const ADDRESS: &str = r"(?:\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[[a-fA-F_\d]+\])_\d+";

/// Tag, pattern, and a value that is no tag.
///
/// In Envoy's order, which is that of the labels. Patterns of Envoy that are
/// for stats nuncio does not make are left out.
fn regexes() -> [(&'static str, String, &'static str); 12] {
    const SIDE: &str = "(?:listener|cluster)";
    let of =
        |side: &str, kind: &str, value: &str| format!(r"^{side}\..*?\.ssl\.{kind}(\.({value}))$");
    let tls = |kind: &str, value: &str| of(SIDE, kind, value);
    [
        ("envoy.response_code", r"_rq(_(\d{3}))$".to_owned(), ""),
        ("envoy.response_code_class", r"_rq_((\d))xx$".to_owned(), ""),
        ("envoy.ssl_cipher", of("listener", "ciphers", r"[\w-]+"), ""),
        ("cipher_suite", of("cluster", "ciphers", r"[\w-]+"), ""),
        ("envoy.ssl_curve", tls("curves", r"[\w-]+"), ""),
        ("envoy.ssl_sigalg", tls("sigalgs", r"[\w-]+"), ""),
        ("envoy.ssl_version", tls("versions", r"TLSv\d\.\d"), ""),
        (
            "envoy.tls_certificate",
            r"^(?:listener|cluster)\..*?\.ssl\.certificate(\.([^.]+))\..+$".to_owned(),
            "",
        ),
        (
            "envoy.worker_id",
            format!(
                r"^(?:listener\.(?:{ADDRESS}|[^.]+)\.|server\.|listener_manager\.|thread_local_cluster_manager\.)worker_((\d+)\.)"
            ),
            "",
        ),
        (
            "envoy.http_conn_manager_prefix",
            r"^listener\..*?\.http\.(([^.]+)\.)".to_owned(),
            "",
        ),
        (
            "envoy.listener_address",
            format!(r"^listener\.(({ADDRESS}|[^.]+)\.)"),
            "admin",
        ),
        (
            "envoy.rds_route_config",
            r"^http\.[^.]+\.rds\.(([\w.-]+)\.)\w+?$".to_owned(),
            "",
        ),
    ]
}

const PARTS: [(&str, &str); 23] = [
    ("envoy.grpc_bridge_method", "cluster.*.grpc.*.$.**"),
    ("envoy.http_user_agent", "http.*.user_agent.$.**"),
    ("envoy.virtual_cluster", "vhost.*.vcluster.$.**"),
    ("envoy.fault_downstream_cluster", "http.*.fault.$.**"),
    ("envoy.grpc_bridge_service", "cluster.*.grpc.$.**"),
    ("envoy.tcp_prefix", "tcp.$.**"),
    ("envoy.udp_prefix", "udp.$.**"),
    ("envoy.clientssl_prefix", "auth.clientssl.$.**"),
    ("envoy.ratelimit_prefix", "ratelimit.$.**"),
    ("envoy.cluster_name", "cluster.$.**"),
    ("envoy.ext_authz_prefix", "cluster.*.ext_authz.$.**"),
    ("envoy.ext_authz_prefix", "http.*.ext_authz.$.**"),
    ("envoy.http_conn_manager_prefix", "http.$.**"),
    ("envoy.virtual_host", "vhost.$.**"),
    ("envoy.mongo_prefix", "mongo.$.**"),
    ("envoy.route", "vhost.*.route.$.**"),
    ("envoy.thrift_prefix", "thrift.$.**"),
    ("envoy.redis_prefix", "redis.$.**"),
    (
        "envoy.local_http_ratelimit_prefix",
        "$.http_local_rate_limit.**",
    ),
    (
        "envoy.local_network_ratelimit_prefix",
        "local_rate_limit.$.**",
    ),
    (
        "envoy.local_listener_ratelimit_prefix",
        "listener_local_ratelimit.$.**",
    ),
    ("envoy.dns_filter_prefix", "dns_filter.$.**"),
    ("envoy.xds_resource_name", "sds.$.**"),
];

/// How many of [`regexes`] do not go by how a name begins.
const ANYWHERE: usize = 9;

impl Default for TagRules {
    fn default() -> Self {
        let regexes = regexes().into_iter().map(|(tag, pattern, except)| Rule {
            tag: tag.to_owned(),
            finder: Finder::Regex(Regex::new(&pattern).expect("a pattern of this file")),
            except,
        });
        let parts = PARTS.map(|(tag, parts)| Rule {
            tag: tag.to_owned(),
            finder: Finder::Parts(parts),
            except: "",
        });
        let mut rules: Vec<_> = regexes.collect();
        rules.extend(parts);
        Self {
            rules,
            has_own_patterns: false,
        }
    }
}

impl TagRules {
    /// The default rules, those of `stats_config.stats_tags`, and the fixed
    /// tags of `--stats-tag`.
    ///
    /// # Errors
    /// When a pattern cannot be compiled or has no group, a name stands for no
    /// default rule, or a tag is given twice.
    pub fn compile(
        specifiers: Vec<TagSpecifier>,
        use_all_default_tags: bool,
        command_line: &[(String, String)],
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut defaults = Self::default().rules;
        let known: HashSet<String> = defaults.iter().map(|rule| rule.tag.clone()).collect();
        let mut chosen: HashSet<String> = HashSet::new();
        let mut own = Vec::new();
        let mut outcome = Ok(());
        for (index, specifier) in specifiers.into_iter().enumerate() {
            let at = at.index(index);
            let TagSpecifier {
                tag_name,
                tag_value,
            } = specifier;
            let again = !chosen.insert(tag_name.clone())
                || (use_all_default_tags && known.contains(&tag_name) && tag_value.is_some());
            if again {
                let message = format!("tag name {tag_name:?} is given twice");
                outcome = Err(at.field("tag_name").error(message));
                continue;
            }
            let finder = match tag_value {
                Some(TagValue::FixedValue(value)) => Finder::Fixed(value),
                Some(TagValue::Regex(pattern)) if !pattern.is_empty() => {
                    match Regex::new(&pattern) {
                        Ok(regex) if regex.captures_len() > 1 => Finder::Regex(regex),
                        Ok(_) => {
                            let message =
                                "has no group; the first is what is taken out of the name";
                            outcome = Err(at.field("regex").error(message));
                            continue;
                        }
                        Err(error) => {
                            outcome = Err(at.field("regex").error(error));
                            continue;
                        }
                    }
                }
                Some(TagValue::Regex(_)) | None if known.contains(&tag_name) => continue,
                Some(TagValue::Regex(_)) | None => {
                    let message =
                        format!("{tag_name:?} is no default tag; regex or fixed_value is required");
                    outcome = Err(at.field("tag_name").error(message));
                    continue;
                }
            };
            own.push(Rule {
                tag: tag_name,
                finder,
                except: "",
            });
        }
        outcome?;
        let fixed = command_line.iter().map(|(tag, value)| Rule {
            tag: tag.clone(),
            finder: Finder::Fixed(value.clone()),
            except: "",
        });
        // Envoy's order: what may stand anywhere in a name, what is fixed, then
        // the rules that go by how a name begins.
        let by_prefix = defaults.split_off(ANYWHERE);
        let wanted = |rule: &Rule| use_all_default_tags || chosen.contains(&rule.tag);
        let mut rules: Vec<_> = defaults.into_iter().filter(wanted).collect();
        rules.extend(fixed);
        let (fixed, patterns): (Vec<_>, Vec<_>) = own
            .into_iter()
            .partition(|rule| matches!(rule.finder, Finder::Fixed(_)));
        rules.extend(fixed);
        rules.extend(by_prefix.into_iter().filter(wanted));
        let has_own_patterns = !patterns.is_empty();
        rules.extend(patterns);
        Ok(Self {
            rules,
            has_own_patterns,
        })
    }

    /// Whether there are patterns besides the default ones, which may look for anything.
    pub fn has_own_patterns(&self) -> bool {
        self.has_own_patterns
    }

    /// Takes the tags out of a name. Every rule sees the whole name.
    pub fn extract(&self, name: &str) -> Tagged {
        let mut tags: Vec<(String, String)> = Vec::new();
        let mut removed: Vec<std::ops::Range<usize>> = Vec::new();
        for rule in &self.rules {
            let (range, value) = match &rule.finder {
                Finder::Fixed(value) => {
                    tags.push((rule.tag.clone(), value.clone()));
                    continue;
                }
                Finder::Parts(pattern) => match find_part(pattern, name) {
                    Some(value) => (value.start..value.end + 1, &name[value]),
                    None => continue,
                },
                Finder::Regex(regex) => match regex.captures(name) {
                    Some(captures) => {
                        let Some(range) = captures.get(1) else {
                            continue;
                        };
                        let value = captures.get(2).unwrap_or(range);
                        (range.range(), value.as_str())
                    }
                    None => continue,
                },
            };
            let taken = tags.iter().any(|(tag, _)| *tag == rule.tag);
            if taken || value.is_empty() || value == rule.except {
                continue;
            }
            tags.push((rule.tag.clone(), value.to_owned()));
            removed.push(range);
        }
        removed.sort_by_key(|range| range.start);
        let mut rest = String::with_capacity(name.len());
        let mut at = 0;
        for range in removed {
            rest.push_str(&name[at..range.start.max(at)]);
            at = at.max(range.end);
        }
        rest.push_str(&name[at..]);
        Tagged { name: rest, tags }
    }
}

/// Where in the name the pattern's `$` lies.
fn find_part(pattern: &str, name: &str) -> Option<std::ops::Range<usize>> {
    let mut found = None;
    let mut at = 0;
    for wanted in pattern.split('.') {
        if at > name.len() {
            return None;
        }
        let len = name[at..].find('.').unwrap_or(name.len() - at);
        match wanted {
            "**" => return found,
            "$" => found = Some(at..at + len),
            "*" => {}
            exact if exact == &name[at..at + len] => {}
            _ => return None,
        }
        at += len + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn extract(name: &str) -> (String, String) {
        let Tagged { name, tags } = TagRules::default().extract(name);
        let tags: Vec<_> = tags
            .iter()
            .map(|(tag, value)| format!("{tag}={value}"))
            .collect();
        (name, tags.join(" "))
    }

    #[test]
    fn names_give_the_tags_that_envoy_gives() {
        // As printed by Envoy 1.40 at /stats/prometheus.
        for (name, rest, tags) in [
            (
                "cluster.web.external.upstream_rq_200",
                "cluster.external.upstream_rq",
                "envoy.response_code=200 envoy.cluster_name=web",
            ),
            (
                "http.in.downstream_rq_2xx",
                "http.downstream_rq_xx",
                "envoy.response_code_class=2 envoy.http_conn_manager_prefix=in",
            ),
            (
                "listener.127.0.0.1_80.worker_0.downstream_cx_total",
                "listener.worker_downstream_cx_total",
                "envoy.worker_id=0 envoy.listener_address=127.0.0.1_80",
            ),
            (
                "listener.[__1]_80.downstream_cx_total",
                "listener.downstream_cx_total",
                "envoy.listener_address=[__1]_80",
            ),
            (
                "listener.admin.http.admin.downstream_rq_2xx",
                "listener.admin.http.downstream_rq_xx",
                "envoy.response_code_class=2 envoy.http_conn_manager_prefix=admin",
            ),
            (
                "http.in.rds.my.route.update_success",
                "http.rds.update_success",
                "envoy.rds_route_config=my.route envoy.http_conn_manager_prefix=in",
            ),
            (
                "vhost.v.vcluster.c.upstream_rq_time",
                "vhost.vcluster.upstream_rq_time",
                "envoy.virtual_cluster=c envoy.virtual_host=v",
            ),
            (
                "sds.a.b.update_attempt",
                "sds.b.update_attempt",
                "envoy.xds_resource_name=a",
            ),
            (
                "cluster.c.ssl.ciphers.ECDHE-RSA-AES128-GCM-SHA256",
                "cluster.ssl.ciphers",
                "cipher_suite=ECDHE-RSA-AES128-GCM-SHA256 envoy.cluster_name=c",
            ),
            (
                "listener.l.ssl.ciphers.TLS_AES_128_GCM_SHA256",
                "listener.ssl.ciphers",
                "envoy.ssl_cipher=TLS_AES_128_GCM_SHA256 envoy.listener_address=l",
            ),
            (
                "tcp.t.downstream_cx_total",
                "tcp.downstream_cx_total",
                "envoy.tcp_prefix=t",
            ),
            (
                "cluster_manager.active_clusters",
                "cluster_manager.active_clusters",
                "",
            ),
            ("server.live", "server.live", ""),
        ] {
            assert_eq!(extract(name), (rest.to_owned(), tags.to_owned()), "{name}");
        }
    }

    #[test]
    fn own_rules_and_fixed_tags_are_added() {
        let specifier = |name: &str, value| TagSpecifier {
            tag_name: name.to_owned(),
            tag_value: Some(value),
        };
        let report = Report::new();
        let rules = TagRules::compile(
            vec![
                specifier("fixed", TagValue::FixedValue("f".to_owned())),
                specifier(
                    "mine",
                    TagValue::Regex(r"^cluster_manager\.((active)_)".to_owned()),
                ),
            ],
            true,
            &[("cli".to_owned(), "c".to_owned())],
            &report.root(),
        )
        .unwrap();
        let tagged = rules.extract("cluster_manager.active_clusters");
        assert_eq!(tagged.name, "cluster_manager.clusters");
        let tags: Vec<_> = tagged
            .tags
            .iter()
            .map(|(t, v)| (t.as_str(), v.as_str()))
            .collect();
        assert_eq!(tags, [("cli", "c"), ("fixed", "f"), ("mine", "active")]);
    }

    #[test]
    fn a_bad_rule_is_reported_by_its_place() {
        let specifier = |name: &str, regex: &str| TagSpecifier {
            tag_name: name.to_owned(),
            tag_value: Some(TagValue::Regex(regex.to_owned())),
        };
        let report = Report::new();
        let specifiers = vec![specifier("a", "x"), specifier("nonesuch", "")];
        assert!(
            TagRules::compile(specifiers, true, &[], &report.root().field("stats_tags")).is_err()
        );
        assert_eq!(
            report.to_string(),
            "stats_tags[0].regex: has no group; the first is what is taken out of the name\n\
             stats_tags[1].tag_name: \"nonesuch\" is no default tag; regex or fixed_value is required"
        );
    }
}
