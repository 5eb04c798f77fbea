//! A request's way through the connection manager.

use std::rc::Rc;

use http::{HeaderValue, Method, StatusCode, Version, header};

use super::{
    LocalReply, RequestBody, ResponseBody, StreamError,
    config::{ConnectionManager, protocol::Underscores},
    connection::Session,
    filters::{Passing, router},
    path::{self, Normalized},
    request::{self, Seen},
    response,
    response_body::Source,
    stats::{http_stats, router_stats},
    stream::Stream,
    strict, target,
    upgrade::{self, Kind, Tunnel, Upgrade},
};
use crate::{
    codec::{Headers, RequestHead, ResponseHead},
    formatter::{HeaderView, ResponseFlag, is_grpc_content_type},
    model::route::{Action, DirectResponse, Outcome, RouteHandle, https_location},
};

/// The answer to a request.
pub(super) struct Response {
    /// Its head.
    pub head: ResponseHead,
    /// Its body, and with it the rest of the stream's life.
    pub body: ResponseBody,
}

/// Serves one request. The body of the response may turn out to be a tunnel, which
/// the codec takes out and runs ([`ResponseBody::take_tunnel`]).
///
/// # Errors
/// When there is nothing left but to cut the stream.
pub(super) async fn handle(
    session: Rc<Session>,
    parts: RequestHead,
    mut body: RequestBody,
) -> Result<Response, StreamError> {
    let own = session.current();
    let (managed, misdirected) = match session.chain_of(&own, &parts) {
        Ok(managed) => (managed, None),
        Err(reply) => (own, Some(reply)),
    };
    let mut stream = Stream::begin(session, managed, parts);
    stream.request_received = body.is_received();
    if stream.request_received {
        stream.info.timing.last_downstream_rx = Some(stream.info.start);
    }
    if let Some(reply) = misdirected {
        return Ok(answer(stream, reply));
    }
    let (seen, upgrade, mut found) = match admit(&mut stream) {
        Ok(admitted) => admitted,
        Err(reply) => return Ok(answer(stream, reply)),
    };
    if !stream.manager().filters.is_empty()
        && let Err(reply) =
            Box::pin(filter(&mut stream, &mut body, &mut found, upgrade.as_ref())).await
    {
        return Ok(answer(stream, reply));
    }
    if let Err(reply) = act(&mut stream, found) {
        return Ok(answer(stream, reply));
    }
    let overload = &stream.managed.chain().listener.overload;
    let point = &overload.http_downstream_filter_check;
    if point.sheds(|| stream.session.worker().random()) {
        let stats = &stream.manager().router_stats;
        stats.inc(router_stats::rq_overload_local_reply);
        return Ok(answer(stream, overloaded()));
    }
    let tunnel = upgrade.as_ref().map(Upgrade::kind);
    match router::forward(&mut stream, body, tunnel, seen.has_envoy()).await {
        Ok((head, source)) => Ok(pass_on(stream, head, source, upgrade)),
        Err(reply) => Ok(answer(stream, reply)),
    }
}

/// What became of looking for a request's route.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It is the stream's.
    Route,
    /// There is none.
    Nothing,
    /// The virtual host wants https.
    TlsRequired,
}

/// Leads a request through the filters.
async fn filter(
    stream: &mut Stream,
    body: &mut RequestBody,
    found: &mut Found,
    upgrade: Option<&Upgrade>,
) -> Result<(), LocalReply> {
    let mut passing = Box::new(Passing::new(stream));
    loop {
        let outcome = passing.request(stream, body).await;
        if !matches!(outcome, Ok(true)) {
            stream.passing = Some(passing);
            return outcome.map(drop);
        }
        let managed = stream.managed.clone();
        *found = find_route(stream, managed.manager());
        check_upgrade(stream, *found, upgrade)?;
        if *found == Found::Route {
            // The route may say something to filters that have been passed.
            passing = Box::new(Passing::new(stream));
        }
    }
}

