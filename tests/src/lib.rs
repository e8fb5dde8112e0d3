//! The outer test harness: runs the real `ballast` binary, real initiators and `kill -9`.
//!
//! * [`cluster`] - `ballast up` in a directory of its own, its processes by name, and how to kill them
//! * [`load`] - the checked load (`tools/checkload.c`) that knows what every sector must hold
//! * [`mod@bench`] - the measuring load (`tools/iobench.c`)
//! * [`initiator`] - qemu-img, iscsi-ls and the like
//! * [`conformance`] - libiscsi's conformance tests, suite by suite
//! * [`uml`] - a Linux guest with the kernel's own initiator, in a network namespace of its own
//! * [`tgt`] - a foreign target, on which the tools themselves are proven
//! * [`scratch`] - directories and names of a test's own
//! * [`runner`] - runs the tests of one file, prints libtest's lines, can skip
//!
//! Rules: everything has unique names and addresses, so that any number of runs go side by side; every process is ended
//! by its pid; what a test made is gone when it ends, however it ends.

pub mod bench;
pub mod cluster;
pub mod conformance;
pub mod initiator;
pub mod load;
pub mod process;
pub mod random;
pub mod runner;
pub mod scratch;
pub mod status;
pub mod tgt;
pub mod tools;
pub mod uml;
