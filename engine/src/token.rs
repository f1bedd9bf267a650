//! The 64-bit number that travels with every operation and comes back in its completions.
//!
//! Layout: kind (8 bits) | generation (24 bits) | index (32 bits). The index names a slot, the generation says
//! which tenant of the slot was meant: a completion that arrives after the slot was reused carries the
//! old generation and is dropped by the worker. Pure data; drivers only pass it through.

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Connections of a listener; the index is the listener's.
    Accept = 1,
    /// Bytes of a connection.
    Recv = 2,
    /// Output of a connection.
    Send = 3,
    /// The worker's bell.
    Wake = 4,
    /// Datagrams that arrive; the index is the datagram socket's.
    Datagrams = 5,
    /// Room for datagrams that leave.
    Room = 6,
    /// An outbound connection; the index names the attempt.
    Connect = 7,
    /// Bytes of a connection that go to another one; the index is that of where they come from.
    Splice = 8,
}

/// Identifies one operation of one tenant of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// The number of distinct generations; after that many tenants they repeat.
    pub const GENERATIONS: u32 = 1 << 24;

    /// Packs the parts. Only the low 24 bits of `generation` are kept.
    pub const fn new(kind: Kind, generation: u32, index: u32) -> Token {
        Token(((kind as u64) << 56) | ((generation as u64 & 0xff_ffff) << 32) | index as u64)
    }

    /// The token as the kernel carries it.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Unpacks what `to_bits` gave; `None` for a number that is no token.
    pub const fn from_bits(bits: u64) -> Option<Token> {
        match bits >> 56 {
            1..=8 => Some(Token(bits)),
            _ => None,
        }
    }

    /// What the operation was for.
    pub const fn kind(self) -> Kind {
        match self.0 >> 56 {
            1 => Kind::Accept,
            2 => Kind::Recv,
            3 => Kind::Send,
            4 => Kind::Wake,
            5 => Kind::Datagrams,
            6 => Kind::Room,
            7 => Kind::Connect,
            _ => Kind::Splice,
        }
    }

    /// Which tenant of the slot.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }

    /// Which slot.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}/{}#{}", self.kind(), self.index(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for kind in [
            Kind::Accept,
            Kind::Recv,
            Kind::Send,
            Kind::Wake,
            Kind::Datagrams,
            Kind::Room,
            Kind::Connect,
            Kind::Splice,
        ] {
            for (generation, index) in [(0, 0), (1, 2), (Token::GENERATIONS - 1, u32::MAX)] {
                let token = Token::from_bits(Token::new(kind, generation, index).to_bits()).unwrap();
                assert_eq!((token.kind(), token.generation(), token.index()), (kind, generation, index));
            }
        }
    }

    #[test]
    fn generations_wrap_and_foreign_numbers_are_refused() {
        assert_eq!(Token::new(Kind::Recv, Token::GENERATIONS, 7), Token::new(Kind::Recv, 0, 7));
        assert_eq!(Token::from_bits(0), None);
        assert_eq!(Token::from_bits(9 << 56), None);
    }
}
