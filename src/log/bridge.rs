//! Messages of libraries that speak through the `log` crate: rustls, notify.

use super::{Level, Log, Record, component};

/// Hears those messages from here on.
pub(super) fn install(log: Log) {
    // Fails when a logger is set already, which then is the one of this process.
    drop(log::set_boxed_logger(Box::new(Bridge(log))));
}

/// Lets the crate drop early what no component writes.
pub(super) fn levels_changed(lowest: Level) {
    // A library's message is written at debug or below, whatever it says of itself.
    log::set_max_level(match lowest {
        Level::Trace => log::LevelFilter::Trace,
        Level::Debug => log::LevelFilter::Debug,
        _ => log::LevelFilter::Off,
    });
}

/// Says at trace every event it reads from the kernel. A log that is written into
/// a watched directory makes events itself, and would be written for ever.
const SILENT: &str = "notify::inotify";

struct Bridge(Log);

fn classify(metadata: &log::Metadata<'_>) -> (super::Component, Level) {
    let level = match metadata.level() {
        log::Level::Trace => Level::Trace,
        _ => Level::Debug,
    };
    component::classify(metadata.target(), metadata.target(), level)
}

/// What a library prints over many lines, a whole handshake message, on one: whoever
/// looks for the lines of a component finds all that it says.
fn one_line(message: &str) -> String {
    match message.contains('\n') {
        true => message.split_whitespace().collect::<Vec<_>>().join(" "),
        false => message.to_owned(),
    }
}

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let (component, level) = classify(metadata);
        metadata.target() != SILENT && self.0.enabled(component, level)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let (component, level) = classify(record.metadata());
            self.0.write(&Record {
                level,
                component: component.name(),
                file: record.file().unwrap_or_default(),
                line: record.line().unwrap_or_default(),
                function: record.module_path().unwrap_or_default(),
                tags: "",
                message: &one_line(&record.args().to_string()),
            });
        }
    }

    fn flush(&self) {}
}
