//! What happens to a disk at rest: damage of what had been synced.

use super::disk::{Disk, SECTOR, SimFiles};

impl SimFiles {
    /// Flips one bit of what is stored, somewhere in the files whose names begin with `prefix`;
    /// `false` if there is none.
    pub fn flip_bit(&self, prefix: &str) -> bool {
        self.at_rest(|disk, dice| {
            let lens = disk.durable_lens(prefix);
            let total: usize = lens.iter().map(|(_, len)| len).sum();
            if total == 0 {
                return false;
            }
            let mut at = dice.usize(..total);
            for (node, len) in lens {
                if at < len {
                    let bit = 1 << dice.u8(..8);
                    disk.change(node, at, |byte| byte ^ bit);
                    return true;
                }
                at -= len;
            }
            false
        })
    }

    /// Puts what one sector holds in the place of another, as if a write had gone to the wrong
    /// place; `false` if there are no two that differ.
    pub fn misdirect(&self) -> bool {
        self.at_rest(|disk, dice| {
            let lens = disk.durable_lens("");
            let sectors: Vec<(u64, usize)> = lens
                .into_iter()
                .flat_map(|(node, len)| (0..len / SECTOR).map(move |at| (node, at * SECTOR)))
                .collect();
            if sectors.len() < 2 {
                return false;
            }
            let (from, to) = (dice.usize(..sectors.len()), dice.usize(..sectors.len()));
            let ((from, from_at), (to, to_at)) = (sectors[from], sectors[to]);
            let read = |disk: &Disk, node, at: usize| {
                disk.nodes.get(&node).map(|node| node.durable[at..at + SECTOR].to_vec())
            };
            let (Some(new), Some(old)) = (read(disk, from, from_at), read(disk, to, to_at)) else {
                return false;
            };
            for (at, byte) in new.iter().enumerate() {
                disk.change(to, to_at + at, |_| *byte);
            }
            new != old
        })
    }

    /// Takes a file away, as if its name had been lost; `false` if there is none.
    pub fn lose_file(&self) -> bool {
        self.at_rest(|disk, dice| {
            let names: Vec<String> = disk.durable_names.keys().cloned().collect();
            let Some(name) = names.get(dice.usize(..names.len().max(1))) else { return false };
            disk.names.remove(name);
            disk.durable_names.remove(name).is_some()
        })
    }
}

impl Disk {
    /// The files whose names begin so, and how much of each is durable.
    fn durable_lens(&self, prefix: &str) -> Vec<(u64, usize)> {
        let named = self.names.iter().filter(|(name, _)| name.starts_with(prefix));
        let len = |node: &u64| self.nodes.get(node).map_or(0, |node| node.durable.len());
        named.map(|(_, node)| (*node, len(node))).collect()
    }

    fn change(&mut self, node: u64, at: usize, change: impl Fn(u8) -> u8) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        node.durable[at] = change(node.durable[at]);
        if let Some(byte) = node.data.get_mut(at) {
            *byte = change(*byte);
        }
    }
}
