//! A byte stream cut into messages: however it arrives, the messages are the same, and nothing is lost. The first byte
//! says how it arrives.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tenantry_wire::frame::{Frame, Message, peek, peek_frontend};

const LIMIT: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, stream)) = data.split_first() else {
        return;
    };
    let _ = peek_frontend(stream);

    let mut whole = Vec::new();
    let mut rest = stream;
    let error = loop {
        match Frame::decode(rest, LIMIT) {
            Ok(Some((frame, len))) => {
                assert_eq!(len, frame.body.len() + 5);
                whole.push((frame.tag, frame.body.to_vec()));
                rest = &rest[len..];
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };

    // The same stream in pieces.
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    let mut failed = None;
    'stream: for piece in stream.chunks(usize::from(piece) % 64 + 1) {
        buffer.extend_from_slice(piece);
        loop {
            match Message::take(&mut buffer, LIMIT) {
                Ok(Some(message)) => found.push((message.tag, message.body().to_vec())),
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break 'stream;
                }
            }
        }
        if let Ok(Some(head)) = peek(&buffer, LIMIT) {
            assert!(head.total > buffer.len() && head.total <= LIMIT + 1);
        }
    }
    assert_eq!(found, whole);
    assert_eq!(failed, error);
});
