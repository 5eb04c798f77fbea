//! How long resources live that their server has to confirm.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::TypeUrl;

type Key = (TypeUrl, Arc<str>);

/// The moments at which resources end, soonest first.
#[derive(Debug, Default)]
pub struct Ttls {
    order: BTreeSet<(Instant, Key)>,
    ends: HashMap<Key, Instant>,
}

impl Ttls {
    /// A resource came: it lives for so long from now, or without end.
    pub fn set(
        &mut self,
        type_url: &TypeUrl,
        name: &Arc<str>,
        now: Instant,
        ttl: Option<Duration>,
    ) {
        let key = (type_url.clone(), name.clone());
        if let Some(end) = self.ends.remove(&key) {
            self.order.remove(&(end, key.clone()));
        }
        // One beyond the end of time is none.
        if let Some(end) = ttl.and_then(|ttl| now.checked_add(ttl)) {
            self.ends.insert(key.clone(), end);
            self.order.insert((end, key));
        }
    }

    /// Nobody asks for it any more, or it is gone.
    pub fn forget(&mut self, type_url: &TypeUrl, name: &Arc<str>) {
        if self.ends.is_empty() {
            return;
        }
        self.set(type_url, name, Instant::now(), None);
    }

    /// When the next one ends.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(end, _)| *end)
    }

    /// Takes what has ended.
    pub fn expire(&mut self, now: Instant) -> Vec<Key> {
        let mut ended = Vec::new();
        while self.order.first().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, key)) = self.order.pop_first() {
                self.ends.remove(&key);
                ended.push(key);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_puts_the_end_off() {
        let (mut ttls, start) = (Ttls::default(), Instant::now());
        let (kind, a, b): (TypeUrl, Arc<str>, Arc<str>) = ("t".into(), "a".into(), "b".into());
        let second = Duration::from_secs(1);
        ttls.set(&kind, &a, start, Some(second));
        ttls.set(&kind, &b, start, Some(2 * second));
        assert_eq!(ttls.next(), Some(start + second));
        ttls.set(&kind, &a, start + second, Some(3 * second));
        assert_eq!(ttls.expire(start + 2 * second), [(kind.clone(), b)]);
        ttls.set(&kind, &a, start, None);
        assert_eq!(ttls.next(), None);
        assert!(ttls.expire(start + 9 * second).is_empty());
    }
}
