//! Work that must happen next to the data: shard bootstrap, owner rows, migrations.
