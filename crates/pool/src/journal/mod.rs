//! The journal: batches of records in a ring on each device.
//!
//! Batch `n` goes to device `n % devices`. It is written together with the payload of its records and covered by one
//! flush of each device it touched; the next batch begins only after that, so at most the last one can be torn.

pub(crate) mod recovery;
pub(crate) mod ring;
pub(crate) mod writer;
