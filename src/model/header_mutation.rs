//! `envoy.config.common.mutation_rules.v3.HeaderMutation`, compiled: changes to the
//! headers of a request that follow one after the other, each in view of what those
//! before it have made.

use http::header::{HOST, HeaderName};

use crate::{
    api::envoy::{
        config::{
            common::mutation_rules::v3::{
                HeaderMutation as Message,
                header_mutation::{Action, RemoveOnMatch},
            },
            core::v3::TypedExtensionConfig,
        },
        extensions::http::early_header_mutation::header_mutation::v3 as early,
    },
    codec::{Headers, RequestHead},
    config::{At, Reported, type_name, unpack},
    formatter::{FormatContext, RequestView},
};

use super::{
    matcher::StringMatcher,
    route::{HeaderRules, header_name},
};

const EARLY: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";

/// Changes, in their order.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutations(Box<[Mutation]>);

#[derive(Clone, Debug)]
enum Mutation {
    Remove(HeaderName),
    RemoveOnMatch(StringMatcher),
    Append(HeaderRules),
}

impl HeaderMutations {
    /// Compiles `early_header_mutation_extensions`.
    ///
    /// # Errors
    /// An extension that is not known, a header that may not be changed; reported.
    pub fn compile_early(
        messages: Vec<TypedExtensionConfig>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut all = Vec::new();
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match compile_extension(message, &at.index(index)) {
                Ok(Self(mutations)) => all.extend(mutations),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self(all.into()))
    }

    fn compile(messages: Vec<Message>, at: &At<'_>) -> Result<Self, Reported> {
        let mut all = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match Mutation::compile(message, &at.index(index)) {
                Ok(mutation) => all.push(mutation),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self(all.into()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes a request. `cx` is what formats read; its request is `head` as it is
    /// then, with `cx.request.scheme`.
    pub fn apply(&self, head: &mut RequestHead, cx: &FormatContext<'_>) {
        for mutation in &self.0 {
            match mutation {
                Mutation::Remove(name) => drop(head.headers.remove(name)),
                Mutation::RemoveOnMatch(names) => remove_matching(&mut head.headers, names),
                Mutation::Append(rules) => {
                    let changes = rules.changes(&FormatContext {
                        request: RequestView::of(head, cx.request.scheme),
                        ..*cx
                    });
                    HeaderRules::apply(changes, &mut head.headers);
                }
            }
        }
    }
}

/// The host is none of the headers that are matched: it is `:authority` in the API.
fn remove_matching(headers: &mut Headers, names: &StringMatcher) {
    headers.retain(|name, _| *name == HOST || !names.is_match(name.as_str().as_bytes()));
}

fn compile_extension(
    message: TypedExtensionConfig,
    at: &At<'_>,
) -> Result<HeaderMutations, Reported> {
    let TypedExtensionConfig {
        // Extensions are known by the type of their configuration.
        name: _,
        typed_config,
    } = message;
    let at = at.field("typed_config");
    let any = typed_config.ok_or_else(|| at.error("is required"))?;
    match type_name(&any) {
        EARLY => {
            let early::HeaderMutation { mutations } = unpack(&any, &at)?;
            HeaderMutations::compile(mutations, &at.field("mutations"))
        }
        other => Err(at.error(format_args!(
            "{other} is not supported yet; there is {EARLY}"
        ))),
    }
}

impl Mutation {
    fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        let Message { action } = message;
        match action {
            None => Err(at.error("one of remove, append, remove_on_match is required")),
            Some(Action::Remove(name)) => {
                header_name(&name, "removed", &at.field("remove")).map(Self::Remove)
            }
            Some(Action::Append(option)) => {
                HeaderRules::of(option, &at.field("append")).map(Self::Append)
            }
            Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher })) => {
                let at = at.field("remove_on_match");
                let at = at.field("key_matcher");
                let matcher = key_matcher.ok_or_else(|| at.error("is required"))?;
                StringMatcher::compile(matcher, &at).map(Self::RemoveOnMatch)
            }
        }
    }
}
