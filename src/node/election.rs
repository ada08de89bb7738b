//! Election jitter as a pure function, because the engine would otherwise draw it from the
//! operating system.

/// How many ticks without a leader until this node campaigns, from `ticks_min` to just below twice
/// that.
///
/// Being a function of the term it needs no memory of when the engine drew anew: set after every
/// input, it is the same until the term changes. `attempt` changes it for pre-votes, which leave
/// the term alone.
pub(super) fn timeout_ticks(
    seed: u64,
    id: u64,
    term: u64,
    attempt: u64,
    ticks_min: usize,
) -> usize {
    let mixed = [id, term, attempt].iter().fold(seed, |state, &part| splitmix(state ^ part));
    ticks_min + usize::try_from(mixed % ticks_min as u64).expect("below ticks_min")
}

pub(super) fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_stay_in_range_and_differ_between_nodes_terms_and_attempts() {
        let all: std::collections::BTreeSet<_> = (1..200)
            .map(|n| timeout_ticks(7, n % 5, n, n / 3, 20))
            .inspect(|ticks| assert!((20..40).contains(ticks)))
            .collect();
        assert_eq!(all.len(), 20, "every value of the range is drawn");
    }
}
