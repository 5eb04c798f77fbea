//! `/certs`: the certificates in force, and how long each is still good.

use std::{
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;

use crate::{
    api::envoy::admin::v3 as pb,
    model::listener::Transport,
    net::tls::{CertificateFacts, SubjectName},
};

use super::{
    State,
    answer::Answer,
    json::{self, Defaults},
    request::Request,
};

/// The authorities and the chain of one TLS context.
type Facts = (Vec<CertificateFacts>, Vec<CertificateFacts>);

pub(super) fn answer(state: &Rc<State>, _: &Request) -> Answer {
    let message = pb::Certificates {
        certificates: all(state).into_iter().map(certificate).collect(),
    };
    Answer::json(json::document(&message, Defaults::Print))
}

/// When the first of all certificates in force ends, for
/// `server.days_until_first_cert_expiring`.
pub fn first_expiry(state: &State) -> Option<SystemTime> {
    let all = all(state).into_iter();
    let facts = all.flat_map(|(authorities, chain)| authorities.into_iter().chain(chain));
    facts.map(|facts| facts.expiration).min()
}

fn all(state: &State) -> Vec<Facts> {
    let snapshot = state.snapshot.load();
    let mut all = Vec::new();
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    for cluster in clusters {
        all.extend(cluster.transport.tls().map(|tls| tls.facts()));
    }
    let mut listeners: Vec<_> = snapshot.listeners.values().collect();
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    for chain in listeners
        .into_iter()
        .flat_map(|listener| listener.filter_chains.all())
    {
        if let Transport::Tls(tls) = &chain.transport {
            let (authorities, chains) = tls.facts();
            all.extend(chains.into_iter().map(|chain| (authorities.clone(), chain)));
        }
    }
    all.retain(|(authorities, chain)| !authorities.is_empty() || !chain.is_empty());
    all
}

fn certificate((authorities, chain): Facts) -> pb::Certificate {
    let details = |facts: Vec<CertificateFacts>| facts.into_iter().map(details).collect();
    pb::Certificate {
        ca_cert: details(authorities),
        cert_chain: details(chain),
    }
}

fn details(facts: CertificateFacts) -> pb::CertificateDetails {
    use pb::subject_alternate_name::Name;
    let days = facts.days_until_expiration(SystemTime::now());
    let CertificateFacts {
        path,
        serial_number,
        mut names,
        valid_from,
        expiration,
    } = facts;
    // By kind, as Envoy lists them.
    names.sort_by_key(|name| match name {
        SubjectName::Dns(_) => 0,
        SubjectName::Uri(_) => 1,
        SubjectName::Ip(_) => 2,
        SubjectName::Email(_) => 3,
    });
    let names = names.into_iter().filter_map(|name| match name {
        SubjectName::Dns(name) => Some(Name::Dns(name)),
        SubjectName::Uri(name) => Some(Name::Uri(name)),
        SubjectName::Ip(ip) => Some(Name::IpAddress(ip.to_string())),
        // The API has no place for it.
        SubjectName::Email(_) => None,
    });
    pb::CertificateDetails {
        path,
        serial_number,
        subject_alt_names: names
            .map(|name| pb::SubjectAlternateName { name: Some(name) })
            .collect(),
        days_until_expiration: days,
        valid_from: Some(timestamp(valid_from)),
        expiration_time: Some(timestamp(expiration)),
        ocsp_details: None,
    }
}

/// A time in whole seconds, which may be before 1970.
fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs().cast_signed(),
        Err(before) => -before.duration().as_secs().cast_signed(),
    };
    Timestamp { seconds, nanos: 0 }
}
