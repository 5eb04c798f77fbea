//! A request's way through the connection manager.

use std::{rc::Rc, time::Duration};

use http::{HeaderValue, Method, StatusCode, header};

use super::{
    LocalReply, RequestBody, ResponseBody, StreamError,
    admit::{Found, admit, check_upgrade, find_route, overloaded},
    filters::{Passing, router},
    interim::Interim,
    response,
    response_body::Source,
    session::Session,
    stats::{http_stats, router_stats},
    stream::Stream,
    upgrade::{self, Kind, Tunnel, Upgrade},
};
use crate::{
    api::envoy::data::accesslog::v3::AccessLogType,
    codec::{Headers, RequestHead, ResponseHead},
    formatter::{HeaderView, ResponseFlag, is_grpc_content_type},
    model::route::{Action, DirectResponse, https_location},
};

/// The answer to a request.
pub(super) struct Response {
    /// Its head.
    pub head: ResponseHead,
    /// Its body, and with it the rest of the stream's life.
    pub body: ResponseBody,
    /// [`Stream::flush_timeout`].
    pub flush_timeout: Option<Duration>,
}

/// Serves one request, for a client that hears of interim responses by `client`. The
/// body of the response may turn out to be a tunnel, which
/// the codec takes out and runs ([`ResponseBody::take_tunnel`]).
///
/// # Errors
/// When there is nothing left but to cut the stream.
pub(super) async fn handle(
    session: Rc<Session>,
    parts: RequestHead,
    mut body: RequestBody,
    client: &Interim<'_>,
) -> Result<Response, StreamError> {
    let own = session.current();
    let (managed, misdirected) = match session.chain_of(&own, &parts) {
        Ok(managed) => (managed, None),
        Err(reply) => (own, Some(reply)),
    };
    let mut stream = Stream::begin(session, managed, parts);
    stream.request_received = body.is_received();
    if stream.request_received {
        stream.request_deadline = None;
        stream.info.timing.last_downstream_rx = Some(stream.info.start);
    }
    if let Some(reply) = misdirected {
        return Ok(answer(stream, reply));
    }
    let (seen, upgrade, mut found) = match admit(&mut stream) {
        Ok(admitted) => admitted,
        Err(reply) => return Ok(answer(stream, reply)),
    };
    if upgrade.is_some() && !stream.session.is_http2() {
        // What follows the head belongs to the tunnel, whatever the head says of it.
        body = RequestBody::empty();
    }
    if !stream.filters().is_empty()
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
    match router::forward(&mut stream, body, tunnel, seen.has_envoy(), client).await {
        Ok((head, source)) => Ok(pass_on(stream, head, source, upgrade)),
        Err(reply) => Ok(answer(stream, reply)),
    }
}

/// Answers what is no request that can be handled.
pub(super) fn refuse(session: Rc<Session>, reply: LocalReply) -> Response {
    answer(headless(session), reply)
}

/// Notes that the client has left before its request's head was there.
pub(super) fn left_in_head(session: Rc<Session>) {
    drop(headless(session));
}

fn headless(session: Rc<Session>) -> Box<Stream> {
    let managed = session.current();
    let mut stream = Stream::begin(session, managed, RequestHead::default());
    stream.headless = true;
    stream
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
        if let Err(reply) = check_upgrade(stream, *found, upgrade) {
            stream.passing = Some(passing);
            return Err(reply);
        }
        if *found == Found::Route {
            // The route may say something to filters that have been passed.
            passing = Box::new(Passing::new(stream));
        }
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
        context.local_reply_body = &direct.body;
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
    let invalid = reply.flag == Some(ResponseFlag::DownstreamProtocolError);
    if let Some(flag) = reply.flag.filter(|_| !invalid) {
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
    reply.settle_content_type(&mut head.headers);
    stream.info.response_code = Some(reply.status);
    let managed = stream.managed.clone();
    if let Some(config) = &managed.manager().local_replies {
        config.rewrite(&mut stream, &mut reply, &mut head.headers);
    }
    if invalid {
        // As in Envoy, whose codec says so once it has answered.
        stream.flag(ResponseFlag::DownstreamProtocolError);
    }
    let content_type = stream.request.headers.get(header::CONTENT_TYPE);
    match content_type.is_some_and(|value| is_grpc_content_type(value.as_bytes())) {
        true => {
            let bodiless = stream.request.method == Method::HEAD;
            reply.describe_as_grpc(&mut head.headers, bodiless);
        }
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
    let stats = &stream.manager().stats;
    if invalid {
        stats.inc(http_stats::downstream_cx_protocol_error);
    }
    if invalid || !stream.request_received {
        stats.inc(http_stats::downstream_rq_response_before_rq_complete);
        if !stream.session.is_http2() {
            stats.inc(http_stats::downstream_rq_rx_reset);
        }
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
            if stream.manager().log_options.on_tunnel {
                stream.log(AccessLogType::DownstreamTunnelSuccessfullyEstablished);
            }
            if stream.session.is_http2() {
                upgrade::into_accepted(&mut head.status, &mut head.headers);
            }
            let body = ResponseBody::tunnel(Tunnel::new(stream, source));
            Response {
                head,
                body,
                flush_timeout: None,
            }
        }
        _ if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            let reply = LocalReply::empty(StatusCode::BAD_GATEWAY, "protocol_error");
            answer(stream, reply)
        }
        upgrade => {
            if upgrade.is_some() && !stream.session.is_http2() {
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
    let flush_timeout = stream.flush_timeout();
    let body = match source {
        Source::Empty if head_request => ResponseBody::bodiless(stream),
        source => ResponseBody::new(source, stream),
    };
    Response {
        head,
        body,
        flush_timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F: std::future::Future>(
        _: fn(Rc<Session>, RequestHead, RequestBody, &'static Interim<'static>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_is_small_while_it_waits() {
        fn call(
            session: Rc<Session>,
            parts: RequestHead,
            body: RequestBody,
            client: &'static Interim<'static>,
        ) -> impl Future<Output = Result<Response, StreamError>> {
            handle(session, parts, body, client)
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
