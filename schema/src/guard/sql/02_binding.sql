-- Who is bound. The value of tenantry.tenant is '<id>:<key version>:<mac>'; anyone may write the setting, nobody
-- without the secret can write one that holds on this connection.

-- When a session that came over a Unix socket began. Slow (it copies the status of all backends once per
-- transaction), which is why sessions over TCP are told apart by their address instead.
create or replace function tenantry.socket_session_start() returns bytea
language sql volatile parallel restricted
as $$
    select pg_catalog.timestamptz_send(a.backend_start)
    from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a
$$;

-- What is true of this connection and of no other: server start, process id, and the client's address and port, which
-- are fixed at connect and which SQL cannot change. The backend's start time would serve as well, but reading it costs
-- 10 to 30 us per transaction and grows with max_connections; this costs below 1 us. Settings do not influence it.
create or replace function tenantry.connection_bytes() returns bytea
language sql volatile parallel restricted
as $$
    select pg_catalog.timestamptz_send(pg_catalog.pg_postmaster_start_time())
        operator(pg_catalog.||) pg_catalog.int4send(pg_catalog.pg_backend_pid())
        operator(pg_catalog.||) case
            when pg_catalog.inet_client_port() is null then tenantry.socket_session_start()
            else pg_catalog.int4send(pg_catalog.inet_client_port())
                operator(pg_catalog.||) pg_catalog.inet_send(pg_catalog.inet_client_addr())
        end
$$;

-- The identity that the router signs, as text. Constant for the life of a connection, no secret.
create or replace function tenantry.backend_identity() returns text
language plpgsql volatile security definer parallel restricted
as $$
begin
    return pg_catalog.encode(tenantry.connection_bytes(), 'hex');
end
$$;

-- The bound tenant as the setting names it, unverified: the default of tenant columns. The policy verifies.
create or replace function tenantry.bound_tenant() returns @key@
language sql stable parallel safe
as $$
    select nullif(pg_catalog.split_part(pg_catalog.current_setting('tenantry.tenant', true), ':', 1), '')::@key@
$$;

-- Key of a tenant in the guard's class of advisory locks. Two tenants may share a key: a fence then waits for both.
create or replace function tenantry.lock_key(tenant @key@) returns integer
language sql immutable parallel safe strict
as $$
    select pg_catalog.@key_hash@(tenant)
$$;

-- A value whose signature does not hold: accepted from roles that run trusted SQL only and may leave it out, refused
-- from everyone else. session_user, because current_user is the definer here; no client can change it.
create or replace function tenantry.unsigned_binding(value text) returns @key@
language plpgsql volatile parallel restricted
as $$
begin
    if value is null or value operator(pg_catalog.=) '' then
        raise exception using
            errcode = '42704',
            message = 'no tenant is bound',
            hint = 'Name the tenant: SET tenantry.tenant = ''<id, slug or hostname>''.',
            schema = 'tenantry', constraint = 'TENANT_UNBOUND';
    end if;
    if pg_catalog.strpos(value, ':') operator(pg_catalog.=) 0
       and exists (select from tenantry.unsigned_role r where r.role_name operator(pg_catalog.=) session_user)
    then
        return value::@key@;
    end if;
    raise exception using
        errcode = '42501',
        message = 'the tenant binding is not valid on this connection',
        hint = 'The router signs a binding for one connection; it cannot be written by hand or copied.',
        schema = 'tenantry', constraint = 'TENANT_SIGNATURE';
end
$$;

-- Refuses a statement of a tenant that does not live here. The detail is the forwarding address, for routers; of a
-- tenant that has moved it includes the proof of that, with which any of them can activate it where it lives now. The
-- row is read as the caller's snapshot shows it: 'moved' in it was committed.
create or replace function tenantry.refuse_tenant(tenant @key@, state text default null) returns void
language plpgsql volatile parallel restricted
as $$
declare
    found tenantry.owner;
