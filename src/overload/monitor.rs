//! How much of each resource is used.

use std::{fs, io, os::unix::fs::MetadataExt, path::PathBuf, time::SystemTime};

use crate::{config::read_file, server::stats::Memory};

/// The largest file that says a pressure, in bytes.
const MAX_PRESSURE: u64 = 4 << 10;

/// What another file would not have in common.
type FileId = (u64, Option<SystemTime>);

/// What says how much of a resource is used.
#[derive(Debug)]
pub enum Monitor {
    /// `injected_resource`: what a file says that is moved into its place.
    Injected {
        /// The file.
        path: PathBuf,
        /// Which file it was when it was read, and what it said.
        read: Option<(FileId, f64)>,
    },
    /// `fixed_heap`: memory of this process in use for data, of so many bytes.
    Heap(u64),
    /// `cgroup_memory`: memory of the control group, of its limit or so many bytes
    /// where that is less.
    Cgroup(Option<u64>),
    /// `global_downstream_max_connections`: refuses by itself, and never presses.
    Connections,
}

/// Why a pressure cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A file cannot be read.
    #[error("{path}: {cause}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// A file says something else.
    #[error("{path}: '{found}' is not {expected}")]
    Parse {
        /// The file.
        path: String,
        /// What it says.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The system does not tell.
    #[error("the system does not tell the memory of this process")]
    Memory,
}

impl Monitor {
    /// The pressure: the part of the resource that is used. More than 1 is possible.
    ///
    /// # Errors
    /// When it cannot be told now.
    pub fn pressure(&mut self) -> Result<f64, MonitorError> {
        match self {
            Self::Injected { path, read } => {
                let name = || path.display().to_string();
                let failed = |cause| MonitorError::Read {
                    path: name(),
                    cause,
                };
                let file = fs::metadata(&*path).map_err(failed)?;
                // The number of a file that is gone is given to another.
                let file = (file.ino(), file.created().ok());
                if let Some((last, pressure)) = *read
                    && last == file
                {
                    return Ok(pressure);
                }
                *read = None;
                let text = read_file(path, MAX_PRESSURE).map_err(failed)?;
                let text = String::from_utf8_lossy(&text);
                let pressure = text.trim().parse::<f64>().ok();
                let Some(pressure) = pressure.filter(|p| (0.0..=1.0).contains(p)) else {
                    return Err(MonitorError::Parse {
                        path: name(),
                        found: text.trim().to_owned(),
                        expected: "a number from 0 to 1",
                    });
                };
                *read = Some((file, pressure));
                Ok(pressure)
            }
            Self::Heap(most) => {
                let memory = Memory::now().ok_or(MonitorError::Memory)?;
                Ok(memory.allocated as f64 / *most as f64)
            }
            Self::Cgroup(most) => cgroup(*most),
            Self::Connections => Ok(0.0),
        }
    }
}

/// Where the kernel tells the memory of the control group and its limit, by version
/// of the interface.
const CGROUP: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.max"),
    (
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ),
];

fn cgroup(most: Option<u64>) -> Result<f64, MonitorError> {
    let [newer, older] = CGROUP;
    let (usage, limit) = match fs::exists(newer.0).unwrap_or(false) {
        true => newer,
        false => older,
    };
    let used = bytes(usage)?.unwrap_or(0);
    let limit = [bytes(limit)?, most].into_iter().flatten().min();
    Ok(limit.map_or(0.0, |limit| used as f64 / limit as f64))
}

/// A number of bytes; `None` for `max`.
fn bytes(path: &str) -> Result<Option<u64>, MonitorError> {
    let text = fs::read_to_string(path).map_err(|cause| MonitorError::Read {
        path: path.to_owned(),
        cause,
    })?;
    match text.trim() {
        "max" => Ok(None),
        number => number.parse().map(Some).map_err(|_| MonitorError::Parse {
            path: path.to_owned(),
            found: number.to_owned(),
            expected: "a number of bytes",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_moved_into_place_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure");
        let write = |text: &str| {
            let next = folder.path().join("next");
            fs::write(&next, text).unwrap();
            fs::rename(next, &path).unwrap();
        };
        let mut monitor = Monitor::Injected {
            path: path.clone(),
            read: None,
        };
        let missing = monitor.pressure().unwrap_err().to_string();
        assert!(missing.contains("No such file"), "{missing}");
        write("0.25\n");
        assert_eq!(monitor.pressure().unwrap(), 0.25);
        fs::write(&path, "0.5").unwrap();
        assert_eq!(monitor.pressure().unwrap(), 0.25);
        for wrong in ["1.5", "x", ""] {
            write(wrong);
            let said = monitor.pressure().unwrap_err().to_string();
            assert!(
                said.ends_with(&format!("'{wrong}' is not a number from 0 to 1")),
                "{said}"
            );
        }
        write("1");
        assert_eq!(monitor.pressure().unwrap(), 1.0);
    }

    #[test]
    fn the_heap_presses_as_it_fills() {
        let used = Monitor::Heap(1 << 50).pressure().unwrap();
        assert!(used > 0.0 && used < 0.01, "{used}");
        assert!(Monitor::Heap(1).pressure().unwrap() > 1.0);
    }
}
