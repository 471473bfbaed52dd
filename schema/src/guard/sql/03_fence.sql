-- Fences: a shard refuses a tenant's statements, because the tenant is about to live elsewhere or already does.
-- fence() takes the tenant's lock exclusively, that is, it waits for every transaction that named the tenant; the
-- caller sets lock_timeout. What follows on a fence needs neither lock nor number: it refuses nobody whom the fence
-- did not refuse, and a snapshot from before the fence shows an older number, whatever became of the row since. None
-- is for clients but unfence_expired().

-- Takes the lock and the next fence number, in this order: the mark's row lock makes the stored numbers grow in
-- commit order, so that a snapshot that shows a number shows every smaller one.
create or replace function tenantry.begin_owner_change(tenant @key@) returns void
language plpgsql volatile
as $$
begin
    perform pg_catalog.pg_advisory_xact_lock(@lock_class@, tenantry.lock_key(tenant));
    perform from tenantry.fence_mark for update;
    update tenantry.fence_mark set number = pg_catalog.nextval('tenantry.fence_number');
end
$$;

-- Its form without a proof, of an earlier version of the guard.
drop function if exists tenantry.fence(@key@, uuid, uuid, bigint, interval);

-- Fences a tenant for a move and returns the position of the marker in the write-ahead log. The marker carries the
-- nonce that the owner row carries, and is written by the same transaction; the proof stays in the row. Errors: 55000
-- if the tenant is not active at the expected epoch, 55P03 if lock_timeout passed.
create or replace function tenantry.fence(
    tenant @key@, move uuid, nonce uuid, proof uuid, expected_epoch bigint, lasts interval
) returns pg_lsn
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform tenantry.begin_owner_change(tenant);
    update tenantry.owner o
    set state = 'fenced', epoch = expected_epoch + 1, move_id = fence.move, nonce = fence.nonce, proof = fence.proof,
        proof_hash = null, moved_to = null, deadline = clock_timestamp() + lasts, changed_at = clock_timestamp()
    where o.tenant_id = tenant and o.state = 'active' and o.epoch = expected_epoch;
    if not found then
        raise exception using
            errcode = '55000',
            message = format('tenant %s is not active at epoch %s on this shard', tenant, expected_epoch);
    end if;
    return pg_logical_emit_message(true, 'tenantry.fence',
        json_build_object('tenant', tenant::text, 'move', move, 'nonce', nonce, 'epoch', expected_epoch + 1)::text);
end
$$;

-- Lifts the fence of a move before its commit point. Returns the new epoch, which makes a late commit fail; null if
-- the move holds no fence here.
create or replace function tenantry.unfence(tenant @key@, move uuid) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    raised bigint;
begin
    update tenantry.owner o
    set state = 'active', epoch = o.epoch + 1, move_id = null, nonce = null, proof = null, deadline = null,
        changed_at = clock_timestamp()
    where o.tenant_id = tenant and o.state = 'fenced' and o.move_id = unfence.move
    returning o.epoch into raised;
    return raised;
end
$$;

-- Lifts the fence of a move whose deadline has passed. Anyone may call it: routers do, so that a dead rebalancer never
-- leaves a tenant without a server. True if a fence was lifted.
create or replace function tenantry.unfence_expired(move uuid) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    expired @key@;
begin
    select o.tenant_id into expired from tenantry.owner o
    where o.move_id = move and o.state = 'fenced' and o.deadline < clock_timestamp();
    return found and tenantry.unfence(expired, move) is not null;
end
$$;

-- The commit point of a move, on the source: fenced becomes moved, with the forwarding address. False if the fence
-- is not there any more at this epoch.
create or replace function tenantry.hand_over(tenant @key@, move uuid, fenced_epoch bigint, destination smallint)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    update tenantry.owner o
    set state = 'moved', moved_to = destination, deadline = null, changed_at = clock_timestamp()
    where o.tenant_id = tenant and o.state = 'fenced' and o.move_id = move and o.epoch = fenced_epoch;
    return found;
end
$$;

-- Makes number and mark agree again. They part when a fence is rolled back or the server crashes; until then
-- transactions above READ COMMITTED lock their owner row for nothing.
create or replace function tenantry.settle_fences() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform from tenantry.fence_mark for update;
    update tenantry.fence_mark set number = (select last_value from tenantry.fence_number)
    where number <> (select last_value from tenantry.fence_number);
end
$$;

revoke execute on function
    tenantry.begin_owner_change(@key@),
    tenantry.fence(@key@, uuid, uuid, uuid, bigint, interval),
    tenantry.unfence(@key@, uuid),
    tenantry.hand_over(@key@, uuid, bigint, smallint),
    tenantry.settle_fences(),
    tenantry.snapshot_holds(@key@),
    tenantry.unsigned_binding(text),
    tenantry.refuse_tenant(@key@, text),
    tenantry.connection_bytes(),
    tenantry.socket_session_start()
from public;
