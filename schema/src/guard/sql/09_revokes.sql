-- What PostgreSQL gives to everyone and what crosses tenants. Runs as superuser.

do $revokes$
declare
    target record;
begin
    -- Functions of pg_catalog that everyone may execute by default. Those that serve monitoring stay with roles that
    -- monitor; advisory locks, markers and notifications are reachable through the guard's wrappers only.
    -- pg_advisory_unlock_all stays: it releases what its own session holds, and drivers' pools call it.
    for target in
        select p.oid::pg_catalog.regprocedure as function, p.proname as name
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
          and (p.proname ~ '^pg_(try_)?advisory_' and p.proname <> 'pg_advisory_unlock_all'
               or p.proname ~ '^pg_stat_get_backend_'
               or p.proname ~ '^lo_|^loread$|^lowrite$'
               or p.proname in (
                   'pg_logical_emit_message', 'pg_notify', 'pg_cancel_backend', 'pg_terminate_backend',
                   'pg_stat_get_activity', 'pg_stat_get_progress_info', 'pg_stat_get_wal_senders',
                   'pg_stat_get_wal_receiver', 'pg_stat_get_subscription', 'pg_lock_status', 'pg_blocking_pids',
                   'pg_safe_snapshot_blocking_pids', 'pg_isolation_test_session_is_blocked', 'pg_prepared_xact',
                   'pg_get_replication_slots', 'pg_notification_queue_usage', 'pg_stat_get_snapshot_timestamp'))
    loop
        if exists (select from pg_catalog.pg_proc p, pg_catalog.aclexplode(
                       coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
                   where p.oid = target.function and a.grantee = 0) then
            execute format('revoke execute on function %s from public', target.function);
            execute format('grant execute on function %s to tenantry_owner, tenantry_agent, tenantry_operator, pg_monitor',
                           target.function);
        end if;
    end loop;

    -- Views over them.
    for target in
        select c.oid::pg_catalog.regclass as view
        from pg_catalog.pg_class c
        where c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace
          and (c.relname in ('pg_locks', 'pg_prepared_xacts', 'pg_replication_slots')
               or c.relname ~ '^pg_stat_(activity|ssl|gssapi|replication|wal_receiver|subscription|progress_)')
          and pg_catalog.has_table_privilege('tenantry_app', c.oid, 'SELECT')
    loop
        execute format('revoke select on %s from public', target.view);
        execute format('grant select on %s to tenantry_agent, tenantry_operator, pg_monitor', target.view);
    end loop;

    -- Without DO, a statement that grants do not govern (ALTER ROLE of oneself, LISTEN, NOTIFY, LOCK TABLE, DISCARD)
    -- cannot be hidden from the router inside a string. Functions written in plpgsql stay callable.
    if exists (select from pg_catalog.pg_language l, pg_catalog.aclexplode(
                   coalesce(l.lanacl, pg_catalog.acldefault('l', l.lanowner))) a
               where l.lanname = 'plpgsql' and a.grantee = 0) then
        revoke usage on language plpgsql from public;
    end if;

    -- No schema to create anything in, and no temporary objects: they would outlive the transaction on a connection
    -- that the next tenant gets, and shadow its tables.
    execute format('revoke all on database %I from public', pg_catalog.current_database());
    execute format('revoke temporary, create on database %I from tenantry_app, tenantry_copy', pg_catalog.current_database());
    execute format('grant connect on database %I to tenantry_app, tenantry_operator', pg_catalog.current_database());
    execute format('grant connect, create, temporary on database %I to tenantry_agent, tenantry_owner', pg_catalog.current_database());
    revoke create on schema public from public;
    grant usage on schema public to public;
    grant create, usage on schema public to tenantry_owner;
end
$revokes$;
