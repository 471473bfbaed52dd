-- The destination's side of a move, and what a move remembers on the shard that it writes to.
--
-- A tenant that arrives is 'importing': refused, while its rows are written beside those of others. It becomes active
-- only by the rebalancer, or by anyone who shows the proof that the source has handed it over. None of this takes a
-- lock on the tenant or a fence number: it refuses nobody who was not refused before.

-- How far a stream of changes was applied: the end of the last transaction of the other shard, stored by the
-- transaction here that has its rows. Whoever continues the stream starts from this position.
create table if not exists tenantry.move_progress (
    move_id      uuid not null,
    direction    text not null check (direction in ('forward', 'reverse')),
    tenant_id    @key@ not null,
    applied_lsn  pg_lsn not null,
    -- Of the fence or flip that was reached, stored by the transaction that reached it.
    marker_nonce uuid,
    updated_at   timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (move_id, direction)
);

-- The chunks that were copied, each stored by the transaction that has its rows. A chunk goes from behind the upper
-- key of the one before up to its own, in the order of the table's key.
create table if not exists tenantry.move_chunk (
    move_id      uuid not null,
    relation     text not null,
    chunk        integer not null check (chunk >= 0),
    -- The columns of the key except the tenant's, as text; null in a table's last chunk.
    upper_key    text[],
    rows         bigint not null,
    bytes        bigint not null,
    -- Where the source's snapshot was taken.
    snapshot_lsn pg_lsn not null,
    primary key (move_id, relation, chunk)
);

revoke all on tenantry.move_progress, tenantry.move_chunk from public, tenantry_app, tenantry_copy;

-- What a destination stores of a proof. It covers the epoch, so that nobody can activate at another.
create or replace function tenantry.proof_hash(proof uuid, epoch bigint) returns bytea
language sql immutable parallel safe strict
as $$
    select pg_catalog.sha256(pg_catalog.uuid_send(proof) operator(pg_catalog.||) pg_catalog.int8send(epoch))
$$;

-- Forgets what a move remembered here.
create or replace function tenantry.forget_move(move uuid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    delete from tenantry.move_chunk c where c.move_id = move;
    delete from tenantry.move_progress p where p.move_id = move;
$$;

-- Begins to import a tenant; again for the same move, it changes nothing. It may replace the forwarding address of an
-- earlier stay, and the remains of an earlier move: ids of moves grow with time, so that a late order of a move that
-- was given up finds a later one in its place. Returns what was there: 'absent', 'moved', 'importing' (another
-- move's, whose rows may be here), or 'same'. Error 55000 if the tenant lives here, or a later move does.
create or replace function tenantry.begin_import(tenant @key@, move uuid, epoch bigint) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    before tenantry.owner;
begin
    insert into tenantry.owner (tenant_id, state, epoch, move_id) values (tenant, 'importing', begin_import.epoch, move)
    on conflict do nothing;
    if found then
        return 'absent';
    end if;
    select * into before from tenantry.owner o where o.tenant_id = tenant for update;
    if before.state = 'importing' and before.move_id = move then
        return 'same';
    end if;
    if before.state = 'moved' and before.epoch <= begin_import.epoch and before.move_id is distinct from move
       or before.state = 'importing' and (before.move_id is null or before.move_id < move)
    then
        perform tenantry.forget_move(before.move_id);
        update tenantry.owner o
        set state = 'importing', epoch = begin_import.epoch, move_id = move, nonce = null, proof = null,
            proof_hash = null, moved_to = null, deadline = null, changed_at = clock_timestamp()
        where o.tenant_id = tenant;
        return before.state;
    end if;
    raise exception using
        errcode = '55000',
        message = format('tenant %s cannot be imported: it is %s at epoch %s on this shard', tenant,
                         coalesce(before.state, 'absent'), before.epoch);
end
$$;

-- Tells the destination which proof the coming fence will have. On the way back the destination is where the tenant
-- came from, and says 'moved'. Error 55000 if the tenant is neither.
create or replace function tenantry.expect_proof(tenant @key@, move uuid, proof_hash bytea) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    update tenantry.owner o set proof_hash = expect_proof.proof_hash, changed_at = clock_timestamp()
    where o.tenant_id = tenant and o.move_id = move and o.state in ('importing', 'moved');
    if not found then
        raise exception using
            errcode = '55000', message = format('tenant %s is not expected by this move on this shard', tenant);
    end if;
end
$$;

-- Makes the tenant live here, from the epoch on that the other shard's fence gave it. For whoever knows that the other
-- shard has handed it over. True also if it was done before; false if this shard is not waiting for this move.
create or replace function tenantry.activate(tenant @key@, move uuid, epoch bigint) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- The hash stays: whoever shows the proof once more is told the truth.
    update tenantry.owner o
    set state = 'active', epoch = activate.epoch, nonce = null, proof = null, moved_to = null, deadline = null,
        changed_at = clock_timestamp()
    where o.tenant_id = tenant and o.move_id = move
      and (o.state = 'importing' and o.epoch <= activate.epoch or o.state = 'moved' and o.epoch < activate.epoch);
    return found or exists (
        select from tenantry.owner o
        where o.tenant_id = tenant and o.move_id = move and o.state = 'active' and o.epoch = activate.epoch);
end
$$;

-- The same for those who have met the forwarding address: routers, with what the source's refusal showed them. The
-- proof is compared before anything is locked or changed, so that without it nobody disturbs a tenant.
create or replace function tenantry.activate_by_proof(tenant @key@, move uuid, proof uuid, epoch bigint) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from tenantry.owner o
        where o.tenant_id = tenant and o.move_id = move
          and o.proof_hash = tenantry.proof_hash(activate_by_proof.proof, activate_by_proof.epoch))
    then
        return false;
    end if;
    return tenantry.activate(tenant, move, epoch);
end
$$;

-- Ends an import that will not be completed, when its rows are gone. False if there is none of this move.
create or replace function tenantry.drop_import(tenant @key@, move uuid) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    dropped boolean;
begin
    delete from tenantry.owner o where o.tenant_id = tenant and o.move_id = move and o.state = 'importing';
    dropped := found;
    perform tenantry.forget_move(move);
    return dropped;
end
$$;

-- Removes a forwarding address that nobody needs any more. False if there is none of this move.
create or replace function tenantry.drop_moved(tenant @key@, move uuid) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    delete from tenantry.owner o where o.tenant_id = tenant and o.move_id = move and o.state = 'moved';
    return found;
end
$$;

revoke execute on function
    tenantry.proof_hash(uuid, bigint),
    tenantry.forget_move(uuid),
    tenantry.begin_import(@key@, uuid, bigint),
    tenantry.expect_proof(@key@, uuid, bytea),
    tenantry.activate(@key@, uuid, bigint),
    tenantry.activate_by_proof(@key@, uuid, uuid, bigint),
    tenantry.drop_import(@key@, uuid),
    tenantry.drop_moved(@key@, uuid)
from public;
grant execute on function tenantry.activate_by_proof(@key@, uuid, uuid, bigint) to tenantry_app;
