//! An in-process network for kontiki, with a fault policy.
