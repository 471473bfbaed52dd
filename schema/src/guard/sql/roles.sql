-- The server roles of a shard. Roles belong to the whole server: whoever runs this holds a lock on pg_authid, because
-- several databases of one server may be installed at once. Passwords are not set here: the agent stores SCRAM
-- verifiers it computed itself.
do $roles$
declare
    wanted record;
begin
    for wanted in
        select *
        from (values
            -- Owns the guard and the tables. It must not bypass row-level security: views and SECURITY DEFINER
            -- functions of the schema run as this role.
            ('tenantry_owner',    'nologin nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit',
                                  array[false, false, false, false, false, false, true]),
            -- Routers, for clients' statements.
            ('tenantry_app',      'login nosuperuser nocreatedb nocreaterole noreplication nobypassrls inherit',
                                  array[true, false, false, false, false, false, true]),
            -- What the router becomes for a plain COPY FROM STDIN: PostgreSQL refuses COPY FROM where row-level
            -- security applies. It may only insert, and a trigger watches each row.
            ('tenantry_copy',     'nologin nosuperuser nocreatedb nocreaterole noreplication bypassrls inherit',
                                  array[false, false, false, false, false, true, true]),
            -- Agent and rebalancer: direct connections only. Replication, for moves.
            ('tenantry_agent',    'login nosuperuser nocreatedb nocreaterole replication bypassrls inherit',
                                  array[true, false, false, false, true, true, true]),
            -- Operators on the database shard/NAME: all tenants' rows, no DDL, not the guard's secrets.
            ('tenantry_operator', 'login nosuperuser nocreatedb nocreaterole noreplication bypassrls inherit',
                                  array[true, false, false, false, false, true, true])
        ) as role (name, attributes, expected)
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
            execute format('create role %I %s', wanted.name, wanted.attributes);
        elsif (select array[rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit]
               from pg_catalog.pg_roles where rolname = wanted.name) <> wanted.expected then
            execute format('alter role %I %s', wanted.name, wanted.attributes);
        end if;
        -- A default set on a role reaches every session of every tenant.
        if exists (select from pg_catalog.pg_db_role_setting s join pg_catalog.pg_roles r on r.oid = s.setrole
                   where r.rolname = wanted.name and s.setdatabase = 0) then
            execute format('alter role %I reset all', wanted.name);
        end if;
    end loop;

    for wanted in
        select *
        from (values
            ('tenantry_copy',     'tenantry_app'),
            ('tenantry_owner',    'tenantry_agent'),
            ('pg_monitor',        'tenantry_agent'),
            ('pg_signal_backend', 'tenantry_agent'),
            ('pg_monitor',        'tenantry_operator'),
            ('pg_signal_backend', 'tenantry_operator')
        ) as membership (granted, member)
    loop
        if not exists (select from pg_catalog.pg_auth_members m
                       where m.roleid = wanted.granted::pg_catalog.regrole
                         and m.member = wanted.member::pg_catalog.regrole) then
            execute format('grant %I to %I', wanted.granted, wanted.member);
        end if;
    end loop;

    -- Nobody made the application roles members of anything else.
    for wanted in
        select m.roleid::pg_catalog.regrole::text as granted, m.member::pg_catalog.regrole::text as member
        from pg_catalog.pg_auth_members m
        where (m.member = 'tenantry_app'::pg_catalog.regrole and m.roleid <> 'tenantry_copy'::pg_catalog.regrole)
           or m.member = 'tenantry_copy'::pg_catalog.regrole
    loop
        execute format('revoke %s from %s', wanted.granted, wanted.member);
    end loop;

    -- The agent and the rebalancer write moved rows as a replica does, without firing triggers.
    if not pg_catalog.has_parameter_privilege('tenantry_agent', 'session_replication_role', 'SET') then
        grant set on parameter session_replication_role to tenantry_agent;
    end if;
end
$roles$;
