//! `/etc/hosts`, read again whenever it has changed.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::config::{MAX_CONTENT, read_file};

/// A file of lines `address name name…` (hosts(5)).
#[derive(Debug)]
pub(super) struct HostsFile {
    path: PathBuf,
    read: Mutex<Read>,
}

/// What the file said when it was last read.
#[derive(Debug, Default)]
struct Read {
    state: Option<State>,
    names: HashMap<String, Vec<IpAddr>>,
}

/// Which file, and how it was left: two that differ may say different things.
#[derive(Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl HostsFile {
    /// The one at this path, which need not exist. It is read when it is first asked.
    pub fn new(path: &str) -> Self {
        Self {
            path: path.into(),
            read: Mutex::default(),
        }
    }

    /// The addresses of a name, in the order of the file; none when it is not there.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = plain(name);
        // Only whole values are put there.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state(&self.path);
        if read.state != state {
            // One that cannot be read names nobody.
            let content = read_file(&self.path, MAX_CONTENT).unwrap_or_default();
            *read = Read {
                state,
                names: parse(&String::from_utf8_lossy(&content)),
            };
        }
        read.names.get(&name).cloned().unwrap_or_default()
    }
}

fn state(path: &Path) -> Option<State> {
    let found = fs::metadata(path).ok()?;
    Some(State {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

fn parse(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        for name in words {
            let addresses = names.entry(plain(name)).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    names
}

/// A name as it is compared: small letters, and no dot at its end.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_addresses_of_all_their_lines() {
        let text = "# by hand\n127.0.0.1\tlocalhost\n\n10.0.0.1 web Web.Example.org # two names\n\
                    no.address web\n10.0.0.2 web\n10.0.0.1 web\nfd00::1 web. #x\n10.0.0.3";
        let names = parse(text);
        let of = |name: &str| -> Vec<String> {
            names
                .get(name)
                .into_iter()
                .flatten()
                .map(IpAddr::to_string)
                .collect()
        };
        assert_eq!(of("localhost"), ["127.0.0.1"]);
        assert_eq!(of("web"), ["10.0.0.1", "10.0.0.2", "fd00::1"]);
        assert_eq!(of("web.example.org"), ["10.0.0.1"]);
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn the_file_is_read_again_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let hosts = HostsFile::new(path.to_str().unwrap());
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        assert!(hosts.addresses("web").is_empty());
        fs::write(&path, "10.0.0.1 web\n").unwrap();
        assert_eq!(hosts.addresses("WEB."), address("10.0.0.1"));
        // In place, and by a move.
        fs::write(&path, "10.0.0.20 web\n").unwrap();
        assert_eq!(hosts.addresses("web"), address("10.0.0.20"));
        let next = folder.path().join("next");
        fs::write(&next, "10.0.0.30 web\n").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(hosts.addresses("web"), address("10.0.0.30"));
        fs::remove_file(&path).unwrap();
        assert!(hosts.addresses("web").is_empty());
    }
}
