//! Where lines go.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;

/// Standard error, or a file that is appended to.
///
/// A line is one `write`, so that threads need no lock between them and a line is
/// never torn.
#[derive(Debug)]
pub struct Sink {
    path: Option<PathBuf>,
    file: ArcSwapOption<File>,
}

impl Sink {
    /// Standard error.
    pub fn stderr() -> Self {
        Self {
            path: None,
            file: ArcSwapOption::empty(),
        }
    }

    /// Appends to a file, which is made when it is not there.
    ///
    /// # Errors
    /// As for opening it.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: ArcSwapOption::from_pointee(open(path)?),
            path: Some(path.to_owned()),
        })
    }

    /// Opens the file by its name again, after it was moved away by a log rotation.
    ///
    /// # Errors
    /// As for opening it; the old file goes on being written.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file.store(Some(Arc::new(open(path)?)));
        }
        Ok(())
    }

    /// Writes one line. There is nobody to tell when the log itself cannot be
    /// written, so a failure is dropped with the line.
    pub fn write(&self, line: &[u8]) {
        let written = match &*self.file.load() {
            Some(file) => file.as_ref().write_all(line),
            None => io::stderr().write_all(line),
        };
        drop(written);
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_moved_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let sink = Sink::file(&path).unwrap();
        sink.write(b"one\n");
        fs::rename(&path, &moved).unwrap();
        sink.write(b"two\n");
        sink.reopen().unwrap();
        sink.write(b"three\n");
        assert_eq!(fs::read_to_string(moved).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "three\n");
    }
}
