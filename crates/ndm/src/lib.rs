//! The node disk manager: finds the disks of its node, says which of them are free, and keeps the BlockDevice and Disk
//! objects of the cluster true.
//!
//! ```text
//! tree      /sys, /run/udev, /proc  ->  Tree
//! device    Tree, settings          ->  which devices to look at; with what is on them: the list of devices
//! content   the devices themselves  ->  label, file system, partition table, nothing
//! recognise devices, objects        ->  which object each device is
//! plan      devices, objects        ->  what the objects should say; the writes that are due
//! run       the loop: uevents, a clock and a watch in; requests and wipes out
//! ```
//! Only `tree`, `content`, `sparse`, `smart` and `run` do I/O; everything that is decided is a function of plain values.
//!
//! It reads devices and never writes to them, but for two things: a device whose pool gave it back (`status.claimState`
//! Released) is wiped when nothing but a pool's label is on it, and sparse files are made.

pub mod config;
pub mod content;
pub mod device;
mod error;
mod options;
pub mod plan;
pub mod recognise;
mod report;
mod run;
mod scanner;
pub mod smart;
pub mod sparse;
pub mod tree;
pub mod uevent;

pub use error::NdmError;
pub use options::Options;
pub use report::{LeftOut, Report, ReportDevice, once};
pub use run::run;
pub use scanner::Scanner;
