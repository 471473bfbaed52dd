//! Builders: each appends one whole message to the buffer, unless its name says otherwise.

use bytes::{BufMut, BytesMut};

use super::{Format, TargetKind};
use crate::{
    put,
    startup::{CANCEL_REQUEST_CODE, GSSENC_REQUEST_CODE, ProtocolVersion, SSL_REQUEST_CODE},
    tag::frontend as tag,
};

/// StartupMessage.
pub fn put_startup<N, V>(
    out: &mut BytesMut,
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (N, V)>,
) where
    N: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    put::untagged(out, |out| {
        out.put_u16(version.major);
        out.put_u16(version.minor);
        for (name, value) in parameters {
            put::cstr(out, name);
            put::cstr(out, value);
        }
        out.put_u8(0);
    });
}

/// SSLRequest.
pub fn put_ssl_request(out: &mut BytesMut) {
    put::untagged(out, |out| out.put_u32(SSL_REQUEST_CODE));
}

/// GSSENCRequest.
pub fn put_gssenc_request(out: &mut BytesMut) {
    put::untagged(out, |out| out.put_u32(GSSENC_REQUEST_CODE));
}

/// CancelRequest, on a connection of its own.
pub fn put_cancel_request(out: &mut BytesMut, pid: i32, key: &[u8]) {
    put::untagged(out, |out| {
        out.put_u32(CANCEL_REQUEST_CODE);
        out.put_i32(pid);
        out.extend_from_slice(key);
    });
}

/// PasswordMessage.
pub fn put_password(out: &mut BytesMut, password: impl AsRef<[u8]>) {
    put::frame(out, tag::PASSWORD, |out| put::cstr(out, password));
}

/// SASLInitialResponse.
pub fn put_sasl_initial(out: &mut BytesMut, mechanism: &str, response: Option<&[u8]>) {
    put::frame(out, tag::PASSWORD, |out| {
        put::cstr(out, mechanism);
        put::value(out, response);
    });
}

/// SASLResponse.
pub fn put_sasl_response(out: &mut BytesMut, data: &[u8]) {
    put::frame(out, tag::PASSWORD, |out| out.extend_from_slice(data));
}

/// Simple Query.
pub fn put_query(out: &mut BytesMut, text: impl AsRef<[u8]>) {
    put::frame(out, tag::QUERY, |out| put::cstr(out, text));
}

/// Parse; 0 leaves a parameter's type to the server, as does an absent one.
pub fn put_parse(
    out: &mut BytesMut,
    name: impl AsRef<[u8]>,
    text: impl AsRef<[u8]>,
    type_oids: &[u32],
) {
    put::frame(out, tag::PARSE, |out| {
        put::cstr(out, name);
        put::cstr(out, text);
        put::count(out, type_oids.len());
        for oid in type_oids {
            out.put_u32(*oid);
        }
    });
}

/// Parse with the parameter types as [`super::Parse::param_types`] has them.
pub fn put_parse_raw(
    out: &mut BytesMut,
    name: impl AsRef<[u8]>,
    text: impl AsRef<[u8]>,
    param_types: &[u8],
) {
    put::frame(out, tag::PARSE, |out| {
        put::cstr(out, name);
        put::cstr(out, text);
        put::count(out, param_types.len() / 4);
        out.extend_from_slice(param_types);
    });
}

/// Bind with text parameters (`None` is NULL) and results in `result` format.
pub fn put_bind(
    out: &mut BytesMut,
    portal: impl AsRef<[u8]>,
    statement: impl AsRef<[u8]>,
    parameters: &[Option<&[u8]>],
    result: Format,
) {
    put::frame(out, tag::BIND, |out| {
        put::cstr(out, portal);
        put::cstr(out, statement);
        out.put_u16(0);
        put::count(out, parameters.len());
        for parameter in parameters {
            put::value(out, *parameter);
        }
        out.put_u16(1);
        out.put_i16(result.code());
    });
}

/// Bind of another statement or portal with everything else as it came: `rest` is [`super::Bind::rest`].
pub fn put_bind_renamed(
    out: &mut BytesMut,
    portal: impl AsRef<[u8]>,
    statement: impl AsRef<[u8]>,
    rest: &[u8],
) {
    put_bind_head(out, portal, statement, rest.len());
    out.extend_from_slice(rest);
}

/// The head and the names of a Bind whose remaining `rest_len` bytes the caller sends itself, so that large
/// parameters need not be copied or even be there yet.
pub fn put_bind_head(
    out: &mut BytesMut,
    portal: impl AsRef<[u8]>,
    statement: impl AsRef<[u8]>,
    rest_len: usize,
) {
    let start = out.len();
    put::frame(out, tag::BIND, |out| {
        put::cstr(out, portal);
        put::cstr(out, statement);
    });
    let len = put::length(out.len() - start - 1 + rest_len);
    if let Some(field) = out.get_mut(start + 1..start + 5) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

/// Describe.
pub fn put_describe(out: &mut BytesMut, kind: TargetKind, name: impl AsRef<[u8]>) {
    put_target(out, tag::DESCRIBE, kind, name);
}

/// Close.
pub fn put_close(out: &mut BytesMut, kind: TargetKind, name: impl AsRef<[u8]>) {
    put_target(out, tag::CLOSE, kind, name);
}

fn put_target(out: &mut BytesMut, tag: u8, kind: TargetKind, name: impl AsRef<[u8]>) {
    put::frame(out, tag, |out| {
        out.put_u8(kind.to_byte());
        put::cstr(out, name);
    });
}

/// Execute; `max_rows` 0 means all.
pub fn put_execute(out: &mut BytesMut, portal: impl AsRef<[u8]>, max_rows: i32) {
    put::frame(out, tag::EXECUTE, |out| {
        put::cstr(out, portal);
        out.put_i32(max_rows);
    });
}

/// Sync.
pub fn put_sync(out: &mut BytesMut) {
    put::bare(out, tag::SYNC);
}

/// Flush.
pub fn put_flush(out: &mut BytesMut) {
    put::bare(out, tag::FLUSH);
}

/// Terminate.
pub fn put_terminate(out: &mut BytesMut) {
    put::bare(out, tag::TERMINATE);
}

/// CopyData towards the server.
pub fn put_copy_data(out: &mut BytesMut, data: &[u8]) {
    put::frame(out, tag::COPY_DATA, |out| out.extend_from_slice(data));
}

/// CopyDone towards the server.
pub fn put_copy_done(out: &mut BytesMut) {
    put::bare(out, tag::COPY_DONE);
}

/// CopyFail: gives up the COPY for this reason.
pub fn put_copy_fail(out: &mut BytesMut, reason: impl AsRef<[u8]>) {
    put::frame(out, tag::COPY_FAIL, |out| put::cstr(out, reason));
}
