//! The directory of one test: its configuration files, logs and keys.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

/// A temporary directory, removed at the end of the test.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
}

impl Home {
    /// An empty directory.
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("nuncio-test-").expect("a temporary directory");
        // New files are made here and moved out, so that no watcher of the
        // directory above ever sees one half written.
        fs::create_dir(dir.path().join("staging")).expect("staging directory");
        Self { dir }
    }

    /// The absolute path of `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The absolute path of `name`, for a configuration.
    pub fn text(&self, name: &str) -> String {
        self.path(name)
            .into_os_string()
            .into_string()
            .expect("UTF-8")
    }

    /// Moves a new file with this text onto `name`, as `mv` does.
    pub fn mv(&self, name: &str, text: impl AsRef<[u8]>) {
        let target = self.path(name);
        let staged = self.path("staging").join(
            Path::new(name)
                .file_name()
                .expect("a file name, not a directory"),
        );
        fs::write(&staged, text).expect("write the staged file");
        fs::rename(&staged, &target).expect("move it into place");
    }

    /// Moves `value` onto `name`.
    pub fn mv_value(&self, name: &str, value: &Value) {
        self.mv(name, render(value));
    }

    /// Writes `value` to `name` in place, without a move.
    pub fn write_value(&self, name: &str, value: &Value) {
        fs::write(self.path(name), render(value)).expect("write");
    }

    /// What `name` contains now; empty when there is no such file.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.path(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

/// JSON is YAML too, and has none of its surprises, such as a `no` that is
/// false. Tests that are about YAML write it themselves.
fn render(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON")
}
