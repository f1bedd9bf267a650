//! Clients that stay with their server: a cookie names it, and nobody can make one who does not know the secret. Pure.

use super::config::{Server, Sticky};
use crate::http::message::Fields;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a cookie's value that are used: nobody guesses 128 bits.
const TOKEN_BYTES: usize = 16;

/// The cookies of an upstream's servers.
pub(super) struct Cookies {
    name: Vec<u8>,
    /// By server: the value, and the field without its line end.
    servers: Vec<(String, String)>,
}

impl Cookies {
    pub(super) fn new(sticky: &Sticky, servers: &[Server]) -> Cookies {
        let cookie = |server: &Server| {
            let token = token(sticky.secret(), server);
            let field = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax", sticky.cookie());
            (token, field)
        };
        Cookies { name: sticky.cookie().as_bytes().to_vec(), servers: servers.iter().map(cookie).collect() }
    }

    /// Which server a request's cookies name.
    pub(super) fn server(&self, fields: &Fields<'_, '_>) -> Option<usize> {
        let cookies = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(b"cookie"));
        let mut pairs = cookies.flat_map(|field| field.value.split(|byte| *byte == b';'));
        pairs.find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(self.name.as_slice())?.strip_prefix(b"=")?;
            self.servers.iter().position(|(token, _)| token.as_bytes() == value)
        })
    }

    /// What `Set-Cookie` says for a server.
    pub(super) fn field(&self, server: usize) -> &str {
        &self.servers[server].1
    }
}

/// The signature of a server's address: it says nothing of the address, and is the same in every process with this secret.
fn token(secret: &[u8], server: &Server) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length is taken");
    mac.update(server.address.to_string().as_bytes());
    let bytes = mac.finalize().into_bytes();
    bytes[..TOKEN_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::message::Slots;
    use crate::http::one::head::{HeadLimits, Outcome, parse_head};

    #[test]
    fn a_cookie_names_its_server_and_no_other_does() {
        let servers =
            [1, 2, 3].map(|port| Server::from(ringmill_engine::Address::Ip(([10, 0, 0, 1], port).into())));
        let cookies = |secret: &str| {
            let sticky = Sticky::new("place", secret.as_bytes()).unwrap();
            Cookies::new(&sticky, &servers)
        };
        let (ours, theirs) = (cookies("a secret that is long"), cookies("another secret, as long"));
        let check = |lines: &str, expected: Option<usize>| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let mut slots = Slots::new();
            let outcome = parse_head(head.as_bytes(), &mut slots, &HeadLimits::default());
            let Outcome::Complete { head, .. } = outcome else { panic!("no head: {lines}") };
            assert_eq!(ours.server(&head.fields), expected, "{lines}");
        };
        check("", None);
        for n in 0..3 {
            let token = &ours.servers[n].0;
            assert_eq!(token.len(), 2 * TOKEN_BYTES);
            assert!(ours.field(n).starts_with(&format!("place={token}; Path=/; ")));
            check(&format!("Cookie: place={token}\r\n"), Some(n));
            check(&format!("Cookie: a=b; place={token};c=d\r\n"), Some(n));
            check(&format!("Cookie: a=b\r\nCOOKIE: x; place={token}\r\n"), Some(n));
            check(&format!("Cookie: place=; place={token}\r\n"), Some(n));
            check(&format!("Cookie: xplace={token}; place2={token}\r\n"), None);
            check(&format!("Cookie: place={token}0; place={}\r\n", &token[1..]), None);
            check(&format!("Cookie: place={}\r\n", theirs.servers[n].0), None);
        }
    }

    #[test]
    fn names_and_secrets_that_are_none_are_refused() {
        let long = [b'x'; 16];
        assert!(Sticky::new("a-b_c", &long).is_ok());
        for name in ["", "a b", "a=b", "a;b", "a\r\n", "\u{e4}"] {
            assert!(Sticky::new(name, &long).is_err(), "{name:?}");
        }
        assert!(Sticky::new("a", &long[1..]).is_err());
        assert!(!format!("{:?}", Sticky::new("a", b"0123456789abcdef").unwrap()).contains("0123"));
    }
}
