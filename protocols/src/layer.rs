//! Layers: they stand on a connection and carry any protocol, or another layer.

pub mod alpn;
#[cfg(feature = "proxy-protocol")]
pub mod proxy;
#[cfg(feature = "tls-layer")]
pub mod tls;
