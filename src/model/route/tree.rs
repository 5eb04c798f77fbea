//! A radix tree from prefixes to routes.

/// Prefixes, each with the routes that have it.
#[derive(Debug, Default)]
pub struct PrefixTree {
    root: Node,
    filled: bool,
}

#[derive(Debug, Default)]
struct Node {
    /// What the edge to this node adds to the prefix.
    label: Box<[u8]>,
    /// Ascending.
    routes: Vec<u32>,
    /// The first bytes of the children's labels, ascending.
    firsts: Vec<u8>,
    children: Vec<Node>,
}

impl PrefixTree {
    /// Whether nothing was inserted.
    pub fn is_empty(&self) -> bool {
        !self.filled
    }

    /// Adds a route; routes come in ascending order.
    pub fn insert(&mut self, prefix: &[u8], route: u32) {
        self.filled = true;
        self.root.insert(prefix, route);
    }

    /// Calls back with the length and the routes of every prefix of a text.
    pub fn find<'a>(&'a self, text: &[u8], mut each: impl FnMut(usize, &'a [u32])) {
        let mut node = &self.root;
        let mut depth = 0;
        loop {
            if !node.routes.is_empty() {
                each(depth, &node.routes);
            }
            let rest = &text[depth..];
            let Some(first) = rest.first() else { return };
            let Ok(at) = node.firsts.binary_search(first) else {
                return;
            };
            node = &node.children[at];
            if !rest.starts_with(&node.label) {
                return;
            }
            depth += node.label.len();
        }
    }
}

impl Node {
    fn insert(&mut self, rest: &[u8], route: u32) {
        let Some(first) = rest.first() else {
            self.routes.push(route);
            return;
        };
        let at = match self.firsts.binary_search(first) {
            Ok(at) => at,
            Err(at) => {
                self.firsts.insert(at, *first);
                let leaf = Self {
                    label: rest.into(),
                    routes: vec![route],
                    ..Self::default()
                };
                self.children.insert(at, leaf);
                return;
            }
        };
        let child = &mut self.children[at];
        let common = child
            .label
            .iter()
            .zip(rest)
            .take_while(|(a, b)| a == b)
            .count();
        if common < child.label.len() {
            child.split(common);
        }
        child.insert(&rest[common..], route);
    }

    /// Puts a node in the middle of the edge to this one.
    fn split(&mut self, at: usize) {
        let (upper, lower) = self.label.split_at(at);
        let (upper, lower): (Box<[u8]>, Box<[u8]>) = (upper.into(), lower.into());
        let mut below = std::mem::take(self);
        self.label = upper;
        self.firsts.push(lower[0]);
        below.label = lower;
        self.children.push(below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(tree: &PrefixTree, text: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        tree.find(text, |length, routes| {
            assert!(length <= text.len());
            found.extend_from_slice(routes);
        });
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn finds_what_a_scan_finds(
            prefixes in proptest::collection::vec("[ab/]{0,6}", 0..40),
            text in "[ab/]{0,10}",
        ) {
            let mut tree = PrefixTree::default();
            for (route, prefix) in (0u32..).zip(&prefixes) {
                tree.insert(prefix.as_bytes(), route);
            }
            let scan: Vec<u32> = (0u32..)
                .zip(&prefixes)
                .filter(|(_, prefix)| text.starts_with(prefix.as_str()))
                .map(|(route, _)| route)
                .collect();
            prop_assert_eq!(find(&tree, text.as_bytes()), scan);
        }
    }
}
