//! The page at `/`: on top what is served and what was refused, then every
//! endpoint with its parameters.

use std::{
    fmt::Write,
    rc::Rc,
    time::{Duration, SystemTime},
};

use super::{
    State,
    answer::{Answer, HTML},
    endpoint::{ENDPOINTS, Endpoint, ParamKind, WRITE},
    request::Request,
    state::{ConfigView, Kind, Resource, Source},
    stats::escape,
};

const STYLE: &str = include_str!("home.css");

/// Refusals that are listed in full; of more, the number is told.
const MAX_REFUSALS: usize = 50;

pub(super) fn page(state: &Rc<State>, _: &Request) -> Answer {
    let mut page = head(None);
    page.push_str("<body>\n");
    write_summary(&mut page, state);
    page.push_str(
        "<table class='home-table'>\n<thead><tr><th class='home-data'>Command</th>\
         <th class='home-data'>Description</th></tr></thead>\n<tbody>\n",
    );
    let endpoints = ENDPOINTS.iter().filter(|endpoint| endpoint.path != "/");
    for (index, endpoint) in endpoints.enumerate() {
        write_endpoint(&mut page, endpoint, index, |_| None);
    }
    page.push_str("</tbody></table>\n</body>\n</html>\n");
    Answer::whole(HTML, page)
}

/// The beginning of every page; `renewal` is in seconds.
pub fn head(renewal: Option<u32>) -> String {
    let renewal = renewal
        .map(|seconds| format!("<meta http-equiv='refresh' content='{seconds}'>\n"))
        .unwrap_or_default();
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n{renewal}\
         <title>Envoy Admin</title>\n<link rel='icon' href='data:,'>\n\
         <style>\n{STYLE}</style>\n</head>\n"
    )
}

/// One endpoint as a link, or as a form when it has parameters or changes
/// something; `value` gives what the parameters were last set to.
pub fn write_endpoint<'a>(
    out: &mut String,
    endpoint: &Endpoint,
    index: usize,
    value: impl Fn(&str) -> Option<&'a str>,
) {
    let name = &endpoint.path[1..];
    // From wherever the page is, also behind a proxy that cuts the path.
    let target = match index {
        0 if name.contains('/') => name.rsplit('/').next().unwrap_or(name),
        _ => name,
    };
    let row = if index % 2 == 1 {
        "<tr class='gray'>"
    } else {
        "<tr>"
    };
    let method = if endpoint.mutates { "post" } else { "get" };
    write!(
        out,
        "<tr class='vert-space'><td></td><td></td></tr>\n{row}\n  <td class='home-data'>"
    )
    .expect(WRITE);
    match endpoint.params.is_empty() && !endpoint.mutates {
        true => write!(out, "<a href='{target}'>{name}</a>"),
        false => {
            let class = if endpoint.mutates {
                ""
            } else {
                " class='button-as-link'"
            };
            write!(
                out,
                "<form action='{target}' method='{method}' id='{name}' class='home-form'>\
                 <button{class}>{name}</button></form>"
            )
        }
    }
    .expect(WRITE);
    writeln!(
        out,
        "</td>\n  <td class='home-data'>{}</td>\n</tr>",
        escape(endpoint.help)
    )
    .expect(WRITE);
    for param in endpoint.params {
        let id = format!("param-{index}-{}-{}", name.replace('/', "-"), param.name);
        let given = value(param.name);
        let input = match param.kind {
            ParamKind::Flag => format!(
                "<input type='checkbox' name='{}' id='{id}' form='{name}'{}>",
                param.name,
                if given.is_some() { " checked" } else { "" },
            ),
            ParamKind::Text => format!(
                "<input type='text' name='{}' id='{id}' form='{name}' value='{}'>",
                param.name,
                escape(given.unwrap_or_default()),
            ),
            ParamKind::Choice(choices) => {
                let options: String = choices
                    .iter()
                    .map(|choice| {
                        let selected = if given == Some(choice) {
                            " selected"
                        } else {
                            ""
                        };
                        format!("<option value='{choice}'{selected}>{choice}</option>")
                    })
                    .collect();
                format!(
                    "<select name='{}' id='{id}' form='{name}'>{options}</select>",
                    param.name
                )
            }
        };
        writeln!(
            out,
            "{row}\n  <td class='option'>{input}</td>\n  <td class='home-data'>\
             <label for='{id}'>{}</label></td>\n</tr>",
            escape(param.help)
        )
        .expect(WRITE);
    }
}

fn write_summary(out: &mut String, state: &State) {
    let now = SystemTime::now();
    let snapshot = state.snapshot.load();
    writeln!(
        out,
        "<p class='summary'><b>{}</b>, up {}, {} listeners and {} clusters in force. {}</p>",
        state.lifecycle.state().name(),
        spoken(state.server.uptime()),
        snapshot.listeners.len(),
        snapshot.clusters.len(),
        escape(&state.server.version),
    )
    .expect(WRITE);
    write_unready(out, &*state.config);
    write_refusals(out, &*state.config, now);
    write_sources(out, &*state.config, now);
}

