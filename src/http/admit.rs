//! Whether a request may come in, and in which form: what is checked, made plain and
//! added before it is led through the filters, and which route it takes.

use std::time::Instant;

use http::{Method, StatusCode, Version, header};

use super::{
    LocalReply,
    config::{ConnectionManager, DetectionFailed, protocol::Underscores},
    path::{self, Normalized},
    request::{self, Seen},
    stats::http_stats,
    stream::Stream,
    strict, target,
    upgrade::{self, Upgrade},
};
use crate::{
    api::envoy::data::accesslog::v3::AccessLogType,
    codec::{RequestHead, stats::http1_stats},
    formatter::{HeaderView, RequestView, ResponseFlag},
    model::{
        http1::Http1Options,
        route::{Outcome, RouteHandle},
    },
    net::http2::stats::http2_stats,
};

/// What became of looking for a request's route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is the stream's.
    Route,
    /// There is none.
    Nothing,
    /// The virtual host wants https.
    TlsRequired,
}

/// Checks and prepares a request, and finds its route.
pub(super) fn admit(stream: &mut Stream) -> Result<(Seen, Option<Upgrade>, Found), LocalReply> {
    let managed = stream.managed.clone();
    let manager = managed.manager();
    let session = stream.session.clone();
    let seen = Seen::of(&stream.request.headers, manager.minds_underscores());
    let http1 = (!session.is_http2()).then_some(&manager.http1);
    if seen.connection
        && let Some(http1) = http1
    {
        upgrade::drop_ignored(&mut stream.request.headers, &http1.ignored_upgrades);
    }
    let upgrade = match seen.connection || stream.request.method == Method::CONNECT {
        true => upgrade::requested(&stream.request),
        false => None,
    };
    if let Some(http1) = http1 {
        set_default_host(&mut stream.request, http1);
        strict::check(&stream.request, http1)?;
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
    let taken =
        http1.is_none_or(|http1| http1.absolute_targets || stream.request.uri.scheme().is_none());
    if !taken {
        check_host(stream)?;
    }
    if !taken || target::to_origin_form(&mut stream.request).is_err() {
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
    let (seen, upgrade) = match manager.early_mutations.is_empty() {
        true => (seen, upgrade),
        false => mutate(stream, manager),
    };
    let worker = session.worker();
    stream.origin = request::prepare(
        &mut stream.request.headers,
        seen,
        upgrade.is_some(),
        manager,
        &session.peer,
        session.info.tls.as_ref(),
        || worker.random(),
    )
    .map_err(|DetectionFailed(status)| {
        let stats = &manager.stats;
        stats.inc(http_stats::downstream_rq_rejected_via_ip_detection);
        LocalReply::empty(status, "rejecting_because_detection_failed")
    })?;
    if let Some(scheme) = said.filter(|_| manager.scheme.is_none()) {
        stream.origin.scheme = scheme;
    }
    if let Some(ip) = stream.origin.remote {
        stream.info.downstream_remote = Some(std::net::SocketAddr::new(ip, 0).into());
    }
    let found = find_route(stream, manager);
    if let Some(upgrade) = &upgrade {
        stream.upgrade_filters = upgrade.own_filters(stream.route.as_ref(), manager);
    }
    if manager.log_options.on_request {
        stream.log(AccessLogType::DownstreamStart);
    }
    check_upgrade(stream, found, upgrade.as_ref())?;
    Ok((seen, upgrade, found))
}

/// Changes a request's headers before they are looked at, and looks.
fn mutate(stream: &mut Stream, manager: &ConnectionManager) -> (Seen, Option<Upgrade>) {
    let mut head = std::mem::take(&mut stream.request);
    let scheme = stream.origin.scheme;
    let mut context = stream.context(HeaderView::Absent);
    context.request = RequestView {
        scheme,
        ..RequestView::default()
    };
    manager.early_mutations.apply(&mut head, &context);
    let seen = Seen::of(&head.headers, false);
    let upgrade = upgrade::requested(&head);
    stream.request = head;
    (seen, upgrade)
}

/// Where there is no route, that is what the client is told, not that it may not
/// upgrade.
pub(super) fn check_upgrade(
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

pub(super) fn overloaded() -> LocalReply {
    LocalReply::text(
        StatusCode::SERVICE_UNAVAILABLE,
        "overload",
        "envoy overloaded",
    )
}

fn set_default_host(request: &mut RequestHead, options: &Http1Options) {
    if request.version == Version::HTTP_10
        && let Some(host) = &options.default_host
    {
        let headers = &mut request.headers;
        headers.insert_if_absent(header::HOST, || host.clone());
    }
}

/// A request has one host; what to make of two, each proxy on its way would
/// decide for itself (RFC 9112, 3.2).
fn check_host(stream: &Stream) -> Result<(), LocalReply> {
    let headers = &stream.request.headers;
    let mut hosts = headers.get_all(header::HOST);
    let bad = |details| LocalReply::empty(StatusCode::BAD_REQUEST, details);
    Err(match (hosts.next(), hosts.next()) {
        (Some(_), None) => return Ok(()),
        (None, _) => {
            let reply = bad("missing_host_header");
            match stream.manager().http1.goes_on {
                Some(true) => reply,
                Some(false) | None => reply.closing(),
            }
        }
        (Some(_), Some(_)) => bad("http1.codec_error")
            .flag(ResponseFlag::DownstreamProtocolError)
            .closing(),
    })
}

fn mind_underscores(stream: &mut Stream, manager: &ConnectionManager) -> Result<(), LocalReply> {
    let http2 = stream.session.is_http2();
    let headers = &mut stream.request.headers;
    if manager.common.underscores == Underscores::Reject {
        match http2 {
            false => manager
                .http1_stats()
                .inc(http1_stats::requests_rejected_with_underscores_in_headers),
            true => manager
                .http2_stats()
                .inc(http2_stats::requests_rejected_with_underscores_in_headers),
        }
        return Err(LocalReply::text(
            StatusCode::BAD_REQUEST,
            "http1.unexpected_underscore",
            "Bad Request",
        )
        .flag(ResponseFlag::DownstreamProtocolError)
        .closing());
    }
    let before = headers.len();
    headers.retain(|name, _| !name.as_str().contains('_'));
    let dropped = (before - headers.len()) as u64;
    match http2 {
        false => manager
            .http1_stats()
            .add(http1_stats::dropped_headers_with_underscores, dropped),
        true => manager
            .http2_stats()
            .add(http2_stats::dropped_headers_with_underscores, dropped),
    }
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

pub(super) fn find_route(stream: &mut Stream, manager: &ConnectionManager) -> Found {
    if manager.route_resolution.is_none() {
        return resolve(stream, manager);
    }
    let began = Instant::now();
    let found = resolve(stream, manager);
    let (times, took) = &mut stream.resolution;
    *times += 1;
    *took += began.elapsed();
    found
}

fn resolve(stream: &mut Stream, manager: &ConnectionManager) -> Found {
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
