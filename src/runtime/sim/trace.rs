//! What has happened, as a hash and, if wanted, as text.

#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: FNV_OFFSET, lines: None }
    }
}

impl Trace {
    pub(super) fn event(&mut self, kind: &str, numbers: &[u64]) {
        self.bytes(kind.as_bytes());
        numbers.iter().for_each(|number| self.bytes(&number.to_le_bytes()));
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{kind} {numbers:?}"));
        }
    }

    pub(super) fn text(&mut self, line: &str) {
        self.bytes(line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(line.to_owned());
        }
    }

    /// The hash alone of some bytes, for events that carry many.
    pub(super) fn digest(bytes: &[u8]) -> u64 {
        bytes.iter().fold(FNV_OFFSET, |hash, &byte| fnv(hash, byte))
    }

    pub(super) fn keep(&mut self) {
        self.lines.get_or_insert_default();
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.clone().unwrap_or_default()
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.hash = bytes.iter().fold(self.hash, |hash, &byte| fnv(hash, byte));
    }
}

fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
