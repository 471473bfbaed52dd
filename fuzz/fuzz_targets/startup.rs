//! The exchange before authentication: it ends, asks for nothing twice, and never reads past a request for encryption.
//! The first byte chooses what is said about encryption.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenantry_wire::startup::{Encryption, Handshake, Progress, parse_options};

fuzz_target!(|data: &[u8]| {
    let Some((&policy, data)) = data.split_first() else {
        return;
    };
    let encryption = match policy % 3 {
        0 => Encryption::Unavailable,
        1 => Encryption::Available,
        _ => Encryption::Established,
    };
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_options(text);
    }
    let mut state = Handshake::new(encryption);
    let mut rest = data;
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps <= 4, "two requests, direct TLS or not, and a startup");
        // A peer sends what follows a request only after the answer.
        let len = match rest.first_chunk::<4>() {
            Some(len) if rest.len() > 8 && u32::from_be_bytes(*len) == 8 => 8,
            _ => rest.len(),
        };
        match state.handle(&rest[..len]) {
            Ok(
                Progress::Reply { consumed, next, .. } | Progress::StartTls { consumed, next, .. },
            ) => {
                assert_eq!(consumed, len);
                rest = &rest[consumed..];
                state = next;
            }
            Ok(Progress::DirectTls { next }) => state = next,
            Ok(Progress::Startup { accepted, consumed }) => {
                assert!(
                    consumed <= len && accepted.version.major == 3 && accepted.version.minor <= 2
                );
                if let Some(options) = accepted.params.parameter("options") {
                    let _ = parse_options(options);
                }
                return;
            }
            Ok(Progress::NeedMore(_) | Progress::Cancel(_)) => return,
            Err(error) => {
                assert_eq!(error.sqlstate().len(), 5);
                return;
            }
        }
    }
});
