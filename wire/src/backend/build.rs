//! Builders: each appends one whole message to the buffer.

use bytes::{BufMut, BytesMut};

use super::{Column, ErrorFields, TxStatus};
use crate::{frontend::Format, put, tag::backend as tag};

/// AuthenticationOk.
pub fn put_auth_ok(out: &mut BytesMut) {
    put::frame(out, tag::AUTHENTICATION, |out| out.put_i32(0));
}

/// AuthenticationSASL: the mechanisms on offer, best first.
pub fn put_auth_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    put::frame(out, tag::AUTHENTICATION, |out| {
        out.put_i32(10);
        for mechanism in mechanisms {
            put::cstr(out, mechanism);
        }
        out.put_u8(0);
    });
}

/// AuthenticationSASLContinue: the server's next message of the exchange.
pub fn put_auth_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    put::frame(out, tag::AUTHENTICATION, |out| {
        out.put_i32(11);
        out.extend_from_slice(data);
    });
}

/// AuthenticationSASLFinal: the server's last message of the exchange.
pub fn put_auth_sasl_final(out: &mut BytesMut, data: &[u8]) {
    put::frame(out, tag::AUTHENTICATION, |out| {
        out.put_i32(12);
        out.extend_from_slice(data);
    });
}

/// ParameterStatus.
pub fn put_parameter_status(out: &mut BytesMut, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    put::frame(out, tag::PARAMETER_STATUS, |out| {
        put::cstr(out, name);
        put::cstr(out, value);
    });
}

/// BackendKeyData. Protocol 3.0 has keys of four bytes, 3.2 of 4 to 256.
pub fn put_backend_key_data(out: &mut BytesMut, pid: i32, key: &[u8]) {
    put::frame(out, tag::BACKEND_KEY_DATA, |out| {
        out.put_i32(pid);
        out.extend_from_slice(key);
    });
}

/// ReadyForQuery.
pub fn put_ready(out: &mut BytesMut, status: TxStatus) {
    out.extend_from_slice(&[tag::READY_FOR_QUERY, 0, 0, 0, 5, status.to_byte()]);
}

/// CommandComplete, for example `SELECT 1`.
pub fn put_command_complete(out: &mut BytesMut, command: impl AsRef<[u8]>) {
    put::frame(out, tag::COMMAND_COMPLETE, |out| put::cstr(out, command));
}

/// ParseComplete.
pub fn put_parse_complete(out: &mut BytesMut) {
    put::bare(out, tag::PARSE_COMPLETE);
}

/// BindComplete.
pub fn put_bind_complete(out: &mut BytesMut) {
    put::bare(out, tag::BIND_COMPLETE);
}

/// CloseComplete.
pub fn put_close_complete(out: &mut BytesMut) {
    put::bare(out, tag::CLOSE_COMPLETE);
}

/// NoData.
pub fn put_no_data(out: &mut BytesMut) {
    put::bare(out, tag::NO_DATA);
}

/// EmptyQueryResponse.
pub fn put_empty_query(out: &mut BytesMut) {
    put::bare(out, tag::EMPTY_QUERY);
}

/// PortalSuspended.
pub fn put_portal_suspended(out: &mut BytesMut) {
    put::bare(out, tag::PORTAL_SUSPENDED);
}

/// RowDescription.
pub fn put_row_description(out: &mut BytesMut, columns: &[Column<'_>]) {
    put::frame(out, tag::ROW_DESCRIPTION, |out| {
        put::count(out, columns.len());
        for column in columns {
            put::cstr(out, column.name);
            out.put_u32(column.table_oid);
            out.put_i16(column.attribute);
            out.put_u32(column.type_oid);
            out.put_i16(column.type_len);
            out.put_i32(column.type_modifier);
            out.put_i16(column.format.code());
        }
    });
}

/// DataRow; `None` is NULL.
pub fn put_data_row(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    put::frame(out, tag::DATA_ROW, |out| {
        put::count(out, values.len());
        for value in values {
            put::value(out, *value);
        }
    });
}

/// ParameterDescription: the oids of the parameters' types.
pub fn put_parameter_description(out: &mut BytesMut, type_oids: &[u32]) {
    put::frame(out, tag::PARAMETER_DESCRIPTION, |out| {
        put::count(out, type_oids.len());
        for oid in type_oids {
            out.put_u32(*oid);
        }
    });
}

/// ErrorResponse.
pub fn put_error(out: &mut BytesMut, fields: &ErrorFields) {
    put::frame(out, tag::ERROR, |out| fields.write(out));
}

/// NoticeResponse.
pub fn put_notice(out: &mut BytesMut, fields: &ErrorFields) {
    put::frame(out, tag::NOTICE, |out| fields.write(out));
}

/// NotificationResponse.
pub fn put_notification(
    out: &mut BytesMut,
    pid: i32,
    channel: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
) {
    put::frame(out, tag::NOTIFICATION, |out| {
        out.put_i32(pid);
        put::cstr(out, channel);
        put::cstr(out, payload);
    });
}

/// NegotiateProtocolVersion: the newest 3.x that the server speaks, and the `_pq_.` options it does not know.
///
/// The version travels whole, major number included, as PostgreSQL sends it and libpq expects it.
pub fn put_negotiate_protocol_version(
    out: &mut BytesMut,
    newest_minor: u16,
    unrecognised: &[impl AsRef<[u8]>],
) {
    put::frame(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.put_u16(3);
        out.put_u16(newest_minor);
        out.put_i32(put::length(unrecognised.len()));
        for option in unrecognised {
            put::cstr(out, option);
        }
    });
}

/// CopyInResponse: the format of the stream and of each column.
pub fn put_copy_in(out: &mut BytesMut, overall: Format, columns: &[Format]) {
    put_copy_response(out, tag::COPY_IN, overall, columns);
}

/// CopyOutResponse: the format of the stream and of each column.
pub fn put_copy_out(out: &mut BytesMut, overall: Format, columns: &[Format]) {
    put_copy_response(out, tag::COPY_OUT, overall, columns);
}

fn put_copy_response(out: &mut BytesMut, tag: u8, overall: Format, columns: &[Format]) {
    put::frame(out, tag, |out| {
        out.put_u8(u8::from(overall == Format::Binary));
        put::count(out, columns.len());
        for column in columns {
            out.put_i16(column.code());
        }
    });
}

/// CopyData towards the client.
pub fn put_copy_data(out: &mut BytesMut, data: &[u8]) {
    put::frame(out, tag::COPY_DATA, |out| out.extend_from_slice(data));
}

/// CopyDone towards the client.
pub fn put_copy_done(out: &mut BytesMut) {
    put::bare(out, tag::COPY_DONE);
}

/// FunctionCallResponse; `None` is NULL.
pub fn put_function_result(out: &mut BytesMut, value: Option<&[u8]>) {
    put::frame(out, tag::FUNCTION_RESULT, |out| put::value(out, value));
}
