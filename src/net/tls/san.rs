//! `SubjectAltNameMatcher`: which names a peer's certificate may carry.

use crate::{
    api::envoy::{
        extensions::transport_sockets::tls::v3::{
            SubjectAltNameMatcher, subject_alt_name_matcher::SanType,
        },
        r#type::matcher::v3::{StringMatcher as Message, string_matcher::MatchPattern},
    },
    config::{At, Reported},
    model::matcher::StringMatcher,
};

use super::certificate_facts::SubjectName;

/// A condition on one kind of subject alternative name.
#[derive(Clone, Debug)]
pub struct SanMatcher {
    kind: SanType,
    /// Of which kind an `OTHER_NAME` has to be.
    oid: String,
    condition: Condition,
}

#[derive(Clone, Debug)]
enum Condition {
    /// An exact DNS name, to be matched as a host name is: a name of the
    /// certificate may begin with a wildcard.
    HostName(String),
    Text(StringMatcher),
}

impl SanMatcher {
    /// Compiles a matcher.
    ///
    /// # Errors
    /// Everything in the message that is wrong or not supported is reported.
    pub fn compile(message: SubjectAltNameMatcher, at: &At<'_>) -> Result<Self, Reported> {
        let SubjectAltNameMatcher {
            san_type,
            matcher,
            oid,
        } = message;
        let place = at.field("san_type");
        let kind = SanType::try_from(san_type).unwrap_or(SanType::Unspecified);
        match kind {
            SanType::Unspecified => return Err(place.error("is required")),
            SanType::OtherName if !is_oid(&oid) => {
                let place = at.field("oid");
                return Err(place.error(format_args!(
                    "{oid:?} is not an object identifier such as 1.3.6.1.4.1.311.20.2.3, which OTHER_NAME needs"
                )));
            }
            SanType::OtherName => {}
            SanType::Dns | SanType::Uri | SanType::Email | SanType::IpAddress
                if !oid.is_empty() =>
            {
                let place = at.field("oid");
                return Err(place.error("only means something with san_type OTHER_NAME"));
            }
            SanType::Dns | SanType::Uri | SanType::Email | SanType::IpAddress => {}
        }
        let place = at.field("matcher");
        let matcher = matcher.ok_or_else(|| place.error("is required"))?;
        Self::of_kind(kind, oid, matcher, &place)
    }

    /// A matcher of the deprecated form, which does not say of which kind the
    /// name is: one matcher for each kind.
    ///
    /// # Errors
    /// As [`SanMatcher::compile`].
    pub fn compile_untyped(message: Message, at: &At<'_>) -> Result<Vec<Self>, Reported> {
        [
            SanType::Dns,
            SanType::Uri,
            SanType::Email,
            SanType::IpAddress,
        ]
        .into_iter()
        .map(|kind| Self::of_kind(kind, String::new(), message.clone(), at))
        .collect()
    }

    fn of_kind(
        kind: SanType,
        oid: String,
        message: Message,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let condition = match (kind, &message.match_pattern) {
            (SanType::Dns, Some(MatchPattern::Exact(name))) => Condition::HostName(name.clone()),
            _ => Condition::Text(StringMatcher::compile(message, at)?),
        };
        Ok(Self {
            kind,
            oid,
            condition,
        })
    }

    /// Whether a name meets the condition.
    pub fn is_match(&self, name: &SubjectName) -> bool {
        let same_kind = matches!(
            (self.kind, name),
            (SanType::Dns, SubjectName::Dns(_))
                | (SanType::Uri, SubjectName::Uri(_))
                | (SanType::Email, SubjectName::Email(_))
                | (SanType::IpAddress, SubjectName::Ip(_))
        ) || matches!(
            (self.kind, name),
            (SanType::OtherName, SubjectName::Other { oid, .. }) if *oid == self.oid
        );
        same_kind
            && match &self.condition {
                Condition::HostName(host) => is_host_name(&name.text(), host),
                Condition::Text(matcher) => matcher.is_match(name.text().as_bytes()),
            }
    }
}

/// Numbers with dots between them.
fn is_oid(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.contains('.') && text.split('.').all(digits)
}

/// Whether the DNS name of a certificate is good for a host: equal but for
/// case, or with a wildcard that stands for the first label.
pub fn is_host_name(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some((first, rest)) = pattern.split_once('.') else {
        return false;
    };
    let Some((label, domain)) = host.split_once('.') else {
        return false;
    };
    let Some((prefix, suffix)) = first.split_once('*') else {
        return false;
    };
    let (label, prefix, suffix) = (label.as_bytes(), prefix.as_bytes(), suffix.as_bytes());
    // As Envoy: one wildcard, not in an A-label, standing for at least one character.
    rest.eq_ignore_ascii_case(domain)
        && rest.contains('.')
        && !suffix.contains(&b'*')
        && !label.is_empty()
        && !first.to_ascii_lowercase().starts_with("xn--")
        && label.len() > prefix.len() + suffix.len()
        && label[..prefix.len()].eq_ignore_ascii_case(prefix)
        && label[label.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(is_host_name("*.example.com", "a.example.com"));
        assert!(is_host_name("A.Example.com", "a.example.COM"));
        assert!(is_host_name("w*.example.com", "www.example.com"));
        assert!(!is_host_name("*.example.com", "a.b.example.com"));
        assert!(!is_host_name("*.example.com", "example.com"));
        assert!(!is_host_name("*.com", "example.com"));
        assert!(!is_host_name("**.example.com", "a.example.com"));
    }
}
