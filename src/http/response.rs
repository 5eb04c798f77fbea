//! What the connection manager does to a response before it is sent.

use http::{HeaderValue, header};

use super::{
    config::{ConnectionManager, ServerHeader},
    names,
    request::append,
};
use crate::codec::Headers;

/// Applies `ConnectionManagerUtility::mutateResponseHeaders` and the base
/// headers. `upgrade` says that this response accepts one.
pub fn finish(
    headers: &mut Headers,
    upgrade: bool,
    manager: &ConnectionManager,
    date: HeaderValue,
    request_id: Option<&HeaderValue>,
) {
    drop_hop_headers(headers, upgrade);
    headers.insert_if_absent(header::DATE, || date);
    match manager.server_header {
        ServerHeader::Overwrite => {
            headers.insert(header::SERVER, manager.server_name.clone());
        }
        ServerHeader::AppendIfAbsent => {
            headers.insert_if_absent(header::SERVER, || manager.server_name.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(id) = request_id {
        headers.insert(names::X_REQUEST_ID, id.clone());
    }
    if let Some(via) = &manager.via {
        append(headers, header::VIA, via, b", ");
    }
}

/// Removes what concerns the host's connection alone.
pub fn drop_hop_headers(headers: &mut Headers, upgrade: bool) {
    let (mut connection, mut upgrades, mut hop) = (false, false, false);
    for name in headers.keys() {
        match name.as_str().as_bytes()[0] {
            b'c' => connection |= *name == header::CONNECTION,
            b'u' => upgrades |= *name == header::UPGRADE,
            b't' | b'k' | b'p' => {
                hop |= *name == header::TRANSFER_ENCODING
                    || *name == names::KEEP_ALIVE
                    || *name == names::PROXY_CONNECTION;
            }
            _ => {}
        }
    }
    if connection && !upgrade {
        headers.remove(header::CONNECTION);
    }
    if upgrades && !upgrade {
        headers.remove(header::UPGRADE);
    }
    if hop {
        headers.remove(header::TRANSFER_ENCODING);
        headers.remove(names::KEEP_ALIVE);
        headers.remove(names::PROXY_CONNECTION);
    }
}
