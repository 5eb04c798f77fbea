//! Reads files that a configuration names. Any of them may be a pipe that nobody
//! writes to, or a device that never ends.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The largest document that is read, in bytes: far above what a configuration can be.
pub const MAX_DOCUMENT: u64 = 1 << 30;

/// The largest file whose content is part of a resource, in bytes: far above what
/// certificates, keys and answers are.
pub const MAX_CONTENT: u64 = 64 << 20;

/// Reads a regular file of at most `most` bytes, without waiting for anybody.
///
/// # Errors
/// When it cannot be read, is larger, or is no regular file.
pub fn read_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // To open a pipe would be to wait for who writes to it.
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => read_up_to(file, most),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Reads an open file, of whatever kind, of at most `most` bytes.
///
/// # Errors
/// When it cannot be read, or is larger.
pub(super) fn read_up_to(mut file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Ok(size) = usize::try_from(file.metadata()?.len().min(most)) {
        bytes.reserve_exact(size);
    }
    file.by_ref().take(most).read_to_end(&mut bytes)?;
    match file.read(&mut [0])? {
        0 => Ok(bytes),
        _ => Err(io::Error::other(format!("it is larger than {most} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn error(path: &Path) -> String {
        read_file(path, 4).unwrap_err().to_string()
    }

    #[test]
    fn a_regular_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_file(&path, 4).unwrap(), b"four");
        std::fs::write(&path, "fives").unwrap();
        assert_eq!(error(&path), "it is larger than 4 bytes");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for path in [&*pipe, folder.path(), Path::new("/dev/zero")] {
            assert_eq!(error(path), "it is not a regular file", "{path:?}");
        }
    }
}
