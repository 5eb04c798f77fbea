//! `/certs`: the certificates in force, and how long each is still good.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
    vec::IntoIter,
};

use prost_types::Timestamp;

use crate::{
    api::envoy::admin::v3 as pb,
    model::listener::Transport,
    net::tls::{Certificate, CertificateFacts, InForce, Named, SslStats, SubjectName, Validation},
    stats::Block,
};

use super::{
    State,
    answer::{Answer, JSON, Parts},
    json::{self, Defaults},
    request::Request,
};

crate::stat_table! {
    /// `….ssl.certificate.NAME.`
    mod certificate_stats {
        counters {}
        gauges { expiration_unix_time_seconds }
        histograms {}
        texts {}
    }
}

/// What Envoy calls a certificate, and a list of authorities, that comes from no
/// secret: the hash at its end is that of no bytes.
const UNNAMED: [&str; 2] = ["unnamed_cert_e3b0c442", "unnamed_ca_cert_e3b0c442"];

/// The authorities and one certificate of a TLS context.
struct Entry {
    authorities: Option<Arc<Validation>>,
    certificate: Option<Arc<Certificate>>,
}

impl Entry {
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

/// Writes the gauges that tell when each certificate ends; of several that have one
/// name, the first to end counts.
pub(super) fn refresh_gauges(state: &State) {
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    each_context(
        state,
        |stats,
         InForce {
             authorities,
             certificates,
         }| {
            let mut note = |name: Option<&str>, unnamed: &str, facts: Option<&CertificateFacts>| {
                let Some(facts) = facts else { return };
                let end = facts.expiration.duration_since(UNIX_EPOCH);
                let end = end.unwrap_or_default().as_secs();
                let name = name.unwrap_or(unnamed);
                let prefix = format!("{}certificate.{name}.", stats.block().prefix());
                let known = ends.entry(prefix).or_insert(end);
                *known = end.min(*known);
            };
            let [unnamed, unnamed_authorities] = UNNAMED;
            for Named { name, part } in certificates {
                note(name.as_deref(), unnamed, part.facts.first());
            }
            if let Some(Named { name, part }) = authorities {
                let first = part.facts().iter().min_by_key(|facts| facts.expiration);
                note(name.as_deref(), unnamed_authorities, first);
            }
        },
    );
    let gauges = ends.into_iter().map(|(prefix, end)| {
        let block = state.stats.block(&prefix, &certificate_stats::TABLE);
        block.gauge_set(certificate_stats::expiration_unix_time_seconds, end);
        block
    });
    // Those of before are held until here, so that what stays is not made anew.
    let gauges: Vec<Arc<Block>> = gauges.collect();
    state.certificate_gauges.replace(gauges);
}

/// Shows every TLS context, those of clusters first, with its stats.
fn each_context(state: &State, mut show: impl FnMut(&SslStats, InForce)) {
    let snapshot = state.snapshot.load();
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    for tls in clusters
        .into_iter()
        .flat_map(|cluster| cluster.transports.all())
        .filter_map(|transport| transport.tls())
    {
        show(tls.stats(), tls.in_force());
    }
    let mut listeners: Vec<_> = snapshot.listeners.values().collect();
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    for chain in listeners
        .into_iter()
        .flat_map(|listener| listener.filter_chains.all())
    {
        if let Transport::Tls(tls) = &chain.transport {
            show(tls.stats(), tls.in_force());
        }
    }
}

fn all(state: &State) -> Vec<Entry> {
    let mut all = Vec::new();
    each_context(
        state,
        |_,
         InForce {
             authorities,
             certificates,
         }| {
            let authorities = authorities.map(|authorities| authorities.part);
            if certificates.is_empty() {
                all.push(Entry {
                    authorities: authorities.clone(),
                    certificate: None,
                });
            }
            all.extend(certificates.into_iter().map(|certificate| Entry {
                authorities: authorities.clone(),
                certificate: Some(certificate.part),
            }));
        },
    );
    all.retain(|one| !one.authorities().is_empty() || !one.chain().is_empty());
    all
}

struct Listing {
    certificates: IntoIter<Entry>,
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

fn certificate(one: &Entry) -> pb::Certificate {
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
