//! A replication stream: frames, and the messages of the output plugin one after another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenantry_wire::replication::{Change, Decoder, OldTuple, PgOutput, WalFrame};

fuzz_target!(|data: &[u8]| {
    let _ = WalFrame::decode(data);
    // Each message is preceded by its length, one byte.
    let mut decoder = Decoder::new();
    let mut rest = data;
    while let Some((&len, tail)) = rest.split_first() {
        let (message, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        let Ok(PgOutput::Change { change, .. }) = decoder.decode(message) else {
            continue;
        };
        match change {
            Change::Insert { new, .. } => assert_eq!(new.values().count(), new.len()),
            Change::Update { old, new, .. } => {
                assert_eq!(new.values().count(), new.len());
                let old = old.map(OldTuple::tuple);
                assert!(old.is_none_or(|old| old.values().count() == old.len()));
            }
            Change::Delete { old, .. } => {
                assert_eq!(old.tuple().values().count(), old.tuple().len());
            }
            _ => {}
        }
    }
});
