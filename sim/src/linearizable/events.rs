//! The calls and returns of a register in real-time order, less those that a search has taken.

use super::register::Step;

/// What a cursor of the list stands on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Event {
    Call(usize),
    End,
    Return,
}

/// A doubly linked ring: taking an operation out and putting it back, in the reverse order, cost
/// the same few writes however long the history is. The cursor of a call is the step's number.
pub(super) struct Events {
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Whether the step has a return.
    returns: Vec<bool>,
}

impl Events {
    pub(super) fn new(steps: &[Step]) -> Self {
        let n = steps.len();
        let calls = steps.iter().enumerate().map(|(at, step)| (step.call, false, at));
        let ends = steps.iter().enumerate();
        let ends = ends.filter_map(|(at, step)| step.end.map(|end| (end, true, n + at)));
        // At one moment calls come first: what cannot be told apart is concurrent.
        let mut order: Vec<_> = calls.chain(ends).collect();
        order.sort_unstable();

        let ring = u32::try_from(2 * n + 1).expect("a history fits into memory many times over");
        let mut events = Self {
            next: vec![0; ring as usize],
            previous: vec![0; ring as usize],
            returns: steps.iter().map(|step| step.end.is_some()).collect(),
        };
        let mut last = ring - 1;
        for (_, _, node) in order {
            let node = node as u32;
            events.join(last, node);
            last = node;
        }
        events.join(last, ring - 1);
        events
    }

    pub(super) fn first(&self) -> usize {
        self.next[2 * self.returns.len()] as usize
    }

    pub(super) fn after(&self, cursor: usize) -> usize {
        self.next[cursor] as usize
    }

    pub(super) fn at(&self, cursor: usize) -> Event {
        let n = self.returns.len();
        match cursor {
            cursor if cursor < n => Event::Call(cursor),
            cursor if cursor < 2 * n => Event::Return,
            _ => Event::End,
        }
    }

    pub(super) fn take(&mut self, step: usize) {
        self.unlink(step);
        if self.returns[step] {
            self.unlink(self.returns.len() + step);
        }
    }

    /// Puts the step back that was taken last.
    pub(super) fn put_back(&mut self, step: usize) {
        if self.returns[step] {
            self.link(self.returns.len() + step);
        }
        self.link(step);
    }

    fn unlink(&mut self, node: usize) {
        self.join(self.previous[node], self.next[node]);
    }

    fn link(&mut self, node: usize) {
        self.next[self.previous[node] as usize] = node as u32;
        self.previous[self.next[node] as usize] = node as u32;
    }

    fn join(&mut self, left: u32, right: u32) {
        self.next[left as usize] = right;
        self.previous[right as usize] = left;
    }
}
