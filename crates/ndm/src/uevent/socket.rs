//! The netlink socket (netlink(7), NETLINK_KOBJECT_UEVENT).

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;

use super::is_block;

/// Group 1 has the kernel's messages. udev repeats them in group 2 when its database is written: where it runs, that is
/// the moment to look.
const GROUPS: u32 = 1 | 2;
/// The kernel's messages have at most 2 KiB of properties; udev adds its own. Only the subsystem is looked for, which
/// stands at the front, so a longer message may be cut.
const LONGEST: usize = 16 * 1024;

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something happened to a block device.
    Block,
    /// The socket overflowed: something may have happened.
    Lost,
}

/// A socket that hears of devices.
#[derive(Debug)]
pub struct Socket {
    /// tokio has a safe wrapper for datagram sockets of its own kinds only. All that it does with this one is epoll and
    /// recv(2), which are the same for every kind.
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens it. Needs a running tokio runtime.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { socket: UnixDatagram::from_std(StdDatagram::from(fd))?, buffer: vec![0; LONGEST] })
    }

    /// Waits for the next message that matters. May be dropped at any time without losing one.
    pub async fn next(&mut self) -> io::Result<Heard> {
        loop {
            match self.socket.recv(&mut self.buffer).await {
                Ok(len) if is_block(&self.buffer[..len]) => return Ok(Heard::Block),
                Ok(_) => {}
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOBUFS) => return Ok(Heard::Lost),
                    Some(Errno::INTR) => {}
                    _ => return Err(error),
                },
            }
        }
    }
}
