//! The remarkable things that runs count, so that a fault which never bites is noticed: many runs
//! must see each, and none may be seen where its cause is switched off.

use crate::options::{DiskKind, Kind, NetworkKind, Options};

/// Something that comes about in some runs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Sometimes {
    /// What, in words.
    pub name: &'static str,
    /// What it takes.
    pub cause: Cause,
}

/// What a remarkable thing cannot do without.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Cause {
    /// Any fault at all.
    AnyFault,
    /// A log on simulated files.
    Files,
    /// The operator API.
    Http,
    /// One of these kinds of fault.
    Kinds(&'static [Kind]),
    /// Another number of servers than three.
    Number,
    /// Another server.
    Others,
    /// Few requests that may wait.
    Queues,
    /// Snapshots because a log is long.
    Snapshots,
}

impl Cause {
    /// Switches it off.
    pub fn switch_off(self, options: &mut Options) {
        match self {
            Self::AnyFault => options.switch_off(&Kind::ALL),
            Self::Files => options.disk = DiskKind::Objects,
            Self::Http => options.http = false,
            Self::Kinds(kinds) => options.switch_off(kinds),
            Self::Number => options.voters = 3,
            Self::Others => {
                options.switch_off(&Kind::ALL);
                (options.voters, options.spares) = (1, 0);
                options.network = NetworkKind::Messages;
            }
            Self::Queues => options.waiting_requests = 65_536,
            Self::Snapshots => {
                options.snapshot_after = 0;
                // Whoever comes in blank is sent one, too.
                options.switch_off(&[BitFlip, Membership, Wipe]);
            }
        }
    }
}

/// Whether the table has a thing of this name.
pub(crate) fn is_known(name: &str) -> bool {
    SOMETIMES.iter().any(|one| one.name == name)
}

use Cause::{AnyFault, Files, Http, Kinds, Number, Others, Queues, Snapshots};
use Kind::{
    AimedCrash, BitFlip, Clock, Crash, DiskFailure, Membership, Message, Partition, Pause,
    SlowDisk, Transfer, Wipe,
};

const DEATH: Cause = Kinds(&[AimedCrash, BitFlip, Crash, DiskFailure, Membership, Wipe]);
const CHANGE: Cause = Kinds(&[BitFlip, Membership, Wipe]);
const LOST: Cause = Kinds(&[BitFlip, Wipe]);

/// All of them.
#[rustfmt::skip]
pub const SOMETIMES: [Sometimes; 78] = [
    one("a bit flipped on a disk", Kinds(&[BitFlip])),
    one("a clock ran fast or slow", Kinds(&[Clock])),
    one("a command of unknown outcome was applied later", Others),
    one("a command was first applied in a later term than its own", AnyFault),
    one("a command was refused", AnyFault),
    one("a crash took a write that was not acknowledged", DEATH),
    one("a damaged disk was found out", Kinds(&[BitFlip])),
    one("a disk was slow", Kinds(&[SlowDisk])),
    one("a disk was stuck", Kinds(&[SlowDisk])),
    one("a failing disk stopped its server", Kinds(&[BitFlip, DiskFailure])),
    one("a file vanished", Kinds(&[BitFlip])),
    one("a full disk had room again", Kinds(&[DiskFailure])),
    one("a joint configuration was entered", Kinds(&[Membership])),
    one("a joint configuration was left", Kinds(&[Membership])),
    one("a leader died while it was writing", DEATH),
    one("a leader handed over", Others),
    one("a leader stood still", Kinds(&[Pause])),
    one("a leader was asked to remove itself", Kinds(&[Membership])),
    one("a leader was cut off", Kinds(&[Partition])),
    one("a leader was elected in a joint configuration", Kinds(&[Membership])),
    one("a leader was taken out", CHANGE),
    one("a learner was promoted", CHANGE),
    one("a link flapped", Kinds(&[Partition])),
    one("a link worked in one direction only", Kinds(&[Partition])),
    one("a log was compacted", Snapshots),
    one("a log was compacted to its end", Snapshots),
    one("a membership change was refused", CHANGE),
    one("a membership was changed", CHANGE),
    one("a message of the past came again", Kinds(&[Message])),
    one("a message went to another server", Kinds(&[Message])),
    one("a minority stayed down", Kinds(&[Crash])),
    one("a read was not answered", Others),
    one("a removed server was refused under its old id", CHANGE),
    one("a sector lay in the place of another", Kinds(&[BitFlip])),
    one("a server died again and again", Kinds(&[Crash])),
    one("a server died at an aimed moment", Kinds(&[AimedCrash])),
    one("a server died while it restored a snapshot", Others),
    one("a server died while it took a snapshot", Others),
    one("a server died while it was writing", DEATH),
    one("a server had too much to do", Queues),
    one("a server joined", CHANGE),
    one("a server stood still", Kinds(&[Pause])),
    one("a server that lost everything came back as another", LOST),
    one("a server that was taken out came as another", Kinds(&[Membership])),
    one("a server was a cluster by itself", Number),
    one("a server went to another address", Kinds(&[Membership])),
    one("a snapshot took the place of a log", Others),
    one("a snapshot took the place of a longer log", Snapshots),
    one("a snapshot was not taken", Others),
    one("a snapshot was sent", Others),
    one("a snapshot was taken", Snapshots),
    one("a state machine was restored from a snapshot", Others),
    one("a torn write was dropped", Files),
    one("a transfer timed out", Kinds(&[Transfer])),
    one("a transfer was refused", Kinds(&[Transfer])),
    one("a vote was refused", Others),
    one("a vote was refused before it was asked for", Others),
    one("a voter was taken out", CHANGE),
    one("a wall clock went back", Kinds(&[Clock])),
    one("a write that was never acknowledged survived", DEATH),
    one("an append was refused", Others),
    one("an even number of voters", Number),
    one("an outcome stayed unknown", Others),
    one("damage at the end looked like a torn write", Kinds(&[BitFlip])),
    one("every server was down", Kinds(&[Crash])),
    one("leadership was transferred", Kinds(&[Transfer])),
    one("messages of one kind were lost", Kinds(&[Partition])),
    one("messages were held and came at once", Kinds(&[Partition])),
    one("more asked at once than may wait", Queues),
    one("more than one entry was replaced", AnyFault),
    one("servers saw only their neighbours", Kinds(&[Partition])),
    one("the operator API answered 200", Http),
    one("the operator API answered 400", Http),
    one("the operator API answered 500", Http),
    one("the operator API answered something else", Http),
    one("the outcome of a membership change stayed unknown", CHANGE),
    one("two servers campaigned in one term", Others),
    one("two servers led at once, in different terms", AnyFault),
];

const fn one(name: &'static str, cause: Cause) -> Sometimes {
    Sometimes { name, cause }
}