begin
    select * into found from tenantry.owner o where o.tenant_id operator(pg_catalog.=) tenant;
    raise exception using
        errcode = '40001',
        message = pg_catalog.format('tenant %s is not served by this shard', tenant),
        detail = pg_catalog.json_build_object(
            'tenant', tenant::text,
            'state', coalesce(refuse_tenant.state, found.state, 'absent'),
            'epoch', found.epoch,
            'shard', found.moved_to,
            'move', found.move_id,
            'proof', case when found.state operator(pg_catalog.=) 'moved' and refuse_tenant.state is null
                          then found.proof end)::text,
        hint = 'Nothing was changed: retry the transaction.',
        schema = 'tenantry', constraint = 'TENANT_FENCED';
end
$$;

-- Above READ COMMITTED the owner row is read with the transaction's snapshot, which may be older than a fence. Every
-- fence takes the next number at once and stores it in fence_mark when it commits: as long as this snapshot shows the
-- latest number, it shows the latest fence of every tenant. Otherwise the row is locked, which fails if anyone changed
-- it since the snapshot. Locking it always would turn reads into writes. A read-only transaction cannot lock rows,
-- nor needs to: it can change nothing, and what it reads was true at its snapshot.
create or replace function tenantry.snapshot_holds(tenant @key@) returns boolean
language plpgsql volatile parallel restricted
as $$
declare
    is_latest boolean;
begin
    if pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.=) 'read uncommitted' then
        return true;
    end if;
    select f.last_value operator(pg_catalog.=) m.number into is_latest
    from tenantry.fence_number f, tenantry.fence_mark m;
    if is_latest or pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'on' then
        return true;
    end if;
    perform from tenantry.owner o where o.tenant_id operator(pg_catalog.=) tenant for share;
    return true;
exception when serialization_failure then
    return false;
end
$$;

-- The tenant of this session: verified, present and not fenced, else an error. Every policy calls it once per table
-- reference, so each statement here is paid for by every query: rare cases live in functions of their own. VOLATILE,
-- because it must see the owner row as of now and not as of the statement's snapshot: a fence that committed while
-- this call waited for the lock has to count. Every name is qualified, because the caller chooses search_path.
create or replace function tenantry.tenant() returns @key@
language plpgsql volatile security definer parallel restricted
as $$
declare
    value       text := pg_catalog.current_setting('tenantry.tenant', true);
    id_text     text := pg_catalog.split_part(value, ':', 1);
    tenant      @key@;
    inner_block bytea;
    outer_block bytea;
    state       text;
begin
    select k.inner_block, k.outer_block into inner_block, outer_block
    from tenantry.guard_key k
    where k.version::text operator(pg_catalog.=) pg_catalog.split_part(value, ':', 2);

    -- HMAC-SHA-256 over '<identity>:<id>'.
    if pg_catalog.encode(
           pg_catalog.sha256(outer_block operator(pg_catalog.||) pg_catalog.sha256(
               inner_block operator(pg_catalog.||) pg_catalog.convert_to(
                   pg_catalog.encode(tenantry.connection_bytes(), 'hex')
                   operator(pg_catalog.||) ':' operator(pg_catalog.||) id_text, 'UTF8'))), 'hex')
       operator(pg_catalog.=) pg_catalog.split_part(value, ':', 3)
    then
        tenant := id_text::@key@;
    else
        tenant := tenantry.unsigned_binding(value);
    end if;

    -- A fence takes this lock exclusively: what runs under it has finished before a fence commits. The guard's class
    -- of two-key advisory locks; nobody else may take advisory locks except through wrappers that use one key.
    if pg_catalog.pg_advisory_xact_lock_shared(@lock_class@, tenantry.lock_key(tenant)) is not null then
        select o.state into state from tenantry.owner o where o.tenant_id operator(pg_catalog.=) tenant;
    end if;
    if state operator(pg_catalog.=) 'active' then
        if pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.=) 'read committed'
           or tenantry.snapshot_holds(tenant)
        then
            return tenant;
        end if;
        perform tenantry.refuse_tenant(tenant, 'changed');
    end if;
    perform tenantry.refuse_tenant(tenant);
end
$$;
