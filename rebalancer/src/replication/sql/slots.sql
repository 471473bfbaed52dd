select s.slot_name::text, s.active, s.temporary, s.wal_status, s.restart_lsn::text, s.confirmed_flush_lsn::text,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::int8
from pg_replication_slots s
where s.database = current_database() and s.slot_name ~ $1
