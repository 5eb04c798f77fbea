//! Trees of matchers over texts that a test gives by name.

use std::collections::HashMap;

use prost_types::Any;

use super::{Matcher, Value, Vocabulary};
use crate::{
    api::xds::r#type::matcher::v3::Matcher as Message,
    config::{At, Report, Reported, unpack},
    model::testing::{World, read},
};

/// Inputs and actions are texts.
struct Texts;

impl Vocabulary for Texts {
    type Input = String;
    type Action = String;

    fn input(&self, any: &Any, at: &At<'_>) -> Result<String, Reported> {
        unpack(any, at)
    }

    fn action(&self, any: &Any, at: &At<'_>) -> Result<String, Reported> {
        unpack(any, at)
    }
}

/// Abbreviations for what tests write again and again.
fn expand(yaml: &str) -> String {
    let any = |kind: &str, fields: &str| {
        format!(
            "{{ name: x, typed_config: {{ \"@type\": type.googleapis.com/{kind}, {fields} }} }}"
        )
    };
    let mut text = yaml.to_owned();
    for (word, kind) in [
        ("IS(", "google.protobuf.StringValue"),
        ("IPS(", "xds.type.matcher.v3.IPMatcher"),
        ("DOMAINS(", "xds.type.matcher.v3.ServerNameMatcher"),
    ] {
        while let Some(start) = text.find(word) {
            let end = start + text[start..].find(")").expect("closed");
            let fields = match word {
                "IS(" => format!("value: {}", &text[start + 3..end]),
                _ => text[start + word.len()..end].to_owned(),
            };
            text.replace_range(start..=end, &any(kind, &fields));
        }
    }
    text
}

fn compile(yaml: &str) -> Result<Matcher<String, String>, String> {
    let message: Message = read(&expand(yaml));
    let (world, report) = (World::new(), Report::new());
    Matcher::compile(message, &Texts, &world.cx(), &report.root()).map_err(|_| report.to_string())
}

fn find(matcher: &Matcher<String, String>, values: &[(&str, &str)]) -> Option<String> {
    let values: HashMap<&str, &str> = values.iter().copied().collect();
    let read = |input: &String| values.get(&**input).map(|value| Value::text_of(*value));
    matcher.find(&read).cloned()
}

#[test]
fn a_list_goes_on_where_a_tree_below_it_leads_nowhere() {
    let matcher = compile(
        "{ matcher_list: { matchers: [
           { predicate: { single_predicate: { input: IS(a), value_match: { prefix: x } } },
             on_match: { matcher: { matcher_tree: { input: IS(b),
               exact_match_map: { map: { one: { action: IS(first) } } } } } } },
           { predicate: { single_predicate: { input: IS(a), value_match: { contains: z } } },
             on_match: { keep_matching: true, action: IS(passed) } },
           { predicate: { not_matcher: { or_matcher: { predicate: [
               { single_predicate: { input: IS(a), value_match: { exact: q } } },
               { single_predicate: { input: IS(c), value_match: { exact: '' } } } ] } } },
             on_match: { action: IS(second) } } ] },
           on_no_match: { action: IS(last) } }",
    )
    .unwrap();
    assert_eq!(
        find(&matcher, &[("a", "xz"), ("b", "one")]).unwrap(),
        "first"
    );
    assert_eq!(
        find(&matcher, &[("a", "xz"), ("b", "two")]).unwrap(),
        "second"
    );
    assert_eq!(find(&matcher, &[("a", "q")]).unwrap(), "last");
    assert_eq!(find(&matcher, &[("c", "")]).unwrap(), "last");
    assert_eq!(find(&matcher, &[]).unwrap(), "second");
}

#[test]
fn the_longest_prefix_is_tried_first() {
    let matcher = compile(
        "matcher_tree: { input: IS(a), prefix_match_map: { map: {
           '': { action: IS(any) }, ab: { action: IS(ab) },
           abc: { matcher: { on_no_match: { keep_matching: true, action: IS(never) } } } } } }",
    )
    .unwrap();
    assert_eq!(find(&matcher, &[("a", "abcd")]).unwrap(), "ab");
    assert_eq!(find(&matcher, &[("a", "a")]).unwrap(), "any");
    assert_eq!(find(&matcher, &[]), None);
}

#[test]
fn the_most_specific_range_is_tried_first_and_exclusive_ones_are_tried_nowhere_else() {
    let matcher = compile(
        "matcher_tree: { input: IS(a), custom_match: IPS(range_matchers: [
           { ranges: [{ address_prefix: 0.0.0.0 }], on_match: { action: IS(all) } },
           { ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }], exclusive: true,
             on_match: { action: IS(ten) } },
           { ranges: [{ address_prefix: 10.1.0.0, prefix_len: 16 }],
             on_match: { keep_matching: true, action: IS(never) } }]) }",
    )
    .unwrap();
    assert_eq!(find(&matcher, &[("a", "10.2.0.1")]).unwrap(), "ten");
    assert_eq!(find(&matcher, &[("a", "10.1.0.1")]).unwrap(), "all");
    assert_eq!(find(&matcher, &[("a", "::1")]), None);
    assert_eq!(find(&matcher, &[("a", "no address")]), None);
}

#[test]
fn the_most_specific_domain_is_tried_first() {
    let matcher = compile(
        "matcher_tree: { input: IS(a), custom_match: DOMAINS(domain_matchers: [
           { domains: ['*'], on_match: { action: IS(any) } },
           { domains: ['*.b.com', a.com], on_match: { action: IS(b) } },
           { domains: ['*.com'], on_match: { action: IS(com) } }]) }",
    )
    .unwrap();
    let domain = |name| find(&matcher, &[("a", name)]).unwrap();
    assert_eq!(
        ["a.com", "x.b.com", "b.com", "b.org"].map(domain),
        ["b", "b", "com", "any"]
    );
    let wrong = |domains: &str| {
        let tree = format!(
            "matcher_tree: {{ input: IS(a), custom_match: DOMAINS(domain_matchers: [
               {{ domains: [{domains}], on_match: {{ action: IS(x) }} }}]) }}"
        );
        compile(&tree).unwrap_err()
    };
    for domains in ["a*", "'*.'", "'*.*.com'", "''", "'**'"] {
        let error = wrong(domains);
        assert!(error.contains("domain_matchers[0].domains[0]: "), "{error}");
    }
    assert!(wrong("a, '*.b', a").contains("domains[2]: the domain \"a\" comes twice"));
}

#[test]
fn what_a_matcher_needs_is_asked_for_by_its_place() {
    let error = compile(
        "matcher_tree: { input: IS(a), custom_match: IPS(range_matchers: [
           { ranges: [{ address_prefix: '127.0', prefix_len: 8 }] }]) }",
    )
    .unwrap_err();
    assert!(
        error.contains("range_matchers[0].on_match: is required"),
        "{error}"
    );
    assert!(
        error.contains("ranges[0].address_prefix: \"127.0\""),
        "{error}"
    );
}
