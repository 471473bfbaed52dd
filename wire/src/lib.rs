//! Sans-IO PostgreSQL wire protocol: frames, startup, SCRAM, statement tokenizer; no socket and no clock.
