//! Every reason for which a request is refused, with its status and its sentence.

/// Defines [`Reject`] from one table, so that a reason cannot be without its status or its sentence.
macro_rules! rejects {
    ($($name:ident $status:literal $reason:literal)*) => {
        /// Why a request is refused. Every variant's text is the one that [`Reject::reason`] gives to the
        /// client.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reject { $(#[doc = $reason] $name,)* }

        impl Reject {
            /// The status code of the answer. The connection closes after it.
            pub const fn status(self) -> u16 {
                match self { $(Reject::$name => $status,)* }
            }

            /// A sentence that tells the client's author what was wrong, and where the rule stands.
            pub const fn reason(self) -> &'static str {
                match self { $(Reject::$name => $reason,)* }
            }

            #[cfg(test)]
            pub(super) const ALL: &[Reject] = &[$(Reject::$name,)*];
        }
    };
}

rejects! {
    EmptyLines 400 "At most one empty line may come before the request line (RFC 9112 section 2.2)."
    BareLf 400 "A line ended in LF without CR; lines end in CRLF (RFC 9112 section 2.2)."
    BareCr 400 "A CR stood without its LF (RFC 9112 section 2.2)."
    MethodMalformed 400 "A request starts with a method, which is a token, and one space (RFC 9112 section 3.1)."
    MethodLong 400 "The method fills the whole request line (RFC 9112 section 3.1)."
    TargetEmpty 400 "One space, then the target, comes after the method (RFC 9112 section 3)."
    TargetByte 400 "The request target holds a control byte (RFC 9112 section 3.2)."
    TargetNotAscii 400 "The request target holds bytes that are not ASCII; percent-encode them (RFC 3986 section 2.1)."
    TargetFragment 400 "A request target has no fragment; '#' must be percent-encoded (RFC 9110 section 7.1)."
    TargetForm 400 "The request target is a path that starts with '/', or an absolute URI (RFC 9112 section 3.2)."
    TargetAsterisk 400 "The target '*' is for OPTIONS only (RFC 9112 section 3.2.4)."
    TargetConnect 400 "The target of CONNECT is a host, a colon and a port (RFC 9112 section 3.2.3)."
    TargetScheme 400 "An absolute target has the scheme http or https (RFC 9110 section 4.2)."
    TargetSecured 421 "A target with the scheme https needs a secured connection, and this is none (RFC 9110 section 7.4)."
    TargetAuthority 400 "An absolute target has a host and perhaps a port, and no userinfo (RFC 9110 section 4.2)."
    VersionMissing 400 "The request line ends in a space and the HTTP version (RFC 9112 section 3)."
    VersionMalformed 400 "The request line must end in HTTP/1.1 or HTTP/1.0 and nothing after it (RFC 9112 section 2.3)."
    VersionUnsupported 505 "This server speaks HTTP/1.1 and HTTP/1.0 (RFC 9110 section 15.6.6)."
    RequestLineLong 414 "The request line is longer than this server accepts (RFC 9112 section 3)."
    HeadLong 431 "The request head is longer than this server accepts (RFC 6585 section 5, RFC 9110 section 5.4)."
    FieldsMany 431 "The request has more header fields than this server accepts (RFC 6585 section 5, RFC 9110 section 5.4)."
    FieldFolded 400 "A field line starts with white space; folded lines are obsolete (RFC 9112 section 5.2)."
    FieldNameEmpty 400 "A field line has no name before its colon (RFC 9112 section 5)."
    FieldNameSpace 400 "White space stands between a field name and its colon (RFC 9112 section 5.1)."
    FieldNameByte 400 "A field name holds a byte that is not allowed in a token (RFC 9110 section 5.1)."
    FieldColon 400 "A field line has no colon (RFC 9112 section 5)."
    FieldValueByte 400 "A field value holds NUL or another control byte (RFC 9110 section 5.5)."
    HostMissing 400 "An HTTP/1.1 request must have a Host field (RFC 9112 section 3.2)."
    HostEmpty 400 "The Host field is empty (RFC 9110 sections 4.2.1 and 7.2)."
    HostRepeated 400 "The Host field came more than once (RFC 9112 section 3.2)."
    HostMalformed 400 "The Host field is a host and perhaps a colon and a port up to 65535, nothing else (RFC 9110 section 7.2)."
    HostMismatch 400 "The Host field differs from the authority of the target (RFC 9112 section 3.2)."
    LengthMalformed 400 "Content-Length is decimal digits only (RFC 9110 section 8.6)."
    LengthOverflow 400 "Content-Length does not fit in 64 bits (RFC 9110 section 8.6)."
    LengthRepeated 400 "Content-Length came more than once (RFC 9112 section 6.3)."
    LengthAndCoding 400 "Content-Length and Transfer-Encoding exclude each other (RFC 9112 section 6.2)."
    CodingVersion 400 "Transfer-Encoding does not exist in HTTP/1.0 (RFC 9112 section 6.1)."
    CodingMalformed 400 "Transfer-Encoding is not a list of transfer codings (RFC 9112 section 6.1)."
    CodingRepeated 400 "Transfer-Encoding is given once, with chunked in it once (RFC 9112 section 6.1)."
    CodingNotFinal 400 "The last transfer coding of a request must be chunked (RFC 9112 section 6.3)."
    CodingUnknown 501 "The only transfer coding that this server knows is chunked (RFC 9112 section 6.1)."
    Expectation 417 "The only expectation that this server meets is 100-continue (RFC 9110 section 10.1.1)."
    ChunkSize 400 "A chunk starts with its size in hexadecimal digits, then ';' or CRLF (RFC 9112 section 7.1)."
    ChunkSizeLong 400 "A chunk size has more than 16 digits (RFC 9112 section 7.1)."
    ChunkExtension 400 "A chunk extension is ';', a token, and perhaps '=' and a token or quoted string (RFC 9112 section 7.1.1)."
    ChunkLine 400 "The line of a chunk size does not end in CRLF (RFC 9112 section 7.1)."
    ChunkEnd 400 "The data of a chunk is not followed by CRLF (RFC 9112 section 7.1)."
    ChunkFramingLong 400 "Chunk extensions and trailers are longer than this server accepts (RFC 9112 section 7.1.1)."
    TrailerForbidden 400 "A field that frames or routes a message came as a trailer (RFC 9110 section 6.5.1)."
}
