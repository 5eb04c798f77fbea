//! The operating system's number of this thread, `%t`.

use std::{cell::Cell, fs};

thread_local! {
    static ID: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The thread's number, or the process's where the system does not tell.
pub(super) fn id() -> u32 {
    ID.get().unwrap_or_else(|| {
        let id = ask().unwrap_or_else(std::process::id);
        ID.set(Some(id));
        id
    })
}

/// Linux tells by a link to `PID/task/TID`.
fn ask() -> Option<u32> {
    let link = fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn threads_have_numbers_of_their_own() {
        let other = std::thread::spawn(super::id).join().unwrap();
        assert_ne!(super::id(), other);
        assert_eq!(super::id(), super::id());
    }
}
