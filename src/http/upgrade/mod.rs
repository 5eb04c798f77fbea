//! Requests that turn their stream into a tunnel: `connection: upgrade`, CONNECT,
//! and the extended CONNECT of HTTP/2 (RFC 8441).
//!
//! Behind the codecs an upgrade has the form of HTTP/1 whatever it came by: a GET
//! with `upgrade` and `connection`, accepted with 101. The codecs of HTTP/2
//! translate: [`from_extended_connect`] and [`into_accepted`] for clients,
//! [`into_extended_connect`] and [`from_accepted`] for hosts.

mod tunnel;
mod websocket;

use h2::ext::Protocol;
use http::{HeaderValue, Method, StatusCode, header};

use super::config::ConnectionManager;
use crate::{
    codec::{Headers, RequestHead, ResponseHead},
    model::{
        matcher::StringMatcher,
        route::{Action, RouteHandle},
    },
};

pub use tunnel::Tunnel;
pub use websocket::{complete_answer, complete_request};

/// A tunnel that the client asks for.
#[derive(Debug)]
pub struct Upgrade {
    /// Its name, lower case; `connect` for a CONNECT.
    name: Box<str>,
    kind: Kind,
}

/// How a tunnel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By CONNECT; any 2xx accepts it.
    Connect,
    /// By `upgrade`; 101 accepts it.
    Upgrade,
}

/// What a request asks its stream to become, if anything. `h2c` is not an upgrade
/// of this kind: the request goes on as if it had not been asked for.
pub fn requested(request: &RequestHead) -> Option<Upgrade> {
    if request.method == Method::CONNECT {
        return Some(Upgrade {
            name: "connect".into(),
            kind: Kind::Connect,
        });
    }
    Some(Upgrade {
        name: upgrade(&request.headers)?,
        kind: Kind::Upgrade,
    })
}

/// Makes it as if upgrades that these matchers match had not been asked for.
pub fn drop_ignored(headers: &mut Headers, ignored: &[StringMatcher]) {
    if ignored.is_empty() {
        return;
    }
    let asked = headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    let Some(asked) = asked else { return };
    let is_kept = |name: &&[u8]| !ignored.iter().any(|matcher| matcher.is_match(name));
    let all = asked.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let kept: Vec<&[u8]> = all.filter(is_kept).collect();
    match HeaderValue::from_bytes(&kept.join(&b","[..])) {
        Ok(kept) if !kept.is_empty() => headers.insert(header::UPGRADE, kept),
        Ok(_) | Err(_) => drop(headers.remove(header::UPGRADE)),
    }
}

fn upgrade(headers: &Headers) -> Option<Box<str>> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    let asked = headers.get_all(header::CONNECTION).any(|value| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let name = upgrade.to_ascii_lowercase();
    (asked && name != "h2c").then(|| name.into())
}

impl Upgrade {
    /// How it is asked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the route, or else the connection manager, lets it pass.
    pub fn is_allowed(&self, route: Option<&RouteHandle>, manager: &ConnectionManager) -> bool {
        let by_route = route.and_then(|handle| match &handle.route().action {
            Action::Forward(forward) => forward
                .upgrades
                .iter()
                .find(|(name, _)| *name == self.name)
                .map(|(_, on)| *on),
            _ => None,
        });
        by_route.unwrap_or_else(|| {
            manager
                .upgrades
                .iter()
                .any(|upgrade| upgrade.kind == self.name && upgrade.enabled)
        })
    }

    /// Where in [`ConnectionManager::upgrades`] its own filters are, if it has any and
    /// is allowed.
    pub fn own_filters(
        &self,
        route: Option<&RouteHandle>,
        manager: &ConnectionManager,
    ) -> Option<u16> {
        let mut own = (0..).zip(&manager.upgrades);
        let (index, _) = own.find(|(_, own)| own.kind == self.name && own.filters.is_some())?;
        self.is_allowed(route, manager).then_some(index)
    }

