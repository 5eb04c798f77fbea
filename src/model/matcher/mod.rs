//! Matchers that several resources use: strings, regular expressions, headers.

mod header;
mod regex;
mod string;

pub use header::HeaderMatcher;
pub use regex::{Regex, Substitution};
pub use string::StringMatcher;
