//! What a path depends on: every directory entry that is looked up on the way
//! to the file, through symbolic links.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Links followed before a path is taken for a loop, as in Linux.
const MAX_SYMLINKS: usize = 40;

/// What a directory entry on the way to a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory that is passed through, or the watched directory itself.
    Directory,
    /// A symbolic link.
    Symlink,
    /// The file.
    File,
    /// Nothing, or something that cannot be looked at. The way ends here.
    Missing,
}

/// One entry that is looked up on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The directory, with no symbolic link in it.
    pub directory: PathBuf,
    /// The entry's name in it.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
    /// Whether it is the last one: the file itself when it exists.
    pub last: bool,
}

impl Lookup {
    /// The entry's whole path.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

/// Which file a path leads to. Two that differ are different files, or one that
/// was written in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    /// Of the file these metadata belong to.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file was last changed at least this long ago.
    pub fn has_rested(self, period: Duration) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let changed = u64::try_from(seconds).unwrap_or(0);
        let changed = Duration::new(changed, nanoseconds.try_into().unwrap_or(0));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        now.saturating_sub(changed) >= period
    }
}

/// What stands at a path; `None` when nothing can be found there.
pub fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().as_ref().map(Identity::of)
}

/// The way to a file.
#[derive(Debug, Default)]
pub struct Way {
    /// Every lookup, from the root.
    pub lookups: Vec<Lookup>,
    /// Where it leads, without symbolic links; `None` when something is missing.
    pub target: Option<PathBuf>,
}

/// Walks an absolute path as the kernel does.
pub fn resolve(path: &Path) -> Way {
    let mut way = Way::default();
    let mut here = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = VecDeque::new();
    push_front(&mut ahead, path);
    let mut symlinks = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        let entry = here.join(&name);
        let kind = match fs::symlink_metadata(&entry) {
            Ok(found) if found.is_symlink() => Kind::Symlink,
            Ok(found) if found.is_dir() => Kind::Directory,
            Ok(_) if ahead.is_empty() => Kind::File,
            Ok(_) | Err(_) => Kind::Missing,
        };
        way.lookups.push(Lookup {
            directory: here.clone(),
            name,
            kind,
            last: ahead.is_empty(),
        });
        match kind {
            Kind::Missing => return way,
            Kind::File => here = entry,
            Kind::Directory => here = entry,
            Kind::Symlink => {
                symlinks += 1;
                let Ok(target) = fs::read_link(&entry) else {
                    return way;
                };
                if symlinks > MAX_SYMLINKS {
                    return way;
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                push_front(&mut ahead, &target);
            }
        }
    }
    way.target = Some(here);
    way
}

/// An absolute form of `path`, by the working directory; links are kept.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

fn push_front(ahead: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => ahead.push_front(name.to_owned()),
            Component::ParentDir => ahead.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_config_map_is_seen_through() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("..2024")).unwrap();
        fs::write(root.join("..2024/lds.yaml"), "x").unwrap();
        symlink("..2024", root.join("..data")).unwrap();
        symlink("..data/lds.yaml", root.join("lds.yaml")).unwrap();

        let way = resolve(&root.join("lds.yaml"));
        assert_eq!(way.target, Some(root.join("..2024/lds.yaml")));
        let tail: Vec<_> = way
            .lookups
            .iter()
            .filter(|l| l.directory.starts_with(&root))
            .map(|l| (l.path(), l.kind, l.last))
            .collect();
        assert_eq!(
            tail,
            [
                (root.join("lds.yaml"), Kind::Symlink, true),
                (root.join("..data"), Kind::Symlink, false),
                (root.join("..2024"), Kind::Directory, false),
                (root.join("..2024/lds.yaml"), Kind::File, true),
            ]
        );
    }

    #[test]
    fn what_is_missing_ends_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let way = resolve(&root.join("a/b/c.yaml"));
        assert_eq!(way.target, None);
        let last = way.lookups.last().unwrap();
        assert_eq!((last.path(), last.kind), (root.join("a"), Kind::Missing));
        assert!(!last.last);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(resolve(&root.join("a")).target, None);
    }

    #[test]
    fn dots_go_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("f"), "").unwrap();
        assert_eq!(resolve(&root.join("d/../f")).target, Some(root.join("f")));
    }
}