    /// Whether a response of this status makes a tunnel of the stream.
    pub fn is_accepted_by(&self, status: StatusCode) -> bool {
        match self.kind {
            Kind::Connect => status.is_success(),
            Kind::Upgrade => status == StatusCode::SWITCHING_PROTOCOLS,
        }
    }
}

/// Gives a request that came by HTTP/2 with this `:protocol` the form it would have
/// had over HTTP/1. Tells whether it asks for a tunnel.
pub fn from_extended_connect(request: &mut RequestHead, protocol: Option<&str>) -> bool {
    if request.method != Method::CONNECT {
        return false;
    }
    if let Some(Ok(protocol)) = protocol.map(HeaderValue::from_str) {
        request.method = Method::GET;
        request.headers.insert(header::UPGRADE, protocol);
        let upgrade = HeaderValue::from_static("upgrade");
        request.headers.insert(header::CONNECTION, upgrade);
        // A tunnel has no length.
        request.headers.remove(header::CONTENT_LENGTH);
    }
    true
}

/// Gives an accepted upgrade the form it has towards a client of HTTP/2.
pub fn into_accepted(status: &mut StatusCode, headers: &mut Headers) {
    if *status == StatusCode::SWITCHING_PROTOCOLS {
        *status = StatusCode::OK;
    }
    headers.remove(header::UPGRADE);
    headers.remove(header::CONNECTION);
}

/// Gives an upgrade the form it has towards a host of HTTP/2.
pub fn into_extended_connect(request: &mut http::Request<()>) {
    let headers = request.headers_mut();
    let upgrade = headers.remove(header::UPGRADE);
    headers.remove(header::CONNECTION);
    // A tunnel has no length.
    headers.remove(header::CONTENT_LENGTH);
    if let Some(protocol) = upgrade.as_ref().and_then(|value| value.to_str().ok()) {
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    *request.method_mut() = Method::CONNECT;
}

/// Gives what a host of HTTP/2 says to an upgrade the form it has over HTTP/1:
/// its 200 is a 101 to `asked`.
pub fn from_accepted(head: &mut ResponseHead, asked: Option<&HeaderValue>) {
    if let (StatusCode::OK, Some(asked)) = (head.status, asked) {
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        head.headers.insert(header::UPGRADE, asked.clone());
        let upgrade = HeaderValue::from_static("upgrade");
        head.headers.insert(header::CONNECTION, upgrade);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_asked_for_by_two_headers() {
        let headers = |connection: &'static str, name: &'static str| {
            let mut headers = Headers::new();
            headers.insert(header::CONNECTION, connection.parse().unwrap());
            headers.insert(header::UPGRADE, name.parse().unwrap());
            headers
        };
        assert_eq!(
            upgrade(&headers("keep-alive, Upgrade", "WebSocket")).as_deref(),
            Some("websocket")
        );
        assert_eq!(upgrade(&headers("keep-alive", "websocket")), None);
        assert_eq!(upgrade(&headers("upgrade", "h2c")), None);
        assert_eq!(upgrade(&Headers::new()), None);
    }

    #[test]
    fn an_extended_connect_is_an_upgrade_and_back() {
        let mut parts = RequestHead {
            method: Method::CONNECT,
            ..RequestHead::default()
        };
        assert!(from_extended_connect(&mut parts, Some("websocket")));
        assert_eq!(parts.method, Method::GET);
        assert_eq!(requested(&parts).unwrap().kind(), Kind::Upgrade);
        let mut request = http::Request::new(());
        *request.headers_mut() = parts.headers.into();
        into_extended_connect(&mut request);
        assert_eq!(request.method(), Method::CONNECT);
        assert!(request.headers().is_empty());
        let protocol = request.extensions().get::<Protocol>();
        assert_eq!(protocol.map(Protocol::as_str), Some("websocket"));

        let mut head = ResponseHead::default();
        from_accepted(&mut head, Some(&HeaderValue::from_static("websocket")));
        assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(upgrade(&head.headers).as_deref(), Some("websocket"));
        into_accepted(&mut head.status, &mut head.headers);
        assert_eq!((head.status, head.headers.len()), (StatusCode::OK, 0));
    }
}
