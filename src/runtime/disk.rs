//! Disk layers: a tree of files, whose paths are keys and contents values.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::config::read_file;

use super::value::Value;

/// Directories within directories that are read; deeper ones are an error.
const MAX_DEPTH: usize = 16;
/// Largest content of one file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why a disk layer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system said so.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Directories lie too deep, or in a loop.
    #[error("{} lies more than {MAX_DEPTH} directories deep", path.display())]
    Depth {
        /// The first that is too deep.
        path: PathBuf,
    },
}

/// Reads every file below a directory; `None` when there is none. Lines that
/// begin with `#` are comments.
///
/// # Errors
/// When something cannot be read, or is too large or too deep.
pub fn read(directory: &Path) -> Result<Option<BTreeMap<String, Value>>, DiskError> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let mut values = BTreeMap::new();
    walk(directory, "", 0, &mut values)?;
    Ok(Some(values))
}

fn walk(
    directory: &Path,
    prefix: &str,
    depth: usize,
    values: &mut BTreeMap<String, Value>,
) -> Result<(), DiskError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| DiskError::Io { path, source }
    };
    if depth > MAX_DEPTH {
        return Err(DiskError::Depth {
            path: directory.to_owned(),
        });
    }
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let key = match prefix {
            "" => name.to_owned(),
            _ => format!("{prefix}.{name}"),
        };
        let metadata = fs::metadata(&path).map_err(failed(&path))?;
        if metadata.is_dir() {
            walk(&path, &key, depth + 1, values)?;
        } else if metadata.is_file() {
            let text = read_file(&path, MAX_FILE).map_err(failed(&path))?;
            let text = String::from_utf8(text)
                .map_err(|_| failed(&path)(io::ErrorKind::InvalidData.into()))?;
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
            values.insert(key, Value::from_text(lines.join("\n").trim_end()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_keys_and_comments_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(root.path().join("sub/x"), "42\n").unwrap();
        fs::write(root.path().join("y"), "# why\nyes it is\n").unwrap();
        let values = read(root.path()).unwrap().unwrap();
        let raw: Vec<_> = values
            .iter()
            .map(|(k, v)| (k.as_str(), v.raw.as_str()))
            .collect();
        assert_eq!(raw, [("sub.x", "42"), ("y", "yes it is")]);
    }

    #[test]
    fn a_missing_directory_is_no_layer() {
        assert_eq!(read(Path::new("/nowhere/at/all")).unwrap(), None);
    }
}
