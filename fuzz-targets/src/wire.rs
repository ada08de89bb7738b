//! Messages as `docs/formats.md` lays them out, written and read by another hand than the
//! library's, so that every field can be anything.

/// A message with every field in reach.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Envelope {
    pub(crate) version: u8,
    pub(crate) cluster: [u8; 16],
    pub(crate) group: u64,
    pub(crate) from: [u8; 16],
    pub(crate) to: [u8; 16],
    pub(crate) address: Vec<u8>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Raft(Raft),
    /// The kind, and all that follows.
    Other(u8, Vec<u8>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Other(3, vec![0; 4])
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Raft {
    pub(crate) kind: u8,
    pub(crate) reject: bool,
    pub(crate) term: u64,
    pub(crate) log_term: u64,
    pub(crate) index: u64,
    pub(crate) commit: u64,
    pub(crate) commit_term: u64,
    pub(crate) reject_hint: u64,
    pub(crate) request_snapshot: u64,
    pub(crate) context: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) snapshot: Option<Snapshot>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) kind: u8,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) size: u64,
    pub(crate) system: Vec<u8>,
}

/// The kinds of engine messages, by their number on the wire.
pub(crate) const APPEND: u8 = 0;
pub(crate) const APPEND_RESPONSE: u8 = 1;
pub(crate) const HEARTBEAT: u8 = 2;
pub(crate) const HEARTBEAT_RESPONSE: u8 = 3;
pub(crate) const PRE_VOTE: u8 = 4;
pub(crate) const PRE_VOTE_RESPONSE: u8 = 5;
pub(crate) const SNAPSHOT: u8 = 6;
pub(crate) const VOTE: u8 = 8;
pub(crate) const VOTE_RESPONSE: u8 = 9;
pub(crate) const KINDS: u8 = 10;

/// The kinds of entries.
pub(crate) const CHANGE: u8 = 1;
pub(crate) const EMPTY: u8 = 3;

/// The id of server `number`, as the library makes it of a number.
pub(crate) fn id(number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id
}

impl Envelope {
    /// A message of the engine from server `from`.
    pub(crate) fn raft(from: u64, to: u64, raft: Raft) -> Self {
        let body = Body::Raft(raft);
        Self { version: 1, from: id(from), to: id(to), body, ..Self::default() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.version];
        out.extend(self.cluster);
        out.extend(self.group.to_le_bytes());
        out.extend(self.from);
        out.extend(self.to);
        put(&mut out, &self.address);
        match &self.body {
            Body::Raft(raft) => raft.write(&mut out),
            Body::Other(kind, rest) => {
                out.push(*kind);
                out.extend(rest);
            }
        }
        out
    }

    /// Reads what the library wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut reader = Reader(bytes);
        let version = reader.byte();
        let cluster = reader.array();
        let (group, from, to) = (reader.number(), reader.array(), reader.array());
        let address = reader.bytes();
        let body = match reader.byte() {
            0 => Body::Raft(Raft::read(&mut reader)),
            kind => Body::Other(kind, std::mem::take(&mut reader.0).to_vec()),
        };
        assert!(reader.0.is_empty(), "the library wrote more than its format says");
        Self { version, cluster, group, from, to, address, body }
    }
}

impl Raft {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend([0, self.kind]);
        out.push(u8::from(self.reject) | u8::from(self.snapshot.is_some()) << 1);
        for number in [
            self.term,
            self.log_term,
            self.index,
            self.commit,
            self.commit_term,
            self.reject_hint,
            self.request_snapshot,
        ] {
            out.extend(number.to_le_bytes());
        }
        put(out, &self.context);
        put_count(out, self.entries.len());
        for entry in &self.entries {
            out.extend(entry.term.to_le_bytes());
            out.extend(entry.index.to_le_bytes());
            out.push(entry.kind);
            put(out, &entry.data);
        }
        if let Some(snapshot) = &self.snapshot {
            for number in [snapshot.term, snapshot.index, snapshot.size] {
                out.extend(number.to_le_bytes());
            }
            put(out, &snapshot.system);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let (kind, flags) = (reader.byte(), reader.byte());
        let mut raft = Self { kind, reject: flags & 1 != 0, ..Self::default() };
        for number in [
            &mut raft.term,
            &mut raft.log_term,
            &mut raft.index,
            &mut raft.commit,
            &mut raft.commit_term,
            &mut raft.reject_hint,
            &mut raft.request_snapshot,
        ] {
            *number = reader.number();
        }
        raft.context = reader.bytes();
        for _ in 0..reader.count() {
            let (term, index) = (reader.number(), reader.number());
            raft.entries.push(Entry { term, index, kind: reader.byte(), data: reader.bytes() });
        }
        if flags & 2 != 0 {
            let (term, index, size) = (reader.number(), reader.number(), reader.number());
            raft.snapshot = Some(Snapshot { term, index, size, system: reader.bytes() });
        }
        raft
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (array, rest) = self.0.split_first_chunk().expect("the library wrote it whole");
        self.0 = rest;
        *array
    }

    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn count(&mut self) -> usize {
        u32::from_le_bytes(self.array()) as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.count();
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes.to_vec()
    }
}

pub(crate) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend(bytes);
}

pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).expect("inputs are short").to_le_bytes());
}

/// A membership with every field in reach.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Members {
    pub(crate) version: u8,
    pub(crate) index: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) outgoing: Vec<Member>,
    pub(crate) staging: Vec<[u8; 16]>,
    pub(crate) tombstones: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Member {
    pub(crate) id: [u8; 16],
    pub(crate) role: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) address: Vec<u8>,
}

impl Members {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.version];
        out.extend(self.index.to_le_bytes());
        for group in [&self.members, &self.outgoing] {
            put_count(&mut out, group.len());
            group.iter().for_each(|member| member.write(&mut out));
        }
        put_count(&mut out, self.staging.len());
        self.staging.iter().for_each(|id| out.extend(id));
        put_count(&mut out, self.tombstones.len());
        self.tombstones.iter().for_each(|id| out.extend(id.to_le_bytes()));
        out
    }
}

impl Member {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.id);
        out.push(self.role);
        put(out, &self.name);
        put(out, &self.address);
    }
}
