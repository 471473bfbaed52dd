-- Ends an attempt at a cutover on the shard that was to be left. A fence of this move is lifted; without one the epoch is
-- raised all the same, so that a fence that is still on its way fails. Nothing of a tenant that was handed over changes.
with lifted as (
    select tenantry.unfence($1::text::@key@, $2) as epoch
), raised as (
    update tenantry.owner o set epoch = o.epoch + 1, changed_at = clock_timestamp()
     where o.tenant_id = $1::text::@key@ and o.state = 'active' and (select l.epoch from lifted l) is null
    returning o.epoch
)
select coalesce((select l.epoch from lifted l), (select r.epoch from raised r))
