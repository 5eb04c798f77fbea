//! Earliest deadline first: each is picked as often as its weight says, evenly
//! spread.

use std::{cmp::Ordering, collections::BinaryHeap};

/// A schedule of `n` things with weights.
#[derive(Debug)]
pub(super) struct Edf {
    now: f64,
    turns: u64,
    queue: BinaryHeap<Entry>,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    /// Breaks ties by who came first.
    turn: u64,
    index: usize,
}

impl Edf {
    /// A schedule that begins somewhere in its round, so that workers do not go
    /// in step. Things of no weight are left out.
    pub(super) fn new(count: usize, weight: impl Fn(usize) -> f64, random: u64) -> Self {
        let mut schedule = Self {
            now: 0.0,
            turns: 0,
            queue: BinaryHeap::with_capacity(count),
        };
        for index in 0..count {
            schedule.add(index, weight(index));
        }
        if let Some(skip) = random.checked_rem(schedule.queue.len() as u64) {
            for _ in 0..skip {
                schedule.pick(&weight);
            }
        }
        schedule
    }

    fn add(&mut self, index: usize, weight: f64) {
        if weight > 0.0 {
            self.turns += 1;
            self.queue.push(Entry {
                deadline: self.now + 1.0 / weight,
                turn: self.turns,
                index,
            });
        }
    }

    /// The next one, put back into the queue with its present weight.
    pub(super) fn pick(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let Entry {
            deadline, index, ..
        } = self.queue.pop()?;
        self.now = deadline;
        self.add(index, weight(index));
        Some(index)
    }
}

impl Ord for Entry {
    /// The greatest is the next: the earliest deadline, then the earliest turn.
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then_with(|| other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
