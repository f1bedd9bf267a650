//! What a socket has that may have something: connections or bytes, a bounded number at once.

use super::{Entry, Input};
use crate::event::{Errno, Event, Payload, Socket};
use crate::pool::{Block, Pool};
use crate::sys;
use crate::token::Token;
use std::io::IoSliceMut;

/// Connections accepted in one turn before others have theirs.
const ACCEPTS_A_TURN: usize = 64;

pub(super) fn accept(entry: &mut Entry, listener: Socket, token: Token, events: &mut Vec<Event>) -> bool {
    for _ in 0..ACCEPTS_A_TURN {
        match sys::accept(listener, false) {
            Ok(socket) => {
                let result = Ok(socket.0 as u32);
                events.push(Event { token, result, more: true, payload: Payload::None });
            }
            Err(Errno::EAGAIN) => {
                entry.may_read = false;
                entry.input = Input::Accept(token);
                return false;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => {
                events.push(Event { token, result: Err(errno), more: false, payload: Payload::None });
                return false;
            }
        }
    }
    entry.input = Input::Accept(token);
    true
}

pub(super) fn recv(
    entry: &mut Entry,
    pool: &mut Pool,
    socket: Socket,
    token: Token,
    turn_bytes_max: u32,
    events: &mut Vec<Event>,
) -> bool {
    let mut received = 0;
    loop {
        let mut room_bytes = pool.block_bytes();
        let tell = |block: Block| {
            let result = Ok(block.len() as u32);
            events.push(Event { token, result, more: true, payload: Payload::Block(block) });
        };
        let filled = if entry.is_bulk {
            // The rest of what a turn may bring, with one call.
            let buffers = (turn_bytes_max as usize - received).div_ceil(room_bytes);
            let receive = |buffers: &mut [IoSliceMut<'_>]| {
                room_bytes = buffers.iter().map(|buffer| buffer.len()).sum();
                sys::recv_vectored(socket, buffers)
            };
            pool.fill_many(buffers, receive, tell)
        } else {
            pool.fill(|buffer| sys::recv(socket, buffer), tell)
        };
        let over = |result| Event { token, result, more: false, payload: Payload::None };
        match filled {
            Some(Ok(bytes)) if bytes > 0 => {
                received += bytes;
                entry.is_bulk = bytes >= pool.block_bytes();
                // A receive that did not fill its buffers emptied the socket; more bytes make a new edge.
                if bytes < room_bytes && !entry.may_fall_short {
                    entry.may_read = false;
                    break;
                }
                if received >= turn_bytes_max as usize {
                    entry.input = Input::Recv(token, turn_bytes_max);
                    return true;
                }
            }
            Some(Ok(_)) => {
                events.push(over(Ok(0)));
                return false;
            }
            Some(Err(Errno::EAGAIN)) => {
                entry.may_read = false;
                break;
            }
            Some(Err(Errno::EINTR)) => {}
            Some(Err(errno)) => {
                events.push(over(Err(errno)));
                return false;
            }
            // Buffers come back after the events of this turn were handled: go on then.
            None if !events.is_empty() => {
                entry.input = Input::Recv(token, turn_bytes_max);
                return true;
            }
            None => {
                events.push(over(Err(Errno::ENOBUFS)));
                return false;
            }
        }
    }
    entry.input = Input::Recv(token, turn_bytes_max);
    false
}
