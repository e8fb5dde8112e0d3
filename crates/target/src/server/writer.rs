//! The send queue of a connection: all PDUs that are ready go into one gathered write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::iscsi::digest::Digests;
use crate::iscsi::framing::WirePdu;
use crate::iscsi::pdu::OutPdu;

/// Pieces of one gathered write; 32 answers of header and data are 64.
const MAX_PIECES: usize = 128;

/// PDUs that wait for the socket.
pub(super) struct Writer {
    queue: VecDeque<WirePdu>,
    /// Bytes of the first PDU that are already sent.
    sent: usize,
    bytes: usize,
    /// Bytes that the socket has taken since the beginning.
    written: u64,
    digests: Digests,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { queue: VecDeque::new(), sent: 0, bytes: 0, written: 0, digests: Digests::default() }
    }

    pub(super) fn set_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    pub(super) fn push(&mut self, pdu: OutPdu) {
        let pdu = WirePdu::new(pdu, self.digests);
        self.bytes += pdu.len();
        self.queue.push_back(pdu);
    }

    /// Bytes that wait.
    pub(super) fn backlog(&self) -> usize {
        self.bytes
    }

    /// Where in the stream the socket is.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Where in the stream the last PDU ends.
    pub(super) fn end(&self) -> u64 {
        self.written + self.bytes as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Writes until the queue is empty or the socket full.
    pub(super) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let n = {
                let mut slices = [IoSlice::new(&[]); MAX_PIECES];
                let mut used = 0;
                let mut skip = self.sent;
                for pdu in &self.queue {
                    if used + 3 > MAX_PIECES {
                        break;
                    }
                    for piece in pdu.pieces() {
                        let cut = skip.min(piece.len());
                        skip -= cut;
                        if cut < piece.len() {
                            slices[used] = IoSlice::new(&piece[cut..]);
                            used += 1;
                        }
                    }
                }
                ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..used]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, n: usize) {
        self.bytes -= n;
        self.written += n as u64;
        self.sent += n;
        while let Some(first) = self.queue.front().map(WirePdu::len)
            && self.sent >= first
        {
            self.sent -= first;
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::task::Waker;

    /// Takes a few bytes at a time.
    struct Slow {
        got: Vec<u8>,
        step: usize,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.step);
            self.got.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
            let n = all.len().min(self.step);
            self.got.extend_from_slice(&all[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn partial_writes_lose_and_repeat_nothing(
            lens in prop::collection::vec(0usize..3000, 1..100), step in 1usize..9000, header: bool, data: bool,
        ) {
            let digests = Digests { header, data };
            let mut writer = Writer::new();
            writer.set_digests(digests);
            let mut want = Vec::new();
            for (i, len) in lens.iter().enumerate() {
                let pdu = OutPdu::new([i as u8; 48], Bytes::from(vec![!(i as u8); *len]));
                want.extend(WirePdu::new(pdu.clone(), digests).pieces().concat());
                writer.push(pdu);
            }
            prop_assert_eq!((writer.backlog(), writer.written(), writer.end()), (want.len(), 0, want.len() as u64));
            let mut slow = Slow { got: Vec::new(), step };
            let done = writer.poll_flush(&mut Context::from_waker(Waker::noop()), &mut slow);
            prop_assert!(matches!(done, Poll::Ready(Ok(()))));
            prop_assert!(slow.got == want && writer.is_empty() && writer.backlog() == 0);
            prop_assert_eq!((writer.written(), writer.end()), (want.len() as u64, want.len() as u64));
        }
    }
}
