//! From a path in a message back to the place in the document.

use super::tree::{Mark, Node, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A field, by its proto name.
    Field(String),
    /// An element of a list.
    Index(usize),
    /// A value of a map field.
    Key(String),
}

/// Reads a path as [`At`](super::At) writes it: `a.b[1].c["k"]`. What cannot be
/// read ends the path.
pub fn parse(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let step = match rest.strip_prefix('[') {
            None => {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                rest = after;
                match name.is_empty() {
                    true => break,
                    false => Step::Field(name.to_owned()),
                }
            }
            Some(inside) if inside.starts_with('"') => {
                // A quoted key has Rust's escapes; JSON's are the same in what
                // matters here.
                let mut keys = serde_json::Deserializer::from_str(inside).into_iter::<String>();
                let Some(Ok(key)) = keys.next() else { break };
                rest = inside[keys.byte_offset()..].trim_start_matches(']');
                Step::Key(key)
            }
            Some(inside) => {
                let Some((index, after)) = inside.split_once(']') else {
                    break;
                };
                rest = after;
                match index.parse() {
                    Ok(index) => Step::Index(index),
                    Err(_) => break,
                }
            }
        };
        steps.push(step);
    }
    steps
}

/// Where a path leads in a tree: to the key of a field, to an element, or, where
/// the document has nothing there, to the nearest thing around it.
pub fn find(root: &Node<'_>, path: &[Step]) -> Mark {
    let (mut node, mut mark) = (root, root.mark);
    for step in path {
        let Some((next, at)) = child(node, step) else {
            break;
        };
        (node, mark) = (next, at);
    }
    mark
}

/// Where a path leads when `over` was merged over `base`: messages merge and
/// lists are appended. The second value tells whether it is in `over`.
pub fn find_merged(base: &Node<'_>, over: &Node<'_>, path: &[Step]) -> (Mark, bool) {
    let (mut below, mut above) = (Some((base, base.mark)), Some((over, over.mark)));
    for step in path {
        let next = |place: Option<(_, _)>, step| place.and_then(|(node, _)| child(node, step));
        let (next_below, next_above) = match step {
            Step::Index(index) => match below.map(|(node, _)| &node.value) {
                Some(Value::List(items)) if *index >= items.len() => {
                    (None, next(above, &Step::Index(index - items.len())))
                }
                Some(Value::List(_)) => (next(below, step), None),
                _ => (None, next(above, step)),
            },
            _ => (next(below, step), next(above, step)),
        };
        if next_below.is_none() && next_above.is_none() {
            break;
        }
        (below, above) = (next_below, next_above);
    }
    match (below, above) {
        (_, Some((_, mark))) => (mark, true),
        (Some((_, mark)), None) => (mark, false),
        (None, None) => (base.mark, false),
    }
}

fn child<'n, 'a>(node: &'n Node<'a>, step: &Step) -> Option<(&'n Node<'a>, Mark)> {
    match (step, &node.value) {
        (Step::Field(name), Value::Map(entries)) => {
            let named = |key: &str| key == name || is_camel_of(key, name);
            entries
                .iter()
                .find(|entry| named(&entry.key))
                .map(|entry| (&entry.value, entry.mark))
        }
        (Step::Key(key), Value::Map(entries)) => entries
            .iter()
            .find(|entry| entry.key == *key)
            .map(|entry| (&entry.value, entry.mark)),
        (Step::Index(index), Value::List(items)) => items.get(*index).map(|item| (item, item.mark)),
        _ => None,
    }
}

/// Whether `key` is the lowerCamelCase form of the proto name.
fn is_camel_of(key: &str, name: &str) -> bool {
    let mut upper = false;
    let camel = name.chars().filter_map(|c| match c {
        '_' => {
            upper = true;
            None
        }
        c if std::mem::take(&mut upper) => Some(c.to_ascii_uppercase()),
        c => Some(c),
    });
    camel.eq(key.chars())
}

#[cfg(test)]
mod tests {
    use super::{super::yaml, *};

    #[test]
    fn paths_are_read_as_they_are_written() {
        assert_eq!(
            parse("filter_chains[1].metadata[\"a.b\"].x"),
            [
                Step::Field("filter_chains".into()),
                Step::Index(1),
                Step::Field("metadata".into()),
                Step::Key("a.b".into()),
                Step::Field("x".into())
            ]
        );
        assert_eq!(parse(""), []);
    }

    #[test]
    fn a_path_leads_through_camel_case_and_stops_at_what_is_there() {
        let tree =
            yaml::parse("name: x\nfilterChains:\n- filters: []\n- metadata: {a.b: 1}\n").unwrap();
        let find = |path| {
            let mark = find(&tree, &parse(path));
            (mark.line, mark.column)
        };
        assert_eq!(find("filter_chains[1].metadata[\"a.b\"]"), (4, 14));
        assert_eq!(find("filter_chains[0].name"), (3, 3));
        assert_eq!(find("nothing"), (1, 1));
    }

    #[test]
    fn a_merged_list_is_counted_on() {
        let base = yaml::parse("clusters: [{name: a}]\nnode: {id: x}\n").unwrap();
        let over = yaml::parse("node: {id: y}\nclusters:\n- name: b\n").unwrap();
        let find = |path| {
            let (mark, over) = find_merged(&base, &over, &parse(path));
            (mark.line, mark.column, over)
        };
        assert_eq!(find("clusters[0].name"), (1, 13, false));
        assert_eq!(find("clusters[1].name"), (3, 3, true));
        assert_eq!(find("node.id"), (1, 8, true));
        assert_eq!(find("node.cluster"), (1, 1, true));
    }
}
