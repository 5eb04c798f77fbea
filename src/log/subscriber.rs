//! From `tracing`'s events to lines.

use std::fmt::{self, Write};

use tracing::{
    Event, Metadata,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};

use super::{Component, Level, Log, Record, component, pattern::push_json};

/// The mark that [`critical!`](crate::critical) puts on an event.
const CRITICAL: &str = "critical";

/// Writes events; spans are not used and cost nothing.
pub(super) struct Subscriber {
    log: Log,
}

impl Subscriber {
    pub(super) fn new(log: Log) -> Self {
        Self { log }
    }
}

fn classify(metadata: &Metadata<'_>) -> (Component, Level) {
    let level = match metadata.fields().field(CRITICAL) {
        Some(_) => Level::Critical,
        None => Level::from(*metadata.level()),
    };
    let module = metadata.module_path().unwrap_or(metadata.target());
    component::classify(module, metadata.target(), level)
}

impl tracing::Subscriber for Subscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.enabled(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let (component, level) = classify(metadata);
        metadata.is_event() && self.log.enabled(component, level)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // A library's error is heard at debug, so the hint is of no use to hush it.
        Some(self.log.lowest().into())
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let (component, level) = classify(metadata);
        let mut text = Text::default();
        event.record(&mut text);
        self.log.write(&Record {
            level,
            component: component.name(),
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            function: metadata.module_path().unwrap_or_default(),
            tags: &text.tags,
            message: &text.message,
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The message of an event and its other fields as tags.
#[derive(Default)]
struct Text {
    message: String,
    tags: String,
}

impl Text {
    fn tag(&mut self, field: &Field, value: &str) {
        if field.name() == CRITICAL {
            return;
        }
        let comma = if self.tags.is_empty() { "" } else { "," };
        self.tags.push_str(comma);
        self.tags.push('"');
        let words = field.name().split('_').filter(|word| !word.is_empty());
        for word in words {
            let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            self.tags.extend(first.chars().flat_map(char::to_uppercase));
            self.tags.push_str(rest);
        }
        self.tags.push_str("\":\"");
        push_json(&mut self.tags, value);
        self.tags.push('"');
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            _ => self.tag(field, value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.tag(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => write!(self.message, "{value:?}").expect("a String takes what is written"),
            _ => self.tag(field, &format!("{value:?}")),
        }
    }
}