/// Checks and prepares a request, and finds its route.
fn admit(stream: &mut Stream) -> Result<(Seen, Option<Upgrade>, Found), LocalReply> {
    let managed = stream.managed.clone();
    let manager = managed.manager();
    let session = stream.session.clone();
    let seen = Seen::of(&stream.request.headers, manager.minds_underscores());
    let upgrade = match seen.connection || stream.request.method == Method::CONNECT {
        true => upgrade::requested(&stream.request),
        false => None,
    };
    check_version(stream, manager)?;
    if !session.is_http2() {
        strict::check(&stream.request, manager.http1.custom_methods)?;
    }
    shed(stream, manager)?;
    // HTTP/2 says its scheme itself; HTTP/1's is only known from who speaks it.
    let said = stream.request.scheme;
    if seen.connection && request::drop_nominated(&mut stream.request.headers).is_err() {
        return Err(LocalReply::text(
            StatusCode::BAD_REQUEST,
            "http1.connection_header_rejected",
            "Bad Request",
        )
        .flag(ResponseFlag::DownstreamProtocolError)
        .closing());
    }
    if target::to_origin_form(&mut stream.request).is_err() {
        manager
            .stats
            .inc(http_stats::downstream_rq_non_relative_path);
        return Err(
            LocalReply::empty(StatusCode::NOT_FOUND, "absolute_path_rejected")
                .flag(ResponseFlag::NoRouteFound),
        );
    }
    check_host(stream)?;
    if seen.underscore {
        mind_underscores(stream, manager)?;
    }
    if !manager.path.is_noop() {
        normalize_path(stream, manager)?;
    }
    target::plain_host(&mut stream.request.headers, manager, &session.info.local);
    let worker = session.worker();
    stream.origin = request::prepare(
        &mut stream.request.headers,
        seen,
        upgrade.is_some(),
        manager,
        &session.peer,
        session.info.tls.as_ref(),
        || worker.random(),
    );
    if let Some(scheme) = said.filter(|_| manager.scheme.is_none()) {
        stream.origin.scheme = scheme;
    }
    if let Some(ip) = stream.origin.remote {
        stream.info.downstream_remote = Some(std::net::SocketAddr::new(ip, 0).into());
    }
    let found = find_route(stream, manager);
    check_upgrade(stream, found, upgrade.as_ref())?;
    Ok((seen, upgrade, found))
}

/// Where there is no route, that is what the client is told, not that it may not
/// upgrade.
fn check_upgrade(
    stream: &mut Stream,
    found: Found,
    upgrade: Option<&Upgrade>,
) -> Result<(), LocalReply> {
    let (Some(upgrade), Found::Route) = (upgrade, found) else {
        return Ok(());
    };
    let manager = stream.manager();
    if !upgrade.is_allowed(stream.route.as_ref(), manager) {
        let stats = &manager.stats;
        stats.inc(http_stats::downstream_rq_ws_on_non_ws_route);
        return Err(LocalReply::empty(StatusCode::FORBIDDEN, "upgrade_failed").closing());
    }
    stream.upgrades();
    Ok(())
}

/// Refuses the request where there is too much to do.
fn shed(stream: &Stream, manager: &ConnectionManager) -> Result<(), LocalReply> {
    let session = &stream.session;
    let overload = &stream.managed.chain().listener.overload;
    let random = || session.worker().random();
    if overload.http2_server_go_away_on_dispatch.sheds(random) {
        session.close();
    }
    if !session.is_http2() && overload.http1_server_abort_dispatch.sheds(random) {
        manager.stats.inc(http_stats::downstream_rq_overload_close);
        let reply = LocalReply::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "overload",
            "Internal Server Error",
        );
        return Err(reply.flag(ResponseFlag::DownstreamProtocolError).closing());
    }
    let point = &overload.http_connection_manager_decode_headers;
    if point.sheds(random) || overload.stop_accepting_requests.happens(random) {
        manager.stats.inc(http_stats::downstream_rq_overload_close);
        return Err(overloaded());
    }
    Ok(())
}

fn overloaded() -> LocalReply {
    LocalReply::text(
        StatusCode::SERVICE_UNAVAILABLE,
        "overload",
        "envoy overloaded",
    )
}

fn check_version(stream: &mut Stream, manager: &ConnectionManager) -> Result<(), LocalReply> {
    if stream.request.version != Version::HTTP_10 {
        return Ok(());
    }
    if !manager.http1.accept_http_10 {
        let reply = LocalReply::text(
            StatusCode::UPGRADE_REQUIRED,
            "low_version",
            "Upgrade Required",
        );
        return Err(reply.closing());
    }
    if let Some(host) = &manager.http1.default_host {
        let headers = &mut stream.request.headers;
        headers.insert_if_absent(header::HOST, || host.clone());
    }
    Ok(())
}

/// A request has one host; what to make of two, each proxy on its way would
/// decide for itself (RFC 9112, 3.2).
fn check_host(stream: &Stream) -> Result<(), LocalReply> {
    let headers = &stream.request.headers;
    let mut hosts = headers.get_all(header::HOST);
    let details = match (hosts.next(), hosts.next()) {
        (Some(_), None) => return Ok(()),
        (None, _) => "missing_host_header",
        (Some(_), Some(_)) => "http1.codec_error",
    };
    Err(LocalReply::empty(StatusCode::BAD_REQUEST, details)
        .flag(ResponseFlag::DownstreamProtocolError)
        .closing())
}

