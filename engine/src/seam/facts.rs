//! What is known of a connection besides its bytes: said by the layer that learned it, read by any session above. Plain data.

use crate::address::Address;

/// What layers have learned of a connection. Empty on one that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The other end, as a proxy in front of us tells it (PROXY protocol): [`Io::peer`](crate::Io::peer) answers with it.
    pub peer: Option<Address>,
    /// Our end, as the proxy's client sees it: [`Io::local`](crate::Io::local) answers with it.
    pub local: Option<Address>,
    /// The connection is encrypted, and who was agreed on.
    pub secure: Option<Secure>,
    /// What else a proxy said (PROXY protocol version 2, section 2.2).
    pub proxied: Option<Proxied>,
}

impl Facts {
    /// Whether nobody between the client and its end of the encryption can read along: that end is here, or it is the proxy in
    /// front, which says so.
    pub fn is_secured(&self) -> bool {
        self.secure.is_some() || self.proxied.as_ref().is_some_and(|proxied| proxied.ssl.is_some())
    }

    /// Whether the stream ended without the peer's word that this was all ([`Secure::is_truncated`]): what only the end
    /// of the stream delimits is not to be taken for whole.
    pub fn is_truncated(&self) -> bool {
        self.secure.as_ref().is_some_and(|secure| secure.is_truncated)
    }
}

/// What a TLS handshake came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secure {
    /// The version and the cipher suite, as `TLSv1.3` and `TLS13_AES_128_GCM_SHA256`.
    pub version: &'static str,
    /// See `version`.
    pub cipher_suite: &'static str,
    /// The protocol that was agreed on (ALPN, RFC 7301).
    pub alpn: Option<Vec<u8>>,
    /// The name the client asked for (SNI, RFC 6066).
    pub server_name: Option<String>,
    /// The handshake was a resumption of an earlier one.
    pub is_resumed: bool,
    /// The client's certificates as DER, its own first: verified, or empty.
    pub client_certificates: Vec<Vec<u8>>,
    /// The stream ended without the peer's word that this was all (RFC 8446, 6.1): it may be cut.
    pub is_truncated: bool,
}

/// What a proxy said of its own connection with the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxied {
    /// PP2_TYPE_AUTHORITY: the host name the client asked for.
    pub authority: Option<String>,
    /// PP2_TYPE_ALPN.
    pub alpn: Option<Vec<u8>>,
    /// PP2_TYPE_UNIQUE_ID, at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
    /// PP2_TYPE_SSL: the client's connection with the proxy is encrypted.
    pub ssl: Option<ProxiedSsl>,
}

/// What became of a connection that had to begin with a PROXY header: [`Io::count_proxied`](crate::Io::count_proxied).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyOutcome {
    /// The header came, and was taken.
    Told,
    /// The peer is none of those who may send one, and is not served without.
    Unlisted,
    /// Something else came.
    Missing,
    /// It breaks a rule, or ends in the middle.
    Malformed,
    /// It was not there in time.
    Late,
}

/// What a proxy said of TLS between it and the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxiedSsl {
    /// The client showed a certificate in this connection or session, and it was verified.
    pub is_client_verified: bool,
    /// PP2_SUBTYPE_SSL_VERSION, as `TLSv1.3`.
    pub version: Option<String>,
    /// PP2_SUBTYPE_SSL_CIPHER.
    pub cipher: Option<String>,
    /// PP2_SUBTYPE_SSL_CN: the common name of the client's certificate.
    pub common_name: Option<String>,
}