fn write_unready(out: &mut String, config: &dyn ConfigView) {
    for unready in config.unready() {
        let (name, targets) = (escape(&unready.name), escape(&unready.targets.join(", ")));
        writeln!(out, "<p class='summary'>{name} waits for {targets}.</p>").expect(WRITE);
    }
}

fn write_refusals(out: &mut String, config: &dyn ConfigView, now: SystemTime) {
    let kinds = [
        (Kind::Listener, "listener"),
        (Kind::Route, "routes"),
        (Kind::Cluster, "cluster"),
        (Kind::Endpoint, "endpoints"),
        (Kind::Extension, "filter"),
        (Kind::Runtime, "runtime"),
        (Kind::Secret, "secret"),
    ];
    let scopes = config.scopes().into_iter().flat_map(|set| set.resources);
    let refused: Vec<(&str, Resource)> = kinds
        .into_iter()
        .flat_map(|(kind, name)| config.resources(kind).into_iter().map(move |r| (name, r)))
        .chain(scopes.map(|scope| ("scope", scope)))
        .filter(|(_, resource)| resource.error.is_some())
        .collect();
    let sources: Vec<Source> = config.sources();
    let count = refused.len()
        + sources
            .iter()
            .filter(|source| source.error.is_some())
            .count();
    if count == 0 {
        out.push_str("<p class='summary'>Nothing is refused.</p>\n");
        return;
    }
    writeln!(
        out,
        "<h2 class='error-status-line'>Refused: {count}</h2>\n<dl class='summary'>"
    )
    .expect(WRITE);
    let resources = refused.iter().filter_map(|(kind, resource)| {
        let error = resource.error.as_ref()?;
        let effect = match resource.active {
            Some(_) => "the last good one serves",
            None => "nothing serves in its place",
        };
        Some((format!("{kind} {}: {effect}", resource.name), error))
    });
    let documents = sources.iter().filter_map(|source| {
        let error = source.error.as_ref()?;
        Some((format!("{} from {}", source.name, source.place), error))
    });
    for (what, error) in documents.chain(resources).take(MAX_REFUSALS) {
        let age = now.duration_since(error.at).unwrap_or_default();
        writeln!(
            out,
            "<dt>{}, {} ago</dt><dd><pre>{}</pre></dd>",
            escape(&what),
            spoken(age),
            escape(&error.details)
        )
        .expect(WRITE);
    }
    out.push_str("</dl>\n");
    if count > MAX_REFUSALS {
        writeln!(
            out,
            "<p class='summary'>and {} more, in the config_dump.</p>",
            count - MAX_REFUSALS
        )
        .expect(WRITE);
    }
}

fn write_sources(out: &mut String, config: &dyn ConfigView, now: SystemTime) {
    let sources = config.sources();
    if sources.is_empty() {
        return;
    }
    out.push_str(
        "<table class='home-table'><thead><tr><th class='home-data'>Source</th>\
         <th class='home-data'>From</th><th class='home-data'>Version</th>\
         <th class='home-data'>Accepted</th><th class='home-data'>Resources</th></tr></thead>\
         <tbody>\n",
    );
    for (index, source) in sources.iter().enumerate() {
        let row = if index % 2 == 1 {
            "<tr class='gray'>"
        } else {
            "<tr>"
        };
        let accepted = match source.last_updated {
            Some(at) => format!("{} ago", spoken(now.duration_since(at).unwrap_or_default())),
            None => "never".to_owned(),
        };
        let notice = match &source.notice {
            Some(notice) => format!("<br><i>{}</i>", escape(notice)),
            None => String::new(),
        };
        writeln!(
            out,
            "{row}<td class='home-data'>{}</td><td class='home-data'>{}{notice}</td>\
             <td class='home-data'>{}</td><td class='home-data'>{accepted}</td>\
             <td class='home-data'>{}</td></tr>",
            source.name,
            escape(&source.place),
            escape(&source.version_info),
            source.resources,
        )
        .expect(WRITE);
    }
    out.push_str("</tbody></table>\n");
}

/// A time in its largest two units: `3h 5m`.
fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut parts = Vec::new();
    let mut rest = seconds;
    for (length, unit) in units {
        let count = rest / length;
        rest %= length;
        if count > 0 || (unit == "s" && parts.is_empty()) {
            parts.push(format!("{count}{unit}"));
        }
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        for (seconds, text) in [(0, "0s"), (61, "1m 1s"), (3_600, "1h"), (100_000, "1d 3h")] {
            assert_eq!(spoken(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_was_asked_for_is_in_the_form_again_and_cannot_break_out() {
        let mut out = String::new();
        let stats = ENDPOINTS.iter().find(|e| e.path == "/stats").unwrap();
        write_endpoint(&mut out, stats, 0, |name| {
            (name == "filter").then_some("'><script>")
        });
        assert!(out.contains("value='&#39;&gt;&lt;script&gt;'"), "{out}");
    }
}
