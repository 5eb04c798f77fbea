//! How much each priority gets, from how many of its hosts can be used.
//!
//! The arithmetic is Envoy's, in whole percents, so that the two agree on every
//! step of a failover.

/// The hosts of one priority, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct PriorityHealth {
    /// All hosts.
    pub hosts: u64,
    /// Hosts that count neither as healthy nor as unhealthy.
    pub excluded_hosts: u64,
    /// Healthy hosts.
    pub healthy_hosts: u64,
    /// Degraded hosts.
    pub degraded_hosts: u64,
    /// All, by weight where health is weighted.
    pub total: u64,
    /// Excluded, likewise.
    pub excluded: u64,
    /// Healthy, likewise.
    pub healthy: u64,
    /// Degraded, likewise.
    pub degraded: u64,
}

impl PriorityHealth {
    /// The share of hosts that can be used, times the overprovisioning, at most 100.
    fn available(&self, usable: u64, overprovisioning: u32) -> u64 {
        match self.total - self.excluded {
            0 => 0,
            counted => (u64::from(overprovisioning) * usable / counted).min(100),
        }
    }

    fn is_panic(&self, threshold: f64) -> bool {
        let share = |hosts: u64| match self.hosts - self.excluded_hosts {
            0 => 0.0,
            counted => 100.0 * hosts as f64 / counted as f64,
        };
        share(self.healthy_hosts) + share(self.degraded_hosts) < threshold
    }
}

/// Which hosts of a priority are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The healthy ones.
    Healthy,
    /// The degraded ones.
    Degraded,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    healthy: u64,
    degraded: u64,
    panic: bool,
}

/// The percentage of requests each priority gets.
#[derive(Debug)]
pub struct Loads {
    loads: Box<[Load]>,
}

impl Loads {
    /// Spreads 100 percent over the priorities. `panic_threshold` is in percent;
    /// 0 means that there is no panic.
    pub fn new(priorities: &[PriorityHealth], overprovisioning: u32, panic_threshold: f64) -> Self {
        let mut loads = vec![Load::default(); priorities.len()];
        let available = |usable: fn(&PriorityHealth) -> u64| -> Vec<u64> {
            let share = |p: &PriorityHealth| p.available(usable(p), overprovisioning);
            priorities.iter().map(share).collect()
        };
        let (healthy, degraded) = (available(|p| p.healthy), available(|p| p.degraded));
        let total: u64 = healthy.iter().chain(&degraded).sum();
        let total = total.min(100);
        // Envoy truncates the threshold to a whole percent.
        let panic_threshold = panic_threshold.min(100.0).trunc();

        if total == 0 {
            if panic_threshold > 0.0 {
                spread_in_total_panic(priorities, &mut loads);
            }
            return Self {
                loads: loads.into(),
            };
        }
        let mut left = 100;
        for (load, available) in loads.iter_mut().zip(&healthy) {
            load.healthy = left.min(available * 100 / total);
            left -= load.healthy;
        }
        for (load, available) in loads.iter_mut().zip(&degraded) {
            load.degraded = left.min(available * 100 / total);
            left -= load.degraded;
        }
        // What is left comes from rounding.
        if let Some(first) = healthy.iter().position(|a| *a > 0) {
            loads[first].healthy += left;
        } else if let Some(first) = degraded.iter().position(|a| *a > 0) {
            loads[first].degraded += left;
        }
        if total < 100 {
            for (load, priority) in loads.iter_mut().zip(priorities) {
                load.panic = priority.is_panic(panic_threshold);
            }
        }
        Self {
            loads: loads.into(),
        }
    }

    /// The priority for this random number or hash.
    pub fn choose(&self, hash: u64) -> (usize, Availability) {
        let point = hash % 100 + 1;
        let mut sum = 0;
        for (priority, load) in self.loads.iter().enumerate() {
            sum += load.healthy;
            if point <= sum {
                return (priority, Availability::Healthy);
            }
        }
        for (priority, load) in self.loads.iter().enumerate() {
            sum += load.degraded;
            if point <= sum {
                return (priority, Availability::Degraded);
            }
        }
        // No host can be used and panic is off.
        (0, Availability::Healthy)
    }

    /// Whether health is not looked at in this priority.
    pub fn is_panic(&self, priority: usize) -> bool {
        self.loads[priority].panic
    }
}

/// Nothing can be used anywhere: go by the number of hosts, whatever their state.
fn spread_in_total_panic(priorities: &[PriorityHealth], loads: &mut [Load]) {
    let hosts: u64 = priorities.iter().map(|p| p.hosts).sum();
    let mut left = 100;
    for (load, priority) in loads.iter_mut().zip(priorities) {
        load.panic = true;
        if let Some(share) = (100 * priority.hosts).checked_div(hosts) {
            load.healthy = share;
            left -= share;
        }
    }
    let first = priorities.iter().position(|p| p.hosts > 0).unwrap_or(0);
    loads[first].healthy += left;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(hosts: u64, healthy: u64, degraded: u64) -> PriorityHealth {
        PriorityHealth {
            hosts,
            healthy_hosts: healthy,
            degraded_hosts: degraded,
            total: hosts,
            healthy,
            degraded,
            ..PriorityHealth::default()
        }
    }

    fn spread(priorities: &[PriorityHealth]) -> Vec<(u64, u64, bool)> {
        let loads = Loads::new(priorities, 140, 50.0);
        let triple = |l: &Load| (l.healthy, l.degraded, l.panic);
        loads.loads.iter().map(triple).collect()
    }

    /// The table of Envoy's documentation on priority levels.
    #[test]
    fn a_weaker_priority_gives_way_as_documented() {
        let second = |healthy| {
            let loads = spread(&[health(100, healthy, 0), health(100, 100, 0)]);
            (loads[0].0, loads[1].0)
        };
        assert_eq!(second(100), (100, 0));
        assert_eq!(second(72), (100, 0));
        assert_eq!(second(71), (99, 1));
        assert_eq!(second(50), (70, 30));
        assert_eq!(second(25), (35, 65));
        assert_eq!(second(0), (0, 100));
    }

    #[test]
    fn degraded_hosts_take_what_is_left() {
        assert_eq!(
            spread(&[health(100, 50, 50)]),
            [(70, 30, false)],
            "of one priority"
        );
        assert_eq!(spread(&[health(100, 0, 100)]), [(0, 100, false)]);
    }

    #[test]
    fn panic_comes_when_all_priorities_together_are_too_weak() {
        assert_eq!(spread(&[health(100, 25, 0)]), [(100, 0, true)]);
        let loads = spread(&[health(100, 25, 0), health(100, 25, 0)]);
        assert_eq!(loads, [(50, 0, true), (50, 0, true)]);
        let loads = spread(&[health(100, 5, 0), health(100, 65, 0)]);
        assert_eq!(loads, [(8, 0, true), (92, 0, false)]);
    }

    #[test]
    fn with_nothing_left_the_load_follows_the_hosts() {
        let loads = spread(&[health(10, 0, 0), health(20, 0, 0)]);
        assert_eq!(loads, [(34, 0, true), (66, 0, true)]);
        assert_eq!(spread(&[health(0, 0, 0)]), [(100, 0, true)]);
        let none = Loads::new(&[health(10, 0, 0)], 140, 0.0);
        assert!(!none.is_panic(0));
        assert_eq!(none.choose(7), (0, Availability::Healthy));
    }
}
