//! Who is next: higher priorities first, tenants of one priority in turns, a tenant's own calls in order.
//!
//! Turns are by start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): each tenant's next call
//! carries the cost that the tenant has had so far, and the smallest goes first. Cost is tokens, so one
//! tenant's long calls do not crowd out another one's short ones. A tenant is remembered only while it
//! has a call here.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Priority;

/// The waiters of a guard; `W` is what is queued.
#[derive(Debug)]
pub(super) struct Queue<W> {
    classes: [Class<W>; Priority::ALL.len()],
    len: usize,
    /// Counts up with each arrival.
    arrivals: u64,
}

#[derive(Debug)]
struct Class<W> {
    lanes: Vec<Lane<W>>,
    /// The start of the call that was served last.
    clock: u64,
}

/// A tenant's calls.
#[derive(Debug)]
struct Lane<W> {
    tenant: u64,
    /// When its first call starts, in tokens served.
    start: u64,
    entries: VecDeque<Entry<W>>,
}

#[derive(Debug)]
struct Entry<W> {
    waiter: Arc<W>,
    tokens: u64,
    arrival: u64,
}

impl<W> Queue<W> {
    pub(super) fn new() -> Self {
        let class = || Class { lanes: Vec::new(), clock: 0 };
        Self { classes: std::array::from_fn(|_| class()), len: 0, arrivals: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Waiters of each priority, lowest first.
    pub(super) fn by_priority(&self) -> [usize; Priority::ALL.len()] {
        let count = |class: &Class<W>| class.lanes.iter().map(|lane| lane.entries.len()).sum();
        std::array::from_fn(|index| count(&self.classes[index]))
    }

    pub(super) fn push(&mut self, priority: Priority, tenant: u64, tokens: u64, waiter: Arc<W>) {
        self.arrivals += 1;
        let entry = Entry { waiter, tokens: tokens.max(1), arrival: self.arrivals };
        let class = &mut self.classes[priority.index()];
        match class.lanes.iter_mut().find(|lane| lane.tenant == tenant) {
            Some(lane) => lane.entries.push_back(entry),
            None => {
                let start = class.clock;
                class.lanes.push(Lane { tenant, start, entries: VecDeque::from([entry]) });
            }
        }
        self.len += 1;
    }

    /// The next waiter.
    pub(super) fn peek(&self) -> Option<&Arc<W>> {
        let class = self.classes.iter().rev().find(|class| !class.lanes.is_empty())?;
        let lane = class.lanes.get(class.next()?)?;
        lane.entries.front().map(|entry| &entry.waiter)
    }

    pub(super) fn pop(&mut self) -> Option<Arc<W>> {
        let class = self.classes.iter_mut().rev().find(|class| !class.lanes.is_empty())?;
        let index = class.next()?;
        let lane = class.lanes.get_mut(index)?;
        let entry = lane.entries.pop_front()?;
        class.clock = lane.start;
        lane.start = lane.start.saturating_add(entry.tokens);
        if lane.entries.is_empty() {
            class.lanes.swap_remove(index);
        }
        self.len -= 1;
        Some(entry.waiter)
    }

    /// Takes the youngest waiter of the lowest priority, if that is lower than `than`.
    pub(super) fn evict(&mut self, than: Priority) -> Option<Arc<W>> {
        let lowest = self.classes.iter().position(|class| !class.lanes.is_empty())?;
        if lowest >= than.index() {
            return None;
        }
        let lanes = self.classes[lowest].lanes.iter();
        let youngest = lanes.flat_map(|lane| lane.entries.back()).max_by_key(|entry| entry.arrival);
        let waiter = Arc::clone(&youngest?.waiter);
        self.remove(&waiter);
        Some(waiter)
    }

    pub(super) fn remove(&mut self, waiter: &Arc<W>) {
        for class in &mut self.classes {
            let lanes = class.lanes.iter().enumerate();
            let place = lanes.into_iter().find_map(|(index, lane)| {
                let mut entries = lane.entries.iter();
                Some((index, entries.position(|entry| Arc::ptr_eq(&entry.waiter, waiter))?))
            });
            let Some((index, at)) = place else { continue };
            class.lanes[index].entries.remove(at);
            if class.lanes[index].entries.is_empty() {
                class.lanes.swap_remove(index);
            }
            self.len -= 1;
            return;
        }
    }
}

impl<W> Class<W> {
    /// The lane whose call starts first; of two, the one whose call came first.
    fn next(&self) -> Option<usize> {
        let order = |lane: &Lane<W>| (lane.start, lane.entries.front().map(|entry| entry.arrival));
        let lanes = self.lanes.iter().enumerate();
        lanes.min_by_key(|(_, lane)| order(lane)).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Batch, Critical, Interactive, Speculative};

    fn queue(calls: &[(Priority, u64, u64, &'static str)]) -> Queue<&'static str> {
        let mut queue = Queue::new();
        for (priority, tenant, tokens, name) in calls {
            queue.push(*priority, *tenant, *tokens, Arc::new(*name));
        }
        queue
    }

    fn drain(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop().map(|name| *name)).collect()
    }

    #[test]
    fn r2_higher_priorities_go_first_and_equals_in_order() {
        let mut queue = queue(&[
            (Batch, 0, 0, "b"),
            (Interactive, 0, 0, "i1"),
            (Speculative, 0, 0, "s"),
            (Interactive, 0, 0, "i2"),
            (Critical, 0, 0, "c"),
        ]);
        assert_eq!(queue.by_priority(), [1, 1, 2, 1]);
        assert_eq!(drain(&mut queue), ["c", "i1", "i2", "b", "s"]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn r2_a_tenant_with_many_calls_takes_turns_with_one_that_has_few() {
        let mut queue = queue(&[
            (Interactive, 1, 0, "a1"),
            (Interactive, 1, 0, "a2"),
            (Interactive, 1, 0, "a3"),
            (Interactive, 2, 0, "b1"),
            (Interactive, 2, 0, "b2"),
        ]);
        assert_eq!(drain(&mut queue), ["a1", "b1", "a2", "b2", "a3"]);
    }

    #[test]
    fn r2_turns_are_counted_in_tokens() {
        let mut queue = queue(&[
            (Interactive, 1, 1000, "long1"),
            (Interactive, 1, 1000, "long2"),
            (Interactive, 2, 400, "short1"),
            (Interactive, 2, 400, "short2"),
            (Interactive, 2, 400, "short3"),
            (Interactive, 2, 400, "short4"),
        ]);
        let expected = ["long1", "short1", "short2", "short3", "long2", "short4"];
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn r2_who_comes_back_does_not_get_what_it_did_not_use() {
        let mut queue = queue(&[(Interactive, 1, 500, "a1"), (Interactive, 1, 500, "a2")]);
        assert_eq!(queue.pop().as_deref(), Some(&"a1"));
        queue.push(Interactive, 2, 500, Arc::new("b1"));
        queue.push(Interactive, 2, 500, Arc::new("b2"));
        assert_eq!(drain(&mut queue), ["b1", "a2", "b2"]);
    }

    #[test]
    fn r2_the_youngest_of_the_lowest_priority_is_put_out() {
        let mut queue = queue(&[
            (Batch, 1, 0, "b1"),
            (Batch, 2, 0, "b2"),
            (Batch, 1, 0, "b3"),
            (Critical, 1, 0, "c"),
        ]);
        assert_eq!(queue.evict(Batch), None, "nobody is lower");
        assert_eq!(queue.evict(Interactive).as_deref(), Some(&"b3"));
        assert_eq!(queue.evict(Critical).as_deref(), Some(&"b2"));
        assert_eq!(drain(&mut queue), ["c", "b1"]);
        assert_eq!(queue.evict(Critical), None);
    }

    #[test]
    fn r2_a_waiter_that_leaves_takes_its_tenants_place_with_it() {
        let mut queue = queue(&[(Batch, 1, 0, "a"), (Batch, 2, 0, "b")]);
        let gone = queue.classes[Batch.index()].lanes[0].entries[0].waiter.clone();
        queue.remove(&gone);
        queue.remove(&gone);
        assert_eq!((queue.len(), queue.classes[Batch.index()].lanes.len()), (1, 1));
        assert_eq!(drain(&mut queue), ["b"]);
    }
}
