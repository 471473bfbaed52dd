-- What a move needs of a server, one row.
select current_setting('wal_level'),
       current_setting('max_replication_slots')::bigint - (select count(*) from pg_replication_slots),
       current_setting('max_wal_senders')::bigint - (select count(*) from pg_stat_get_wal_senders() w where w.pid is not null),
       pg_is_in_recovery(),
       (select count(*) from pg_largeobject_metadata),
       current_setting('max_slot_wal_keep_size') <> '-1'
