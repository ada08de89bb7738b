//! The search for a linearization of one register, a slice at a time.

use super::events::{Event, Events};
use super::memo::Memo;
use super::register::{Need, Register, Step};
use super::zones;

/// A depth-first search over the orders that real time allows, after Wing and Gong, with Lowe's
/// memory of the situations it has been in.
///
/// A situation is the set of steps taken and the state of the register; of both only a fingerprint
/// is kept. Three arguments keep the search small; each is exact, none counts on values being
/// unique:
///
/// - A value that no step left over speaks of is as good as any other such value.
/// - A step that changes nothing is taken as soon as its answer is true: that shuts no way.
/// - A value that is still needed is not overwritten when nobody will write it again.
pub(super) struct Search {
    steps: Vec<Step>,
    events: Events,
    /// By value: who among the steps not taken speaks of it.
    left: Vec<Left>,
    refusals: bool,
    state: usize,
    /// The fingerprint of the set of steps taken.
    taken: u128,
    memo: Memo,
    path: Vec<Frame>,
    cursor: usize,
    /// How many steps that must be taken are not.
    open: usize,
    /// No order can explain it, as was seen without a search.
    hopeless: bool,
}

/// How far a search came with what it was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    Linearizable,
    More,
    NotLinearizable,
    /// It needs more memory than it may have.
    Starved,
}

#[derive(Clone, Copy, Default)]
struct Left {
    /// Steps whose answer depends on it.
    mentions: u32,
    /// Those among them that must be taken while the register holds it.
    needs: u32,
    writers: u32,
}

struct Frame {
    step: usize,
    state: usize,
    /// Whether nothing is gained by not taking the step here.
    forced: bool,
}

enum Turn {
    DeadEnd,
    Skip,
    Take,
}

impl Search {
    pub(super) fn new(mut register: Register) -> Self {
        register.drop_unseen();
        let refusals = register.has_refusals();
        let hopeless = zones::contradict(&register);
        let steps = register.steps;
        let mut left = vec![Left::default(); register.values];
        for step in &steps {
            count(&mut left, step, |number| *number += 1);
        }
        let events = Events::new(&steps);
        let cursor = events.first();
        let open = steps.iter().filter(|step| step.end.is_some()).count();
        Self {
            steps,
            events,
            left,
            refusals,
            state: 0,
            taken: 0,
            memo: Memo::default(),
            path: Vec::new(),
            cursor,
            open,
            hopeless,
        }
    }

    /// Goes on for at most `slice` steps, which it takes from `budget`, with a memory of at most
    /// `memory_bytes`.
    pub(super) fn run(&mut self, budget: &mut u64, slice: u64, memory_bytes: usize) -> Progress {
        if self.hopeless {
            return Progress::NotLinearizable;
        }
        let reserve = budget.saturating_sub(slice);
        while self.open > 0 {
            if *budget == reserve {
                return Progress::More;
            }
            if !self.memo.reserve(memory_bytes) {
                return Progress::Starved;
            }
            *budget -= 1;
            let turn = match self.events.at(self.cursor) {
                Event::Call(step) => self.take(step),
                Event::End | Event::Return => Turn::DeadEnd,
            };
            match turn {
                Turn::DeadEnd if !self.back() => return Progress::NotLinearizable,
                Turn::DeadEnd => {}
                Turn::Skip => self.cursor = self.events.after(self.cursor),
                Turn::Take => self.cursor = self.events.first(),
            }
        }
        Progress::Linearizable
    }

    /// Takes the step at `at` as the next, if that may lead to anything new.
    fn take(&mut self, at: usize) -> Turn {
        let step = self.steps[at];
        let true_here = match step.need {
            Need::Any => true,
            Need::Equal(value) => self.state == value,
            Need::Other(value) => self.state != value,
        };
        if !true_here {
            return Turn::Skip;
        }
        let before = self.shown(self.state);
        count(&mut self.left, &step, |number| *number -= 1);
        let state = step.set.unwrap_or(self.state);
        let after = self.shown(state);
        let left = self.left[self.state];
        let lost = state != self.state && left.needs > 0 && left.writers == 0;
        // Between two values that nobody speaks of there is a difference to a refused exchange
        // only: it may be waiting for such a write to happen later.
        let idle = step.set.is_none() || (before == after && after.is_none() && !self.refusals);
        let forced = idle && step.end.is_some();
        let useless = before == after && step.end.is_none();
        let taken = self.taken ^ spread(at as u64);
        let situation = taken ^ spread(after.map_or(!0, |value| !1 - value as u64));
        if lost || useless || !self.memo.insert(situation) {
            count(&mut self.left, &step, |number| *number += 1);
            return if forced { Turn::DeadEnd } else { Turn::Skip };
        }
        self.path.push(Frame { step: at, state: self.state, forced });
        self.events.take(at);
        self.state = state;
        self.taken = taken;
        self.open -= usize::from(step.end.is_some());
        Turn::Take
    }

    /// Returns to the last step that need not have been taken where it was. False if there is none.
    fn back(&mut self) -> bool {
        while let Some(frame) = self.path.pop() {
            let step = &self.steps[frame.step];
            self.events.put_back(frame.step);
            self.state = frame.state;
            self.taken ^= spread(frame.step as u64);
            self.open += usize::from(step.end.is_some());
            count(&mut self.left, step, |number| *number += 1);
            if !frame.forced {
                self.cursor = self.events.after(frame.step);
                return true;
            }
        }
        false
    }

    /// The state as far as the steps left over can tell.
    fn shown(&self, state: usize) -> Option<usize> {
        Some(state).filter(|state| self.left[*state].mentions > 0)
    }
}

/// Counts `step` among, or no longer among, those left over.
fn count(left: &mut [Left], step: &Step, change: fn(&mut u32)) {
    match step.need {
        Need::Any => {}
        Need::Equal(value) => {
            change(&mut left[value].mentions);
            if step.end.is_some() {
                change(&mut left[value].needs);
            }
        }
        Need::Other(value) => change(&mut left[value].mentions),
    }
    if let Some(value) = step.set {
        change(&mut left[value].writers);
    }
}

/// Spreads a small number over 128 bits, so that sets of them can be told apart by their exclusive
/// or.
fn spread(number: u64) -> u128 {
    let half = |seed: u64| {
        // The finalizer of splitmix64.
        let mut bits = number.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(bits ^ (bits >> 31))
    };
    half(0x0123_4567_89ab_cdef) << 64 | half(0x9e37_79b9)
}
