//! Messages a server sends: builders for the router as a server, parsers for the router as a client.
//!
//! Builders append one whole message to a buffer and cannot fail; parsers take a message's body.

mod build;
mod describe;
mod fields;
mod parse;

pub use build::{
    put_auth_ok, put_auth_sasl, put_auth_sasl_continue, put_auth_sasl_final, put_backend_key_data,
    put_bind_complete, put_close_complete, put_command_complete, put_copy_data, put_copy_done,
    put_copy_in, put_copy_out, put_data_row, put_empty_query, put_error, put_function_result,
    put_negotiate_protocol_version, put_no_data, put_notice, put_notification,
    put_parameter_description, put_parameter_status, put_parse_complete, put_portal_suspended,
    put_ready, put_row_description,
};
pub use describe::{Column, columns, data_row, parameter_description};
pub use fields::{ErrorFields, Severity, error_code};
pub use parse::{
    Authentication, BackendKeyData, CopyResponse, Notification, ParameterStatus, TxStatus,
    backend_key_data, command_complete, copy_response, negotiate_protocol_version, notification,
    parameter_status, ready_for_query,
};

#[cfg(test)]
mod tests;
