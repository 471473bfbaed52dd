//! Every error this crate can report, as the client will read it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;

use tenantry_wire::{
    FrameError, MessageError,
    scram::ScramError,
    startup::{HandshakeError, OptionsError, ProtocolVersion, StartupError},
};

#[test]
fn errors_say_what_the_peer_did_wrong() {
    let mut out = String::new();
    let mut line = |code: &str, error: &dyn std::error::Error| {
        writeln!(out, "{code} {error}").unwrap();
    };
    for error in [
        FrameError::TooShort { tag: b'Q', len: 3 },
        FrameError::TooLong {
            tag: b'S',
            len: 10_001,
            limit: 10_000,
        },
        FrameError::UnknownType(0x80),
    ] {
        line(error.sqlstate(), &error);
    }
    for error in [
        MessageError::Truncated,
        MessageError::UnterminatedString,
        MessageError::TrailingBytes,
        MessageError::NegativeLength(-2),
        MessageError::FormatCount {
            formats: 2,
            values: 3,
        },
        MessageError::FormatCode(2),
        MessageError::TargetKind(b'X'),
        MessageError::TransactionStatus(b'X'),
        MessageError::AuthenticationKind(99),
        MessageError::ReplicationKind(b'z'),
        MessageError::NotUtf8,
    ] {
        line(error.sqlstate(), &error);
    }
    for error in [
        HandshakeError::Startup(StartupError::Length(1)),
        HandshakeError::Startup(StartupError::RequestLength {
            request: "CancelRequest",
        }),
        HandshakeError::Startup(StartupError::UnsupportedVersion(ProtocolVersion {
            major: 2,
            minor: 0,
        })),
        HandshakeError::Startup(StartupError::Layout),
        HandshakeError::Startup(StartupError::NotUtf8),
        HandshakeError::RepeatedRequest("SSL"),
        HandshakeError::EarlyPlaintext("GSSAPI encryption"),
    ] {
        line(error.sqlstate(), &error);
    }
    for error in [
        OptionsError::MissingValue {
            switch: "--",
            name: "geqo".to_owned(),
        },
        OptionsError::UnsupportedSwitch("-e".to_owned()),
    ] {
        line(error.sqlstate(), &error);
    }
    for error in [
        ScramError::Malformed("no nonce"),
        ScramError::Unsupported("channel-binding type"),
        ScramError::ChannelBinding,
        ScramError::Nonce,
        ScramError::WrongPassword,
        ScramError::ServerSignature,
        ScramError::Refused("other-error".to_owned()),
        ScramError::Finished,
    ] {
        line(error.sqlstate(), &error);
    }
    insta::assert_snapshot!(out);
}
