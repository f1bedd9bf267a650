//! temp
use super::parse::{Framing, Reject};
/// x
#[derive(Clone, Debug, Default)]
pub struct BodyLimits {
    /// x
    pub framing_bytes_max: usize,
}
#[derive(Clone, Debug)]
pub struct Decoder(u64);
pub enum Decoded<'b> {
    Data { consumed: usize, data: &'b [u8] },
    Partial { consumed: usize },
    End { consumed: usize, trailers: &'b [u8] },
    Malformed(Reject),
}
impl Decoder {
    pub fn new(f: Framing) -> Decoder {
        Decoder(match f {
            Framing::Length(n) => n,
            _ => 0,
        })
    }
    pub fn decode<'b>(&mut self, input: &'b [u8], _l: &BodyLimits) -> Decoded<'b> {
        if self.0 == 0 {
            return Decoded::End { consumed: 0, trailers: b"" };
        }
        if input.is_empty() {
            return Decoded::Partial { consumed: 0 };
        }
        let n = (self.0 as usize).min(input.len());
        self.0 -= n as u64;
        Decoded::Data { consumed: n, data: &input[..n] }
    }
}
