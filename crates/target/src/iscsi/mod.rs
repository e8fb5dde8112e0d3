//! iSCSI (RFC 7143) as state machines without I/O: bytes in, bytes out, no sockets, no clock, no tasks.
//!
//! * [`pdu`]: headers to structs and back; [`framing`]: byte stream to PDUs and back; [`digest`]: CRC32C.
//! * [`text`], [`keys`]: the key=value language and the result function of every key.
//! * [`login`]: one connection's login phase; [`session`]: its full feature phase.
//!
//! Error recovery level 0, one connection a session: a session is a connection, and any doubt about framing or
//! numbering ends it, so that the initiator starts over (RFC 7143 section 7.1.4.1, session recovery).

pub mod digest;
pub mod framing;
pub mod keys;
pub mod login;
pub mod pdu;
pub mod session;
pub mod text;
