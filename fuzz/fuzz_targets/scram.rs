//! Both sides of SCRAM against a peer that sends anything: no panic, and no success without the password. Three lines:
//! the kind of channel binding, and the peer's two messages.
#![no_main]

use std::num::NonZeroU32;

use libfuzzer_sys::fuzz_target;
use tenantry_wire::scram::{ChannelBinding, ClientExchange, ServerExchange, Step, Verifier};

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |c| *c == b'\n');
    let (Some(&[binding]), Some(first), Some(second)) = (lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let binding = || match binding % 3 {
        0 => ChannelBinding::Unavailable,
        1 => ChannelBinding::Offered,
        _ => ChannelBinding::ServerEndPoint(vec![1, 2, 3]),
    };
    if let Ok(text) = std::str::from_utf8(first) {
        if let Ok(verifier) = Verifier::parse(text) {
            assert_eq!(Verifier::parse(&verifier.to_string()), Ok(verifier));
        }
    }
    let verifier = Verifier::generate("secret", NonZeroU32::MIN, b"salt");
    let mut server = ServerExchange::new(verifier, binding());
    let _ = server.step(first);
    assert!(!matches!(server.step(second), Step::Success(_)));
    // A challenge that asks for many rounds only costs time.
    if first.len() < 64 && asks_for_few_rounds(first) {
        let mut client = ClientExchange::new("secret", binding());
        let _ = client.step(first);
        assert!(!matches!(client.step(second), Step::Success(_)));
    }
});

/// Whether the message asks for fewer than a thousand rounds.
fn asks_for_few_rounds(message: &[u8]) -> bool {
    let digits = message
        .iter()
        .rev()
        .take_while(|c| c.is_ascii_digit())
        .count();
    digits < 4
}
