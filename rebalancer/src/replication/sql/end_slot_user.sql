-- Ends the walsender that holds a slot. True once nobody holds it, or it is not there.
select coalesce(bool_and(s.active_pid is null or not pg_terminate_backend(s.active_pid)), true)
from pg_replication_slots s
where s.slot_name = $1
