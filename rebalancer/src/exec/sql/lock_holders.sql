-- Transactions that have named the tenant and are older than the given time: the fence would wait for them.
select a.pid, a.state, extract(epoch from clock_timestamp() - a.xact_start)::float8,
       coalesce(extract(epoch from clock_timestamp() - a.state_change), 0)::float8
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted and l.objsubid = 2
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
   and l.classid = $1::bigint::oid
   and l.objid = (tenantry.lock_key($2::text::@key@)::bigint & 4294967295)::oid
   and a.pid <> pg_backend_pid()
   and a.xact_start < clock_timestamp() - make_interval(secs => $3)
 order by a.xact_start
