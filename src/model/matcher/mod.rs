//! Matchers that several resources use: strings, regular expressions, headers,
//! IP ranges.

mod header;
pub mod ip;
mod regex;
mod string;

pub use header::HeaderMatcher;
pub use ip::IpTable;
pub use regex::{Regex, Substitution};
pub use string::StringMatcher;
