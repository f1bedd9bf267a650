//! The blind responder's whole protocol: one fixed reply for every N bytes, counted and never looked at.
//!
//! It never parses, so it is the floor for any server on the same kernel path. Used by `blind_uring` and
//! `blind_epoll`; the system calls are theirs.

use crate::net::ListenArgs;

/// Options of both.
#[derive(clap::Args)]
pub struct BlindArgs {
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Size of a request: this many bytes earn one reply.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub request_bytes: u32,
}

/// Byte for byte the size of ringmill's reply to `GET /plaintext`.
pub const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\n\
server: ringmill\r\n\
date: Sun, 22 Nov 2026 14:00:00 GMT\r\n\
content-type: text/plain\r\n\
content-length: 13\r\n\
\r\n\
Hello, World!";

/// Copies of the reply that lie one after the other, so that a pipelined burst leaves in one send.
const COPIES: usize = 64;

/// The repeated reply. Lives as long as the process, because sends in flight point into it.
#[derive(Clone, Copy)]
pub struct Replies(&'static [u8]);

impl Replies {
    pub fn new() -> Self {
        Replies(REPLY.repeat(COPIES).leak())
    }
}

impl Default for Replies {
    fn default() -> Self {
        Self::new()
    }
}

/// What one connection has sent us towards its next request, and what we still owe it.
///
/// Memory does not grow with the debt: a peer that never reads costs a counter.
#[derive(Clone, Copy, Default)]
pub struct Debt {
    /// Bytes of a request that is not complete yet.
    partial_bytes: usize,
    /// Reply bytes owed and not yet taken by the kernel.
    unsent_bytes: usize,
    /// Where in a reply the next send starts; not zero only after a short send.
    reply_offset: usize,
}

impl Debt {
    /// Counts `count` received bytes; every full `request_bytes` of them owes one reply.
    pub fn receive(&mut self, count: usize, request_bytes: usize) {
        self.partial_bytes += count;
        // The usual case is exactly one request, and a division costs more than the comparison.
        if self.partial_bytes == request_bytes {
            self.partial_bytes = 0;
            self.unsent_bytes += REPLY.len();
        } else {
            self.unsent_bytes += self.partial_bytes / request_bytes * REPLY.len();
            self.partial_bytes %= request_bytes;
        }
    }

    /// The bytes to send next: empty when nothing is owed, and at most one block of copies.
    pub fn unsent(&self, replies: Replies) -> &'static [u8] {
        let block = &replies.0[self.reply_offset..];
        &block[..self.unsent_bytes.min(block.len())]
    }

    /// Counts `count` bytes as taken by the kernel.
    pub fn sent(&mut self, count: usize) {
        assert!(count <= self.unsent_bytes, "the kernel took more than was owed");
        self.unsent_bytes -= count;
        self.reply_offset = (self.reply_offset + count) % REPLY.len();
    }

    pub fn is_settled(&self) -> bool {
        self.unsent_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `received` into a debt, takes at most `send_bytes_max` a send, and checks the bytes that come out.
    fn check(received: &[usize], request_bytes: usize, send_bytes_max: usize, replies: usize) {
        let block = Replies::new();
        let mut debt = Debt::default();
        let mut out = Vec::new();
        for &count in received {
            debt.receive(count, request_bytes);
            while !debt.is_settled() {
                let unsent = debt.unsent(block);
                let taken = unsent.len().min(send_bytes_max);
                out.extend_from_slice(&unsent[..taken]);
                debt.sent(taken);
            }
        }
        assert_eq!(out, REPLY.repeat(replies));
    }

    #[test]
    fn one_reply_for_every_request() {
        check(&[45], 45, usize::MAX, 1);
        check(&[44, 1], 45, usize::MAX, 1);
        check(&[46, 44], 45, usize::MAX, 2);
        check(&[45 * 16], 45, usize::MAX, 16);
        check(&[44], 45, usize::MAX, 0);
    }

    #[test]
    fn short_sends_and_bursts_longer_than_the_block_lose_nothing() {
        check(&[45 * 1000], 45, usize::MAX, 1000);
        check(&[45 * 200, 20, 25], 45, 7, 201);
    }
}
