//! Values by IP range, of which the most specific is found.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    api::envoy::config::core::v3::CidrRange,
    config::{At, Reported},
};

/// Compiles a `CidrRange`. A length beyond the address stands for all of it, as in Envoy.
///
/// # Errors
/// When the prefix is not an IP address.
pub fn range(prefix: &str, length: Option<u32>, at: &At<'_>) -> Result<IpNet, Reported> {
    let ip: IpAddr = prefix.parse().map_err(|_| {
        at.field("address_prefix")
            .error(format_args!("{prefix:?} is not an IP address"))
    })?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let length = u8::try_from(length.unwrap_or(0)).unwrap_or(whole);
    Ok(IpNet::new_assert(ip, length.min(whole)).trunc())
}

/// Compiles a list of ranges.
///
/// # Errors
/// As for one.
pub fn ranges(messages: &[CidrRange], at: &At<'_>) -> Result<Vec<IpNet>, Reported> {
    let messages = messages.iter().enumerate();
    messages
        .map(|(index, message)| {
            let CidrRange {
                address_prefix,
                prefix_len,
            } = message;
            range(address_prefix, *prefix_len, &at.index(index))
        })
        .collect()
}

/// Values by range. Finding one takes a hash lookup for each length of prefix
/// that is in use, however many ranges there are.
#[derive(Clone, Debug)]
pub struct IpTable<T> {
    /// The lengths in use, longest first.
    lengths: Vec<u8>,
    by_range: HashMap<IpNet, T, foldhash::fast::RandomState>,
}

impl<T> IpTable<T> {
    /// The last value of a range that comes twice is the one.
    pub fn new(entries: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let by_range: HashMap<IpNet, T, _> = entries.into_iter().collect();
        let mut lengths: Vec<u8> = by_range.keys().map(IpNet::prefix_len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self { lengths, by_range }
    }

    /// The values of all ranges that have the address, the most specific first.
    pub fn all(&self, ip: IpAddr) -> impl Iterator<Item = &T> {
        self.lengths.iter().filter_map(move |length| {
            let range = IpNet::new(ip, *length).ok()?;
            self.by_range.get(&range.trunc())
        })
    }

    /// The value of the most specific range that has the address.
    pub fn find(&self, ip: IpAddr) -> Option<&T> {
        self.all(ip).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_range_is_found_first() {
        let ranges = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.3/32",
            "::/0",
            "1::/16",
        ];
        let table = IpTable::new(ranges.map(|text| (text.parse().unwrap(), text)));
        let all = |ip: &str| table.all(ip.parse().unwrap()).copied().collect::<Vec<_>>();
        assert_eq!(
            all("10.1.2.3"),
            ["10.1.2.3/32", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]
        );
        assert_eq!(all("10.2.2.3"), ["10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(all("1::5"), ["1::/16", "::/0"]);
        assert_eq!(all("::ffff:10.1.2.3"), ["::/0"]);
        assert_eq!(table.find("2::".parse().unwrap()), Some(&"::/0"));
    }
}
