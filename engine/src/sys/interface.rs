//! Network interfaces by name.

/// The number of a network interface (if_nametoindex(3)).
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(&socket, name).ok()
}
