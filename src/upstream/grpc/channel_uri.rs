//! `target_uri`: where a server is, as gRPC writes it.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/naming.md>

use std::net::IpAddr;

/// The port of a server that is named without one.
const DEFAULT_PORT: u16 = 443;

/// A server's address, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetUri {
    /// Where it is.
    pub endpoints: Endpoints,
    /// Its name, for which its certificate has to be.
    pub host: String,
    /// What calls are addressed to.
    pub authority: String,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoints {
    /// DNS has to say.
    Name(String, u16),
    /// Addresses; at least one.
    Addresses(Vec<(IpAddr, u16)>),
    /// A Unix domain socket.
    Pipe(String),
}

impl TargetUri {
    /// Reads one.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub fn parse(uri: &str) -> Result<Self, String> {
        let (scheme, rest) = uri.split_once(':').unwrap_or((uri, ""));
        match scheme {
            "dns" => {
                let name = match rest.strip_prefix("//") {
                    None => rest,
                    Some(rest) => match rest.split_once('/') {
                        Some(("", name)) => name,
                        Some((server, _)) => {
                            return Err(format!(
                                "asks the DNS server {server:?}, which is not supported; \
                                 leave it out: dns:///NAME:PORT"
                            ));
                        }
                        None => return Err("names nobody; write dns:///NAME:PORT".to_owned()),
                    },
                };
                Self::of_name(name)
            }
            "ipv4" => Self::of_addresses(rest, |ip| ip.is_ipv4()),
            "ipv6" => Self::of_addresses(rest, |ip| ip.is_ipv6()),
            "unix" => Self::of_pipe(rest),
            "unix-abstract" | "vsock" => Err(unsupported(scheme)),
            _ if rest.starts_with("//") => Err(unsupported(scheme)),
            // It is the name of a host: `server:443`.
            _ => Self::of_name(uri),
        }
    }

    fn of_name(name: &str) -> Result<Self, String> {
        let (host, port) = split(name)?;
        let (host, authority) = (host.to_owned(), name.to_owned());
        Ok(Self {
            endpoints: match host.parse::<IpAddr>() {
                Ok(ip) => Endpoints::Addresses(vec![(ip, port)]),
                Err(_) => Endpoints::Name(host.clone(), port),
            },
            host,
            authority,
        })
    }

    fn of_addresses(list: &str, fits: impl Fn(&IpAddr) -> bool) -> Result<Self, String> {
        let list = list.strip_prefix("///").unwrap_or(list);
        let mut addresses = Vec::new();
        for text in list.split(',') {
            let (host, port) = split(text)?;
            let ip = host.parse::<IpAddr>().ok().filter(&fits);
            let ip = ip.ok_or_else(|| format!("{host:?} is no such address"))?;
            addresses.push((ip, port));
        }
        let first = list.split(',').next().unwrap_or_default();
        Ok(Self {
            host: addresses[0].0.to_string(),
            endpoints: Endpoints::Addresses(addresses),
            authority: first.to_owned(),
        })
    }

    fn of_pipe(path: &str) -> Result<Self, String> {
        let path = match path.strip_prefix("//") {
            Some(absolute) if absolute.starts_with('/') => absolute,
            Some(_) => return Err("is no path; write unix:///PATH or unix:PATH".to_owned()),
            None => path,
        };
        match path.is_empty() {
            true => Err("names no socket; write unix:PATH".to_owned()),
            false => Ok(Self {
                endpoints: Endpoints::Pipe(path.to_owned()),
                host: "localhost".to_owned(),
                authority: "localhost".to_owned(),
            }),
        }
    }

    /// Whether it can only be on this host.
    pub fn is_local(&self) -> bool {
        match &self.endpoints {
            Endpoints::Pipe(_) => true,
            Endpoints::Addresses(addresses) => addresses.iter().all(|(ip, _)| ip.is_loopback()),
            // RFC 6761, section 6.3.
            Endpoints::Name(name, _) => name == "localhost",
        }
    }
}

fn unsupported(scheme: &str) -> String {
    format!("{scheme}: is not supported; use dns:, ipv4:, ipv6: or unix:")
}

/// A host without brackets, and its port.
fn split(text: &str) -> Result<(&str, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or_else(|| format!("{text:?} has no closing bracket"))?;
            (host, rest.strip_prefix(':'))
        }
        None => match text.rsplit_once(':') {
            // An IPv6 address without brackets has no port.
            Some((host, _)) if host.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(format!("{text:?} names no host"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .map_err(|_| format!("{port:?} is no port of {host:?}"))?,
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn servers_are_named_as_grpc_names_them() {
        let name = |host: &str, port| Endpoints::Name(host.to_owned(), port);
        let ip = |text: &str, port| Endpoints::Addresses(vec![(text.parse().unwrap(), port)]);
        for (uri, endpoints, host, authority) in [
            ("xds:18000", name("xds", 18000), "xds", "xds:18000"),
            ("plane", name("plane", 443), "plane", "plane"),
            ("dns:plane:1", name("plane", 1), "plane", "plane:1"),
            ("dns:///plane:1", name("plane", 1), "plane", "plane:1"),
            (
                "127.0.0.1:1",
                ip("127.0.0.1", 1),
                "127.0.0.1",
                "127.0.0.1:1",
            ),
            ("[::1]:1", ip("::1", 1), "::1", "[::1]:1"),
            ("::1", ip("::1", 443), "::1", "::1"),
            ("ipv6:[::1]:1", ip("::1", 1), "::1", "[::1]:1"),
            (
                "ipv4:127.0.0.1:1,127.0.0.2:2",
                Endpoints::Addresses(vec![
                    (Ipv4Addr::LOCALHOST.into(), 1),
                    (Ipv4Addr::new(127, 0, 0, 2).into(), 2),
                ]),
                "127.0.0.1",
                "127.0.0.1:1",
            ),
            (
                "unix:///run/xds",
                Endpoints::Pipe("/run/xds".to_owned()),
                "localhost",
                "localhost",
            ),
            (
                "unix:xds",
                Endpoints::Pipe("xds".to_owned()),
                "localhost",
                "localhost",
            ),
        ] {
            let expected = TargetUri {
                endpoints,
                host: host.to_owned(),
                authority: authority.to_owned(),
            };
            assert_eq!(TargetUri::parse(uri), Ok(expected), "{uri}");
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for uri in [
            "xds:///plane:1",
            "dns://8.8.8.8/plane:1",
            "dns:",
            ":1",
            "plane:x",
            "[::1:1",
            "ipv4:plane:1",
            "ipv4:[::1]:1",
            "unix:",
            "unix://host/path",
            "unix-abstract:xds",
        ] {
            TargetUri::parse(uri).expect_err(uri);
        }
    }

    #[test]
    fn what_is_local_is_known() {
        for (uri, local) in [
            ("localhost:1", true),
            ("127.0.0.3:1", true),
            ("ipv4:127.0.0.1:1,10.0.0.1:1", false),
            ("[::1]:1", true),
            ("unix:xds", true),
            ("plane:1", false),
        ] {
            assert_eq!(TargetUri::parse(uri).unwrap().is_local(), local, "{uri}");
        }
    }
}