fn mind_underscores(stream: &mut Stream, manager: &ConnectionManager) -> Result<(), LocalReply> {
    let headers = &mut stream.request.headers;
    if manager.common.underscores == Underscores::Reject {
        return Err(LocalReply::text(
            StatusCode::BAD_REQUEST,
            "http1.unexpected_underscore",
            "Bad Request",
        )
        .flag(ResponseFlag::DownstreamProtocolError)
        .closing());
    }
    let names: Vec<_> = headers
        .keys()
        .filter(|n| n.as_str().contains('_'))
        .cloned()
        .collect();
    names.iter().for_each(|name| drop(headers.remove(name)));
    Ok(())
}

fn normalize_path(stream: &mut Stream, manager: &ConnectionManager) -> Result<(), LocalReply> {
    let bad = || {
        manager
            .stats
            .inc(http_stats::downstream_rq_failed_path_normalization);
        LocalReply::empty(StatusCode::BAD_REQUEST, "path_normalization_failed")
    };
    let old = stream
        .request
        .uri
        .path_and_query()
        .map_or("/", |p| p.as_str());
    match path::normalize(old, manager.path) {
        Normalized::Reject => Err(bad()),
        Normalized::Redirect(location) => {
            manager
                .stats
                .inc(http_stats::downstream_rq_redirected_with_normalized_path);
            let mut reply = LocalReply::redirect(StatusCode::TEMPORARY_REDIRECT, &location);
            reply.details = "path_normalization_failed".into();
            Err(reply)
        }
        Normalized::Path(std::borrow::Cow::Borrowed(_)) => Ok(()),
        Normalized::Path(std::borrow::Cow::Owned(new)) => {
            target::set_path(&mut stream.request, new).map_err(|()| bad())
        }
    }
}

fn find_route(stream: &mut Stream, manager: &ConnectionManager) -> Found {
    let session = stream.session.clone();
    let Some(table) = session.routes(manager, || stream.view()) else {
        return Found::Nothing;
    };
    if !stream.origin.internal {
        for name in table.internal_only_headers() {
            stream.request.headers.remove(name);
        }
    }
    match table.find(&stream.view(), session.worker().random()) {
        Outcome::Found(index) => {
            let route = RouteHandle::new(table, index);
            stream.info.route = Some(route.clone());
            stream.route = Some(route);
            Found::Route
        }
        Outcome::TlsRequired(_) => Found::TlsRequired,
        Outcome::NoVirtualHost | Outcome::NoRoute(_) => Found::Nothing,
    }
}

/// Does what a route does by itself; forwarding is left to the router.
fn act(stream: &mut Stream, found: Found) -> Result<(), LocalReply> {
    let managed = stream.managed.clone();
    let stats = &managed.manager().router_stats;
    stats.inc(router_stats::rq_total);
    let handle = match (found, stream.route.clone()) {
        (Found::TlsRequired, _) => {
            stats.inc(router_stats::rq_direct_response);
            let location = https_location(&stream.view());
            let status = StatusCode::MOVED_PERMANENTLY;
            return Err(LocalReply::redirect(status, &location));
        }
        (Found::Route, Some(handle)) => handle,
        (Found::Route, None) | (Found::Nothing, _) => {
            stats.inc(router_stats::no_route);
            let reply = LocalReply::empty(StatusCode::NOT_FOUND, "route_not_found");
            return Err(reply.flag(ResponseFlag::NoRouteFound));
        }
    };
    let route = handle.route();
    match &route.action {
        Action::Forward(_) => Ok(()),
        Action::Redirect(redirect) => {
            // Envoy counts it as an answer of its own, and none as `rq_redirect`.
            stats.inc(router_stats::rq_direct_response);
            let location = route.location(redirect, &stream.view());
            Err(LocalReply::redirect(redirect.status, &location))
        }
        Action::DirectResponse(direct) => {
            stats.inc(router_stats::rq_direct_response);
            Err(direct_reply(stream, direct))
        }
        Action::NonForwarding => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let reply = LocalReply::empty(status, "cluster_not_found");
            Err(reply.flag(ResponseFlag::NoClusterFound))
        }
    }
}

fn direct_reply(stream: &Stream, direct: &DirectResponse) -> LocalReply {
    let mut reply = LocalReply::empty(direct.status, "direct_response");
    reply.body = direct.body.clone();
    if let Some((format, content_type)) = &direct.format {
        let mut context = stream.context(HeaderView::Absent);
        context.local_reply_body = std::str::from_utf8(&direct.body).unwrap_or_default();
        let mut body = Vec::new();
        format.write(&mut body, &context);
        reply.body = body.into();
        if let Ok(value) = HeaderValue::from_str(content_type) {
            return reply.header(header::CONTENT_TYPE, value);
        }
    }
    reply
}

