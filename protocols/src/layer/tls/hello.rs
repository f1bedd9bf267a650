//! Whom a client that speaks TLS asks for, read from its first bytes without opening anything.

use rustls::server::Acceptor;

/// A client's first message may have so many bytes, with the frames around it: with keys that resist quantum computers it has 2 KiB.
const HELLO_BYTES_MAX: usize = 32 * 1024;

/// Reads the first message of a client.
#[derive(Default)]
pub struct Hello {
    acceptor: Acceptor,
    read_bytes: usize,
}

/// What a client's first bytes ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The message is not complete.
    Incomplete,
    /// A server of this name, or of none.
    For(Option<String>),
    /// It is not the message of a client of TLS, or too long a one.
    Nothing,
}

impl Hello {
    /// What is sent to a client whose name nobody has: the alert unrecognized_name (RFC 6066, 3), which is fatal.
    pub const UNKNOWN_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

    /// Reads the next bytes. No more are to be read once it has answered anything but `Incomplete`.
    pub fn read(&mut self, bytes: &[u8]) -> Asked {
        self.read_bytes += bytes.len();
        let mut rest = bytes;
        loop {
            let before = rest.len();
            if self.acceptor.read_tls(&mut rest).is_err() {
                return Asked::Nothing;
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    return Asked::For(accepted.client_hello().server_name().map(str::to_owned));
                }
                Ok(None) if rest.is_empty() && self.read_bytes <= HELLO_BYTES_MAX => {
                    return Asked::Incomplete;
                }
                Ok(None) if rest.len() < before => {}
                Ok(None) | Err(_) => return Asked::Nothing,
            }
        }
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn hello_for(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let (mut bytes, mut client) = (Vec::new(), ClientConnection::new(Arc::new(config), name).unwrap());
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The answer, however the bytes are cut.
    #[track_caller]
    fn check(bytes: &[u8], expected: &Asked) {
        for piece in [1, 2, 7, 1000, bytes.len()] {
            let mut hello = Hello::default();
            let mut answers = bytes.chunks(piece).map(|piece| hello.read(piece));
            assert_eq!(
                answers.find(|asked| *asked != Asked::Incomplete).as_ref(),
                Some(expected),
                "by {piece}"
            );
        }
    }

    /// The same message, with so many bytes in each record.
    fn in_records_of(bytes_max: usize, hello: &[u8]) -> Vec<u8> {
        let records = hello[5..].chunks(bytes_max);
        records.flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat()).collect()
    }

    #[test]
    fn names_that_clients_ask_for() {
        let named = |name: &str| Asked::For(Some(name.to_owned()));
        check(&hello_for("db.example.com"), &named("db.example.com"));
        check(&in_records_of(200, &hello_for("a.test")), &named("a.test"));
        check(&in_records_of(3, &hello_for("a.test")), &named("a.test"));
        // Nobody asks for an address.
        check(&hello_for("192.0.2.1"), &Asked::For(None));
        let whole = hello_for("a.test");
        assert_eq!(Hello::default().read(&whole[..whole.len() - 1]), Asked::Incomplete);
        // What the client sends behind it is another's to read.
        assert_eq!(Hello::default().read(&[&whole[..], b"more"].concat()), named("a.test"));
    }

    #[test]
    fn what_is_no_hello() {
        check(b"GET / HTTP/1.1\r\n\r\n", &Asked::Nothing);
        check(b"SSH-2.0-OpenSSH\r\n", &Asked::Nothing);
        // An alert, and a server's part.
        check(&[21, 3, 3, 0, 2, 2, 40], &Asked::Nothing);
        check(&[22, 3, 3, 0, 4, 14, 0, 0, 0], &Asked::Nothing);
        // One that is announced and never ends.
        let announced = [&[1, 0, 0xff, 0xff], &[0; 40_000][..]].concat();
        check(&in_records_of(250, &[&[0; 5], &announced[..]].concat()), &Asked::Nothing);
    }
}
