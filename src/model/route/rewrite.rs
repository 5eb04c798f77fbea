//! Changes of path and host on the way to the upstream.

use crate::{formatter::FieldName, model::matcher::Substitution};

/// What becomes of the path.
#[derive(Clone, Debug, Default)]
pub enum PathRewrite {
    /// It stays.
    #[default]
    None,
    /// `prefix_rewrite`: what the route matched is replaced.
    Prefix(Box<str>),
    /// `regex_rewrite`, on the path without its query.
    Regex(Substitution),
}

impl PathRewrite {
    /// The new path. `matched` is the length of what the route matched of the
    /// path; the query stays.
    pub fn apply(&self, path: &str, matched: usize) -> String {
        let end = path.find(['?', '#']).unwrap_or(path.len());
        let (bare, query) = path.split_at(end);
        match self {
            Self::None => path.to_owned(),
            Self::Prefix(prefix) => {
                let rest = bare.get(matched..).unwrap_or_default();
                [prefix, rest, query].concat()
            }
            Self::Regex(substitution) => substitution.apply(bare) + query,
        }
    }
}

/// What becomes of the host.
#[derive(Clone, Debug, Default)]
pub enum HostRewrite {
    /// It stays.
    #[default]
    None,
    /// `host_rewrite_literal`.
    Literal(Box<str>),
    /// `auto_host_rewrite`: the hostname of the upstream host, once it is chosen.
    Auto,
    /// `host_rewrite_header`: another header's value, when it is there.
    Header(FieldName),
    /// `host_rewrite_path_regex`, on the path without its query.
    PathRegex(Substitution),
}