/// Sends an answer of this proxy's own.
fn answer(mut stream: Box<Stream>, mut reply: LocalReply) -> Response {
    if let Some(flag) = reply.flag {
        stream.flag(flag);
    }
    stream.info.response_code_details = Some(std::mem::take(&mut reply.details));
    // The rules see neither the status nor what describes the body, as in Envoy.
    let mut head = ResponseHead {
        status: reply.status,
        headers: reply.take_headers(),
        ..ResponseHead::default()
    };
    if let Some(route) = stream.route.clone()
        && route.rewrites_responses(None)
    {
        let context = stream.context(HeaderView::Absent);
        route.rewrite_response(reply.status, &mut head.headers, None, &context);
    }
    let content_type = stream.request.headers.get(header::CONTENT_TYPE);
    match content_type.is_some_and(|value| is_grpc_content_type(value.as_bytes())) {
        true => reply.describe_as_grpc(&mut head.headers),
        false => reply.describe_body(&mut head.headers),
    }
    head.status = reply.status;
    stream.info.response_code = Some(head.status);
    stream.filter_response(&mut head);
    let connect = stream.request.method == Method::CONNECT;
    // As Envoy, rather than read on for a body that nobody wants.
    if (reply.close || connect || !stream.request_received) && !stream.session.is_http2() {
        stream.session.close();
    }
    if !stream.request_received {
        stream
            .manager()
            .stats
            .inc(http_stats::downstream_rq_response_before_rq_complete);
    }
    let source = match reply.body.is_empty() || stream.request.method == Method::HEAD {
        true => Source::Empty,
        false => Source::Full(reply.body),
    };
    respond(stream, head, source)
}

/// Passes an upstream's response on.
fn pass_on(
    mut stream: Box<Stream>,
    mut head: ResponseHead,
    source: Source,
    upgrade: Option<Upgrade>,
) -> Response {
    stream.filter_response(&mut head);
    match upgrade {
        Some(upgrade) if upgrade.is_accepted_by(head.status) => {
            if upgrade.kind() == Kind::Connect {
                // What follows has no length (RFC 9110, 9.3.6).
                head.headers.remove(header::CONTENT_LENGTH);
            } else if !stream.session.is_http2() {
                upgrade::complete_answer(&stream.request.headers, &mut head.headers);
            }
            finish_headers(&mut stream, &mut head.headers, true);
            stream.responds(head.status, &head.headers);
            if stream.session.is_http2() {
                upgrade::into_accepted(&mut head.status, &mut head.headers);
            }
            let body = ResponseBody::tunnel(Tunnel::new(stream, source));
            Response { head, body }
        }
        _ if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            let reply = LocalReply::empty(StatusCode::BAD_GATEWAY, "protocol_error");
            answer(stream, reply)
        }
        upgrade => {
            let connect = upgrade.is_some_and(|upgrade| upgrade.kind() == Kind::Connect);
            if connect && !stream.session.is_http2() {
                // The client may have begun to speak into the tunnel.
                stream.session.close();
            }
            respond(stream, head, source)
        }
    }
}

fn finish_headers(stream: &mut Stream, headers: &mut Headers, upgrade: bool) {
    let now = stream.info.timing.first_upstream_rx;
    let now = now.unwrap_or_else(std::time::Instant::now);
    stream.info.timing.first_downstream_tx = Some(now);
    let date = stream.session.worker().clock.date(now);
    let managed = stream.managed.clone();
    let manager = managed.manager();
    response::finish(
        headers,
        upgrade,
        manager,
        date,
        stream.response_request_id(),
    );
    if !stream.session.is_http2() && !upgrade && stream.session.should_close(manager) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else if stream.session.is_http2() {
        // Asks the connection to go away, if it is time.
        stream.session.should_close(manager);
    }
}

fn respond(mut stream: Box<Stream>, mut head: ResponseHead, source: Source) -> Response {
    finish_headers(&mut stream, &mut head.headers, false);
    stream.responds(head.status, &head.headers);
    let head_request = stream.request.method == Method::HEAD;
    let body = match source {
        Source::Empty if head_request => ResponseBody::bodiless(stream),
        source => ResponseBody::new(source, stream),
    };
    Response { head, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F: std::future::Future>(
        _: fn(Rc<Session>, RequestHead, RequestBody) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_is_small_while_it_waits() {
        fn call(
            session: Rc<Session>,
            parts: RequestHead,
            body: RequestBody,
        ) -> impl Future<Output = Result<Response, StreamError>> {
            handle(session, parts, body)
        }
        // Moved once into the connection's place for it; kept for each stream of HTTP/2.
        let size = size_of_future(call);
        assert!(size <= 2048, "the future of a request has {size} bytes");
        let size = size_of::<ResponseBody>();
        assert!(size <= 256, "the body of a response has {size} bytes");
        let size = size_of::<Stream>();
        assert!(size <= 1664, "a stream has {size} bytes");
    }
}
