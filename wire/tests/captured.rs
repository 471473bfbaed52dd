//! What drivers and PostgreSQL 15 really said to each other, byte for byte, read by this crate.
//!
//! The files in `captured/` are the two directions of one connection each: psql 15, psycopg 3.3 and asyncpg 0.32, logged
//! in by SCRAM as role `pencil` with password `pencil`. Every byte is accounted for: each stream is cut into messages, each
//! message is read in full, and what was read stands in the snapshots.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;

use tenantry_wire::{
    backend::{self, Authentication, ErrorFields},
    frame::{Frame, LARGE_MESSAGE_LIMIT, peek_frontend},
    frontend::{self, Bind, Execute, Parse, Target},
    sql,
    startup::{Encryption, Handshake, Progress, parse_options},
    tag::{backend as from_server, frontend as from_client},
};

fn lossy(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Consumes what precedes the session.
fn startup<'a>(mut stream: &'a [u8], out: &mut String) -> &'a [u8] {
    let mut state = Handshake::new(Encryption::Unavailable);
    loop {
        // A client waits for the answer to a request of eight bytes.
        let len = if stream[3] == 8 { 8 } else { stream.len() };
        match state.handle(&stream[..len]).unwrap() {
            Progress::Reply { consumed, next, .. } => {
                writeln!(out, "request for encryption").unwrap();
                stream = &stream[consumed..];
                state = next;
            }
            Progress::Startup { accepted, consumed } => {
                writeln!(
                    out,
                    "startup {} {:?}",
                    accepted.version, accepted.params.parameters
                )
                .unwrap();
                if let Some(options) = accepted.params.parameter("options") {
                    writeln!(out, "  options {:?}", parse_options(options).unwrap()).unwrap();
                }
                return &stream[consumed..];
            }
            other => panic!("{other:?}"),
        }
    }
}

fn client(stream: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = startup(stream, &mut out);
    let mut passwords = 0;
    while !rest.is_empty() {
        let head = peek_frontend(rest).unwrap().unwrap();
        let (frame, len) = Frame::decode(rest, LARGE_MESSAGE_LIMIT).unwrap().unwrap();
        assert_eq!(len, head.total);
        let line = if frame.tag == from_client::PASSWORD {
            passwords += 1;
            password(passwords, frame.body)
        } else {
            client_message(frame)
        };
        writeln!(out, "{line}").unwrap();
        rest = &rest[len..];
    }
    out
}

fn password(nth: u32, body: &[u8]) -> String {
    if nth > 1 {
        return format!("SASLResponse {}", lossy(body));
    }
    let initial = frontend::sasl_initial(body).unwrap();
    let response = initial.response.unwrap_or_default();
    format!(
        "SASLInitialResponse {} {}",
        lossy(initial.mechanism),
        lossy(response)
    )
}

fn client_message(frame: Frame<'_>) -> String {
    let body = frame.body;
    match frame.tag {
        from_client::QUERY => {
            let text = frontend::query_text(body).unwrap();
            let kinds: Vec<_> = sql::split(text, true)
                .map(|range| format!("{:?}", sql::classify(&text[range], true)))
                .collect();
            format!("Query {} -> [{}]", lossy(text), kinds.join(", "))
        }
        from_client::PARSE => {
            let parse = Parse::decode(body).unwrap();
            let types: Vec<_> = parse.type_oids().collect();
            format!(
                "Parse {:?} {} {types:?}",
                lossy(parse.name),
                lossy(parse.text)
            )
        }
        from_client::BIND => {
            let bind = Bind::decode(body).unwrap();
            let parameters: Vec<_> = bind
                .parameters()
                .unwrap()
                .map(|parameter| {
                    let (format, value) = parameter.unwrap();
                    (format, value.map(lossy))
                })
                .collect();
            let results = bind.result_formats().unwrap();
            format!(
                "Bind {:?} {:?} {parameters:?} -> {results:?}",
                lossy(bind.portal),
                lossy(bind.statement)
            )
        }
        from_client::DESCRIBE | from_client::CLOSE => {
            let target = Target::decode(body).unwrap();
            let verb = if frame.tag == from_client::CLOSE {
                "Close"
            } else {
                "Describe"
            };
            format!("{verb} {:?} {:?}", target.kind, lossy(target.name))
        }
        from_client::EXECUTE => {
            let execute = Execute::decode(body).unwrap();
            format!("Execute {:?} {}", lossy(execute.portal), execute.max_rows)
        }
        from_client::COPY_DATA => format!("CopyData {}", lossy(body)),
        tag => {
            assert!(body.is_empty());
            let name = match tag {
                from_client::SYNC => "Sync",
                from_client::FLUSH => "Flush",
                from_client::TERMINATE => "Terminate",
                from_client::COPY_DONE => "CopyDone",
                other => panic!("{other}"),
            };
            name.to_owned()
        }
    }
}

