-- Stores how far a stream is applied, in the transaction that has its rows. Meets no row if somebody else has stored
-- another position since ($6 is the one before, null if there was none), or if the tenant does not stand here for this
-- move any more: then whatever wrote these rows is a remnant.
insert into tenantry.move_progress as p (move_id, direction, tenant_id, applied_lsn, marker_nonce)
select $1::uuid, $2::text, o.tenant_id, $4::pg_lsn, $5::uuid
from (select tenant_id from tenantry.owner
      where tenant_id = $3 and move_id = $1::uuid and state in ('importing', 'moved')
      for share) o
on conflict (move_id, direction) do update
set applied_lsn = excluded.applied_lsn, marker_nonce = excluded.marker_nonce, updated_at = clock_timestamp()
where p.applied_lsn = $6::pg_lsn
