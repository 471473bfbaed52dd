-- What crosses tenants in PostgreSQL, per tenant: advisory locks and notifications. The originals are revoked.

-- A tenant's name for something shard-wide. Keyed with a secret: no tenant can compute or find another's.
create or replace function tenantry.namespaced(kind text, label text) returns bytea
language sql volatile parallel restricted
as $$
    select pg_catalog.sha256(s.namespace_secret operator(pg_catalog.||) pg_catalog.convert_to(
        kind operator(pg_catalog.||) ':' operator(pg_catalog.||) tenantry.tenant()::text
        operator(pg_catalog.||) ':' operator(pg_catalog.||) label, 'UTF8'))
    from tenantry.shard s
$$;

create or replace function tenantry.advisory_key(name text) returns bigint
language sql volatile parallel restricted
as $$
    select ('x' operator(pg_catalog.||) pg_catalog.left(
        pg_catalog.encode(tenantry.namespaced('lock', name), 'hex'), 16))::bit(64)::bigint
$$;

-- The channel that LISTEN and NOTIFY of the bound tenant use on the wire, for a channel as the client names it.
create or replace function tenantry.channel(name text) returns text
language plpgsql volatile security definer parallel restricted strict
as $$
begin
    return 't' operator(pg_catalog.||) pg_catalog.left(
        pg_catalog.encode(tenantry.namespaced('channel', name), 'hex'), 40);
end
$$;

create or replace function tenantry.pg_notify(channel text, payload text) returns void
language plpgsql volatile security definer parallel restricted
as $$
begin
    if channel is null or channel operator(pg_catalog.=) '' then
        raise exception using errcode = '22023', message = 'channel name cannot be empty';
    end if;
    perform pg_catalog.pg_notify(tenantry.channel(channel), payload);
end
$$;

-- The wrappers have the names and arguments of the originals. One key and two keys are different locks, as they are
-- in PostgreSQL.
do $wrappers$
declare
    original record;
begin
    for original in
        select *
        from (values
            ('pg_advisory_lock', 'void'), ('pg_advisory_lock_shared', 'void'),
            ('pg_advisory_xact_lock', 'void'), ('pg_advisory_xact_lock_shared', 'void'),
            ('pg_try_advisory_lock', 'boolean'), ('pg_try_advisory_lock_shared', 'boolean'),
            ('pg_try_advisory_xact_lock', 'boolean'), ('pg_try_advisory_xact_lock_shared', 'boolean'),
            ('pg_advisory_unlock', 'boolean'), ('pg_advisory_unlock_shared', 'boolean')
        ) as wrapper (name, returns)
    loop
        execute format($f$
            create or replace function tenantry.%1$I(key bigint) returns %2$s
            language plpgsql volatile security definer parallel restricted strict
            as $body$ begin %3$s pg_catalog.%1$I(tenantry.advisory_key(key::text)); end $body$
            $f$, original.name, original.returns, case original.returns when 'void' then 'perform' else 'return' end);
        execute format($f$
            create or replace function tenantry.%1$I(key1 integer, key2 integer) returns %2$s
            language plpgsql volatile security definer parallel restricted strict
            as $body$
            begin
                %3$s pg_catalog.%1$I(tenantry.advisory_key(key1::text operator(pg_catalog.||) ',' operator(pg_catalog.||) key2::text));
            end
            $body$
            $f$, original.name, original.returns, case original.returns when 'void' then 'perform' else 'return' end);
    end loop;
end
$wrappers$;

-- Session locks only, so the guard's own locks are out of its reach.
create or replace function tenantry.pg_advisory_unlock_all() returns void
language plpgsql volatile security definer parallel restricted
as $$ begin perform pg_catalog.pg_advisory_unlock_all(); end $$;

revoke execute on function tenantry.namespaced(text, text), tenantry.advisory_key(text) from public;