fn server(stream: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = stream;
    // Answers to requests for encryption are single bytes.
    while let [answer @ (b'N' | b'S'), b'N' | b'R', ..] = rest {
        writeln!(out, "answer {}", char::from(*answer)).unwrap();
        rest = &rest[1..];
    }
    while !rest.is_empty() {
        let (frame, len) = Frame::decode(rest, LARGE_MESSAGE_LIMIT).unwrap().unwrap();
        writeln!(out, "{}", server_message(frame)).unwrap();
        rest = &rest[len..];
    }
    out
}

fn server_message(frame: Frame<'_>) -> String {
    let body = frame.body;
    match frame.tag {
        from_server::AUTHENTICATION => match Authentication::decode(body).unwrap() {
            Authentication::Ok => "AuthenticationOk".to_owned(),
            Authentication::Sasl(names) => {
                let names: Vec<_> = names.into_iter().map(lossy).collect();
                format!("AuthenticationSASL {names:?}")
            }
            Authentication::SaslContinue(data) => {
                format!("AuthenticationSASLContinue {}", lossy(data))
            }
            Authentication::SaslFinal(data) => format!("AuthenticationSASLFinal {}", lossy(data)),
            other => panic!("{other:?}"),
        },
        from_server::PARAMETER_STATUS => {
            let status = backend::parameter_status(body).unwrap();
            format!(
                "ParameterStatus {} = {}",
                lossy(status.name),
                lossy(status.value)
            )
        }
        from_server::BACKEND_KEY_DATA => {
            let data = backend::backend_key_data(body).unwrap();
            format!("BackendKeyData {} and {} bytes", data.pid, data.key.len())
        }
        from_server::READY_FOR_QUERY => format!(
            "ReadyForQuery {:?}",
            backend::ready_for_query(body).unwrap()
        ),
        from_server::ERROR => format!("ErrorResponse {}", ErrorFields::decode(body).unwrap()),
        from_server::NOTICE => format!("NoticeResponse {}", ErrorFields::decode(body).unwrap()),
        from_server::COMMAND_COMPLETE => {
            format!(
                "CommandComplete {}",
                lossy(backend::command_complete(body).unwrap())
            )
        }
        from_server::ROW_DESCRIPTION => {
            let columns = backend::columns(body).unwrap();
            let columns: Vec<_> = columns
                .iter()
                .map(|column| {
                    format!(
                        "{} {} {:?}",
                        lossy(column.name),
                        column.type_oid,
                        column.format
                    )
                })
                .collect();
            format!("RowDescription {columns:?}")
        }
        from_server::DATA_ROW => {
            let values = backend::data_row(body).unwrap();
            let values: Vec<_> = values.into_iter().map(|value| value.map(lossy)).collect();
            format!("DataRow {values:?}")
        }
        from_server::PARAMETER_DESCRIPTION => {
            format!(
                "ParameterDescription {:?}",
                backend::parameter_description(body).unwrap()
            )
        }
        from_server::NOTIFICATION => {
            let notification = backend::notification(body).unwrap();
            format!(
                "NotificationResponse {} {}",
                lossy(notification.channel),
                lossy(notification.payload)
            )
        }
        from_server::COPY_IN | from_server::COPY_OUT => {
            format!(
                "Copy{}Response {:?}",
                if frame.tag == b'G' { "In" } else { "Out" },
                backend::copy_response(body).unwrap()
            )
        }
        from_server::COPY_DATA => format!("CopyData {}", lossy(body)),
        tag => {
            assert!(body.is_empty());
            let name = match tag {
                from_server::PARSE_COMPLETE => "ParseComplete",
                from_server::BIND_COMPLETE => "BindComplete",
                from_server::CLOSE_COMPLETE => "CloseComplete",
                from_server::NO_DATA => "NoData",
                from_server::EMPTY_QUERY => "EmptyQueryResponse",
                from_server::PORTAL_SUSPENDED => "PortalSuspended",
                from_server::COPY_DONE => "CopyDone",
                other => panic!("{other}"),
            };
            name.to_owned()
        }
    }
}

#[test]
fn psql_and_its_server_are_read() {
    insta::assert_snapshot!(
        "psql_client",
        client(include_bytes!("captured/psql.client"))
    );
    insta::assert_snapshot!(
        "psql_server",
        server(include_bytes!("captured/psql.server"))
    );
}

#[test]
fn psycopg_and_its_server_are_read() {
    insta::assert_snapshot!(
        "psycopg_client",
        client(include_bytes!("captured/psycopg.client"))
    );
    insta::assert_snapshot!(
        "psycopg_server",
        server(include_bytes!("captured/psycopg.server"))
    );
}

#[test]
fn asyncpg_and_its_server_are_read() {
    insta::assert_snapshot!(
        "asyncpg_client",
        client(include_bytes!("captured/asyncpg.client"))
    );
    insta::assert_snapshot!(
        "asyncpg_server",
        server(include_bytes!("captured/asyncpg.server"))
    );
}
