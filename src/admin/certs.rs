//! `/certs`: the certificates in force, and how long each is still good.

use std::{
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
    vec::IntoIter,
};

use prost_types::Timestamp;

use crate::{
    api::envoy::admin::v3 as pb,
    model::listener::Transport,
    net::tls::{Certificate, CertificateFacts, SubjectName, Validation},
};

use super::{
    State,
    answer::{Answer, JSON, Parts},
    json::{self, Defaults},
    request::Request,
};

/// The authorities and one certificate of a TLS context.
#[derive(Default)]
struct InForce {
    authorities: Option<Arc<Validation>>,
    certificate: Option<Arc<Certificate>>,
}

impl InForce {
    fn authorities(&self) -> &[CertificateFacts] {
        self.authorities.as_ref().map_or(&[], |v| v.facts())
    }

    fn chain(&self) -> &[CertificateFacts] {
        self.certificate.as_ref().map_or(&[], |c| &c.facts)
    }
}

pub(super) fn answer(state: &Rc<State>, _: &Request) -> Answer {
    let listing = Listing {
        certificates: all(state).into_iter(),
        begun: false,
        done: false,
    };
    Answer::parts(JSON, listing)
}

/// When the first of all certificates in force ends, for
/// `server.days_until_first_cert_expiring`.
pub fn first_expiry(state: &State) -> Option<SystemTime> {
    let all = all(state);
    let facts = all
        .iter()
        .flat_map(|one| one.authorities().iter().chain(one.chain()));
    facts.map(|facts| facts.expiration).min()
}

fn all(state: &State) -> Vec<InForce> {
    let snapshot = state.snapshot.load();
    let mut all = Vec::new();
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    for tls in clusters
        .into_iter()
        .flat_map(|cluster| cluster.transports.all())
        .filter_map(|transport| transport.tls())
    {
        let (authorities, certificate) = tls.in_force();
        all.push(InForce {
            authorities,
            certificate,
        });
    }
    let mut listeners: Vec<_> = snapshot.listeners.values().collect();
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    for chain in listeners
        .into_iter()
        .flat_map(|listener| listener.filter_chains.all())
    {
        if let Transport::Tls(tls) = &chain.transport {
            let (authorities, certificates) = tls.in_force();
            all.extend(certificates.into_iter().map(|certificate| InForce {
                authorities: authorities.clone(),
                certificate: Some(certificate),
            }));
        }
    }
    all.retain(|one| !one.authorities().is_empty() || !one.chain().is_empty());
    all
}

struct Listing {
    certificates: IntoIter<InForce>,
    begun: bool,
    done: bool,
}

impl Parts for Listing {
    fn write_next(&mut self, out: &mut String) -> bool {
        if self.done {
            return false;
        }
        match self.certificates.next() {
            Some(one) => {
                out.push_str(match self.begun {
                    false => "{\n \"certificates\": [\n  ",
                    true => ",\n  ",
                });
                self.begun = true;
                json::write(out, &json::reflect(&certificate(&one)), 2, Defaults::Print);
            }
            None => {
                out.push_str(match self.begun {
                    false => "{\n \"certificates\": []\n}\n",
                    true => "\n ]\n}\n",
                });
                self.done = true;
            }
        }
        true
    }
}

fn certificate(one: &InForce) -> pb::Certificate {
    let details = |facts: &[CertificateFacts]| facts.iter().cloned().map(details).collect();
    pb::Certificate {
        ca_cert: details(one.authorities()),
        cert_chain: details(one.chain()),
    }
}

fn details(facts: CertificateFacts) -> pb::CertificateDetails {
    use pb::subject_alternate_name::Name;
    let days = facts.days_until_expiration(SystemTime::now());
    let CertificateFacts {
        path,
        serial_number,
        // The API has no place for it.
        common_name: _,
        mut names,
        valid_from,
        expiration,
    } = facts;
    // By kind, as Envoy lists them.
    names.sort_by_key(|name| match name {
        SubjectName::Dns(_) => 0,
        SubjectName::Uri(_) => 1,
        SubjectName::Ip(_) => 2,
        SubjectName::Email(_) | SubjectName::Other { .. } => 3,
    });
    let names = names.into_iter().filter_map(|name| match name {
        SubjectName::Dns(name) => Some(Name::Dns(name)),
        SubjectName::Uri(name) => Some(Name::Uri(name)),
        SubjectName::Ip(ip) => Some(Name::IpAddress(ip.to_string())),
        // The API has no place for it.
        SubjectName::Email(_) | SubjectName::Other { .. } => None,
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
