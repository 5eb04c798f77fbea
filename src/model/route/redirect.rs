//! `envoy.config.route.v3.RedirectAction`, compiled: where a client is sent.

use http::StatusCode;

use crate::{
    api::envoy::config::route::v3::{
        RedirectAction as Message,
        redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    },
    config::{At, Reported},
    formatter::RequestView,
    model::matcher::Substitution,
    refuse,
};

use super::rewrite::PathRewrite;

/// A redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    scheme: Option<Box<str>>,
    host: Box<str>,
    port: Option<u16>,
    path: Path,
    strip_query: bool,
}

#[derive(Clone, Debug)]
enum Path {
    Keep,
    /// The path, and whether it has a query of its own.
    Replace(Box<str>, bool),
    Rewrite(PathRewrite),
}

/// The `location` of the 301 by which `require_tls` sends a client to the same
/// place by https. A port stays, whatever it is, as in Envoy.
pub fn https_location(request: &RequestView<'_>) -> String {
    ["https://", request.authority, request.path].concat()
}

impl Redirect {
    /// Compiles a redirect.
    ///
    /// # Errors
    /// A malformed expression, a port that is not one.
    pub fn compile(message: Message, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            host_redirect,
            response_code,
            strip_query,
            port_redirect,
            path_rewrite_specifier,
            scheme_rewrite_specifier,
        } = message;
        let status = match RedirectResponseCode::try_from(response_code) {
            Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
            Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
            Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
            Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
            Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
            Err(_) => return Err(at.field("response_code").error("is not a known code")),
        };
        let path = match path_rewrite_specifier {
            None => Path::Keep,
            // An empty text is as good as none.
            Some(
                PathRewriteSpecifier::PathRedirect(path)
                | PathRewriteSpecifier::PrefixRewrite(path),
            ) if path.is_empty() => Path::Keep,
            Some(PathRewriteSpecifier::PathRedirect(path)) => {
                let has_query = path.contains('?');
                Path::Replace(path.into(), has_query)
            }
            Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
                Path::Rewrite(PathRewrite::Prefix(prefix.into()))
            }
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => Path::Rewrite(PathRewrite::Regex(
                Substitution::compile(regex, &at.field("regex_rewrite"))?,
            )),
            Some(PathRewriteSpecifier::PathRewrite(path_rewrite)) => {
                refuse!(at; path_rewrite)?;
                Path::Keep
            }
        };
        let scheme = match scheme_rewrite_specifier {
            None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
                (!scheme.is_empty()).then(|| scheme.into())
            }
        };
        let port = u16::try_from(port_redirect).map_err(|_| {
            at.field("port_redirect")
                .error(format_args!("{port_redirect} is not a port"))
        })?;
        Ok(Self {
            status,
            scheme,
            host: host_redirect.into(),
            port: (port > 0).then_some(port),
            path,
            strip_query,
        })
    }

    /// The `location` of the answer. `matched` is the length of the matched
    /// prefix, for a prefix rewrite.
    pub fn location(&self, request: &RequestView<'_>, matched: usize) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = match self.host.is_empty() {
            true => self.request_host(request, scheme),
            false => &self.host,
        };
        let mut location = format!("{scheme}://{host}");
        if let Some(port) = self.port {
            location.push(':');
            location.push_str(itoa::Buffer::new().format(port));
        }
        let query_of = |path: &str| path.find('?').unwrap_or(path.len());
        let keeps_query = match &self.path {
            Path::Keep => {
                location.push_str(request.path);
                !self.strip_query
            }
            Path::Replace(path, has_query) => {
                location.push_str(path);
                if !has_query && !self.strip_query {
                    location.push_str(&request.path[query_of(request.path)..]);
                }
                // A query of its own is kept, whatever strip_query says.
                true
            }
            Path::Rewrite(rewrite) => {
                location.push_str(&rewrite.apply(request.path, matched));
                !self.strip_query
            }
        };
        if !keeps_query {
            location.truncate(query_of(&location));
        }
        location
    }

    /// The request's own host, without a port that no longer fits.
    fn request_host<'a>(&self, request: &RequestView<'a>, scheme: &str) -> &'a str {
        let host = request.authority;
        let at = match host.starts_with('[') {
            true => host.rfind("]:").map(|at| at + 1),
            false => host.rfind(':'),
        };
        let Some(at) = at else { return host };
        let default_of_old = match request.scheme {
            "https" => &host[at..] == ":443",
            "http" => &host[at..] == ":80",
            _ => false,
        };
        match self.port.is_some() || (scheme != request.scheme && default_of_old) {
            true => &host[..at],
            false => host,
        }
    }
}
