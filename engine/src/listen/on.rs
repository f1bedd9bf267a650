//! What a listener is given: an address to bind, or a socket that somebody has bound already.

use crate::address::Address;
use crate::error::Error;
use std::net::{SocketAddr, TcpListener};

/// Where to listen. An address is better: every worker then has a socket of its own, with a queue of its own (SO_REUSEPORT). A listener
/// that is bound already has one queue, from which all workers take; the log says so.
#[derive(Debug)]
pub struct ListenOn(pub(crate) Place);

#[derive(Debug)]
pub(crate) enum Place {
    Address(Address),
    Bound(SocketAddr, TcpListener),
}

impl From<Address> for ListenOn {
    fn from(address: Address) -> ListenOn {
        ListenOn(Place::Address(address))
    }
}

impl From<SocketAddr> for ListenOn {
    fn from(address: SocketAddr) -> ListenOn {
        Address::from(address).into()
    }
}

impl TryFrom<&str> for ListenOn {
    type Error = Error;

    fn try_from(text: &str) -> Result<ListenOn, Error> {
        Ok(Address::try_from(text)?.into())
    }
}

impl TryFrom<String> for ListenOn {
    type Error = Error;

    fn try_from(text: String) -> Result<ListenOn, Error> {
        ListenOn::try_from(&*text)
    }
}

impl TryFrom<TcpListener> for ListenOn {
    type Error = Error;

    fn try_from(listener: TcpListener) -> Result<ListenOn, Error> {
        match listener.local_addr() {
            Ok(address) => Ok(ListenOn(Place::Bound(address, listener))),
            Err(source) => {
                let address = Address::Ip(SocketAddr::from(([0, 0, 0, 0], 0)));
                Err(Error::Listen { address, step: "asking for its address", source })
            }
        }
    }
}
