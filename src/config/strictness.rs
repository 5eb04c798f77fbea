//! How strict reading is.

/// What becomes of a field or enum value that the API does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// It is an error.
    #[default]
    Refuse,
    /// It is left out, with a warning.
    Warn,
    /// It is left out.
    Ignore,
}

/// How strict reading is; refuses what it does not know unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strictness {
    /// Unknown fields and enum values.
    pub unknown: Unknown,
}

impl Strictness {
    /// For the bootstrap, after `--allow-unknown-static-fields`.
    pub fn for_static(allow_unknown: bool) -> Self {
        Self {
            unknown: match allow_unknown {
                true => Unknown::Warn,
                false => Unknown::Refuse,
            },
        }
    }

    /// For discovered resources, after `--ignore-unknown-dynamic-fields`.
    ///
    /// Unlike Envoy this refuses without `--reject-unknown-dynamic-fields` too:
    /// nothing in a configuration is silently ignored.
    pub fn for_dynamic(ignore_unknown: bool) -> Self {
        Self {
            unknown: match ignore_unknown {
                true => Unknown::Ignore,
                false => Unknown::Refuse,
            },
        }
    }
}
