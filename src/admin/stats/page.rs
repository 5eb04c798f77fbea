//! `/stats?format=html`: the lines, under the form that asked for them.

use std::fmt::Write;

use crate::admin::{
    answer::Parts,
    endpoint::{ENDPOINTS, Endpoint, WRITE},
    home,
    request::Request,
};

use super::{Phase, Selection, text::Text};

/// How often a page renews itself that is asked to, in seconds.
const RENEWAL: u32 = 5;

/// The page, part by part.
pub struct Page {
    text: Text,
    head: Option<String>,
    phase: Option<Phase>,
    done: bool,
}

impl Page {
    /// None written yet.
    pub fn new(selection: Selection, request: &Request, active: bool) -> Self {
        let mut head = home::head(active.then_some(RENEWAL));
        let endpoint: Option<&Endpoint> = ENDPOINTS.iter().find(|e| e.path == request.path);
        head.push_str("<body>\n<table class='home-table'><tbody>\n");
        if let Some(endpoint) = endpoint {
            home::write_endpoint(&mut head, endpoint, 0, |name| request.param(name));
        }
        head.push_str("</tbody></table>\n");
        Self {
            text: Text::new(selection),
            head: Some(head),
            phase: None,
            done: false,
        }
    }
}

impl Parts for Page {
    fn write_next(&mut self, out: &mut String) -> bool {
        if self.done {
            return false;
        }
        if let Some(head) = self.head.take() {
            out.push_str(&head);
        }
        let mut lines = String::new();
        let phase = self.text.write_phase(&mut lines);
        if phase != self.phase {
            if self.phase.is_some() {
                out.push_str("</pre>\n");
            }
            if phase.is_some() {
                out.push_str("<pre>\n");
            }
            self.phase = phase;
        }
        // Texts are escaped already, and names have nothing to escape but quotes
        // that stand for themselves between tags.
        write!(out, "{}", lines.replace('<', "&lt;")).expect(WRITE);
        if phase.is_none() {
            out.push_str("</body>\n</html>\n");
            self.done = true;
        }
        true
    }
}

/// Makes a text safe between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
