//! Response codes: `upstream_rq_200`, `upstream_rq_2xx`, `upstream_rq_completed`.
//!
//! Only the exact codes are counted; classes and `completed` are their sums.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::block::bump;

type Ten = Box<[AtomicU64; 10]>;
type Hundred = Box<[OnceLock<Ten>; 10]>;

/// One thread's counts under one name, and the next name's after it. A
/// component has few such names, so a list is searched fastest.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    /// 100 to 599.
    codes: [OnceLock<Hundred>; 5],
    /// Anything else.
    unknown: AtomicU64,
    next: OnceLock<Box<Family>>,
}

impl Family {
    pub fn count(list: &OnceLock<Box<Self>>, name: &'static str, status: u16) {
        let mut link = list;
        let family = loop {
            let family = link.get_or_init(|| {
                Box::new(Self {
                    name,
                    codes: Default::default(),
                    unknown: AtomicU64::new(0),
                    next: OnceLock::new(),
                })
            });
            if family.name == name {
                break family;
            }
            link = &family.next;
        };
        match status {
            100..=599 => {
                let (hundred, rest) = (usize::from(status / 100 - 1), usize::from(status % 100));
                let hundred = family.codes[hundred].get_or_init(Box::default);
                let ten = hundred[rest / 10].get_or_init(Box::default);
                bump(&ten[rest % 10], 1);
            }
            _ => bump(&family.unknown, 1),
        }
    }

    pub fn collect(list: &OnceLock<Box<Self>>, into: &mut Vec<Codes>) {
        let mut link = list;
        while let Some(family) = link.get() {
            let codes = match into
                .iter_mut()
                .position(|codes| codes.family == family.name)
            {
                Some(index) => &mut into[index],
                None => {
                    into.push(Codes::of(family.name));
                    into.last_mut().expect("just pushed")
                }
            };
            for (h, hundred) in family.codes.iter().enumerate() {
                for (t, ten) in hundred.get().into_iter().flat_map(|h| h.iter().enumerate()) {
                    for (o, cell) in ten.get().into_iter().flat_map(|t| t.iter().enumerate()) {
                        let count = cell.load(Relaxed);
                        if count != 0 {
                            let status = (h + 1) * 100 + t * 10 + o;
                            *codes.by_status.entry(status as u16).or_default() += count;
                        }
                    }
                }
            }
            codes.unknown += family.unknown.load(Relaxed);
            codes.used = true;
            link = &family.next;
        }
    }
}

/// Counts of response codes under one name, summed over threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// `upstream_rq`, `external.upstream_rq`, …
    pub family: &'static str,
    /// Whether any was ever counted.
    pub used: bool,
    by_status: BTreeMap<u16, u64>,
    unknown: u64,
}

impl Codes {
    /// None yet under this name.
    pub(super) fn of(family: &'static str) -> Self {
        Self {
            family,
            used: false,
            by_status: BTreeMap::new(),
            unknown: 0,
        }
    }

    /// How often this status was counted.
    pub fn status(&self, status: u16) -> u64 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }

    /// How many responses were counted.
    pub fn completed(&self) -> u64 {
        self.by_status.values().sum::<u64>() + self.unknown
    }

    /// The statuses of a class (`2` for 200 to 299).
    pub fn class(&self, class: u16) -> u64 {
        self.by_status
            .range(class * 100..(class + 1) * 100)
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn subtract(&mut self, base: &Self) {
        for (status, count) in &mut self.by_status {
            *count -= base.status(*status);
        }
        self.unknown -= base.unknown;
    }

    /// Each name under its family, as Envoy makes them, with its value.
    pub fn each(&self, mut f: impl FnMut(&str, u64)) {
        let mut name = String::with_capacity(self.family.len() + 10);
        let mut emit = |suffix: std::fmt::Arguments<'_>, value| {
            use std::fmt::Write;
            name.clear();
            write!(name, "{}_{suffix}", self.family).expect("writing to a string cannot fail");
            f(&name, value);
        };
        let mut class = 0;
        for (&status, &count) in &self.by_status {
            if status / 100 != class {
                class = status / 100;
                emit(format_args!("{class}xx"), self.class(class));
            }
            emit(format_args!("{status}"), count);
        }
        if self.unknown != 0 {
            emit(format_args!("unknown"), self.unknown);
        }
        emit(format_args!("completed"), self.completed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_completed_are_sums_of_codes() {
        let list = OnceLock::new();
        for status in [200, 200, 204, 503, 999] {
            Family::count(&list, "upstream_rq", status);
        }
        Family::count(&list, "external.upstream_rq", 200);
        let mut all = Vec::new();
        Family::collect(&list, &mut all);
        let mut names = Vec::new();
        all[0].each(|name, value| names.push(format!("{name}: {value}")));
        assert_eq!(
            names,
            [
                "upstream_rq_2xx: 3",
                "upstream_rq_200: 2",
                "upstream_rq_204: 1",
                "upstream_rq_5xx: 1",
                "upstream_rq_503: 1",
                "upstream_rq_unknown: 1",
                "upstream_rq_completed: 5",
            ]
        );
        assert_eq!(all[1].completed(), 1);
    }
}
