//! The handle on a running node.

mod leadership;
mod lifecycle;
mod verbs;

pub use self::leadership::TransferError;
pub use self::lifecycle::{BootstrapError, JoinError, StartError};
pub use self::verbs::{Applied, Consistency, ProposeError, ReadError, ReadGuarantee};
