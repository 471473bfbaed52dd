-- Stores how far a stream is applied, in the transaction that has its rows. Meets no row if somebody else has stored
-- another position since: $6 is the one before, null if there was none.
insert into tenantry.move_progress as p (move_id, direction, tenant_id, applied_lsn, marker_nonce)
values ($1, $2, $3, $4, $5)
on conflict (move_id, direction) do update
set applied_lsn = excluded.applied_lsn, marker_nonce = excluded.marker_nonce, updated_at = clock_timestamp()
where p.applied_lsn = $6
