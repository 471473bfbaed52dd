-- What is wrong with the isolation of this database, one row per problem; empty when everything holds. Severity
-- 'error' means that a tenant may see or disturb another, or that the guard does not work; 'warning' what should be
-- looked at.

-- Tables with tenants' rows that the guard does not cover, and why.
create or replace view tenantry.uncovered as
    select t.relation, problem.severity, problem.text as problem, problem.hint
    from tenantry.tenant_table t,
    lateral (
        select 'error' as severity, 'row-level security is not enabled and forced' as text,
               'SELECT tenantry.cover(''' || t.relation::text || ''') as tenantry_owner' as hint
        where not (t.relrowsecurity and t.relforcerowsecurity)
        union all
        select 'error', 'the guard''s policy is missing or altered', 'SELECT tenantry.cover(''' || t.relation::text || ''')'
        where not exists (
            select from pg_catalog.pg_policy p
            where p.polrelid = t.relation and p.polname = 'tenantry_guard' and p.polpermissive and p.polcmd = '*'
              and p.polroles = '{0}'
              and pg_catalog.pg_get_expr(p.polqual, p.polrelid) = tenantry.policy_text()
              and pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) = tenantry.policy_text())
        union all
        select 'error', 'policy ' || pg_catalog.quote_ident(p.polname) || ' adds rows to those the guard admits',
               'make it RESTRICTIVE: permissive policies are joined with OR'
        from pg_catalog.pg_policy p
        where p.polrelid = t.relation and p.polname <> 'tenantry_guard' and p.polpermissive
        union all
        select 'error', 'the triggers that watch COPY are missing or disabled', 'SELECT tenantry.cover(''' || t.relation::text || ''')'
        where pg_catalog.has_table_privilege('tenantry_copy', t.relation, 'INSERT')
          and (select pg_catalog.count(*) from pg_catalog.pg_trigger g
               where g.tgrelid = t.relation and g.tgenabled = 'O'
                 and (g.tgname, g.tgfoid) in (('~tenantry_copy_statement', 'tenantry.copy_statement()'::pg_catalog.regprocedure),
                                              ('~tenantry_copy_row', 'tenantry.copy_row()'::pg_catalog.regprocedure))) < 2
        union all
        select 'error', 'trigger ' || pg_catalog.quote_ident(g.tgname) || ' fires after the check of copied rows',
               'give it a name that sorts before ''~'''
        from pg_catalog.pg_trigger g
        -- Before insert, for each row: bits 1, 2 and 4.
        where g.tgrelid = t.relation and not g.tgisinternal and (g.tgtype & 7) = 7 and g.tgname > '~tenantry_copy_row' collate "C"
        union all
        select 'error', 'the tenant column has the wrong type or may be null', 'it must be @key@ not null'
        where t.atttypid <> '@key@'::pg_catalog.regtype or not t.attnotnull
        union all
        select 'error', 'a tenant may TRUNCATE it', 'TRUNCATE ignores row-level security: revoke it'
        where pg_catalog.has_table_privilege('tenantry_app', t.relation, 'TRUNCATE')
        union all
        select 'warning', 'unique index ' || i.indexrelid::pg_catalog.regclass::text || ' does not contain the tenant column',
               'tenants collide in it, and learn from it which values others use'
        from pg_catalog.pg_index i
        where i.indrelid = t.relation and i.indisunique and not t.attnum = any (i.indkey::smallint[])
        union all
        select 'warning', 'foreign key ' || pg_catalog.quote_ident(k.conname) || ' does not contain the tenant column',
               'a row could refer to another tenant''s row'
        from pg_catalog.pg_constraint k
        where k.conrelid = t.relation and k.contype = 'f' and not t.attnum = any (k.conkey)
          and exists (select from tenantry.tenant_table r where r.relation = k.confrelid)
    ) problem;

-- What the guard's functions and views say, to notice that one was replaced.
create or replace function tenantry.fingerprint() returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select md5(string_agg(part, E'\n' order by part collate "C"))
    from (
        select concat_ws(' ', p.oid::regprocedure::text, p.proowner::regrole::text, p.prosecdef, p.provolatile,
                         p.proconfig::text, p.prosrc)
        from pg_proc p where p.pronamespace = 'tenantry'::regnamespace
        union all
        select concat_ws(' ', c.oid::regclass::text, c.relowner::regrole::text, pg_get_viewdef(c.oid))
        from pg_class c where c.relnamespace = 'tenantry'::regnamespace and c.relkind = 'v'
    ) as parts (part)
$$;

-- Functions behind operators that people like to mark leakproof, and that leak: see 10_leakproof.sql.
create or replace function tenantry.leaky_functions() returns text[]
language sql immutable parallel safe
as $$
    select '{textlike, textnlike, texticlike, texticnlike, bpcharlike, bpcharnlike, bpchariclike, bpcharicnlike,
             namelike, namenlike, nameiclike, nameicnlike, textregexeq, textregexne, texticregexeq, texticregexne,
             ts_match_tt, ts_match_tq}'::text[]
$$;

create or replace function tenantry.findings()
returns table (severity text, object text, problem text, hint text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
    select u.severity, u.relation::text, u.problem, u.hint from tenantry.uncovered u
    union all
    select 'error', 'schema tenantry', 'a function or view of the guard was altered', 'run bootstrap'
    from tenantry.shard s where s.fingerprint is distinct from tenantry.fingerprint()
    union all
    select 'error', c.oid::regclass::text, 'is the guard''s, and application roles have a grant on it', 'run bootstrap'
    from pg_class c, unnest(array['tenantry_app', 'tenantry_copy']) as role (name)
    where c.relnamespace = 'tenantry'::regnamespace and c.relname <> 'schema_version'
      and case c.relkind
          when 'S' then has_sequence_privilege(role.name, c.oid, 'USAGE, SELECT, UPDATE')
          when 'i' then false
          else has_table_privilege(role.name, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') end
    union all
    select 'error', 'function ' || p.oid::regprocedure::text, 'is the agent''s, and application roles may execute it',
           'run bootstrap'
    from pg_proc p
    where p.pronamespace = 'tenantry'::regnamespace
      and p.proname in ('fence', 'unfence', 'hand_over', 'begin_owner_change', 'settle_fences', 'refuse_tenant',
                        'begin_import', 'expect_proof', 'activate', 'drop_import', 'drop_moved', 'forget_move',
                        'unsigned_binding', 'namespaced', 'advisory_key', 'cover', 'cover_all', 'cover_reference')
      and has_function_privilege('tenantry_app', p.oid, 'EXECUTE')
    union all
    select 'error', 'role ' || r.rolname, 'has attributes it must not have',
           'run bootstrap: no superuser, createrole, createdb; bypassrls only where the guard says so'
    from pg_roles r
    where r.rolname in ('tenantry_owner', 'tenantry_app', 'tenantry_copy', 'tenantry_agent', 'tenantry_operator')
      and (r.rolsuper or r.rolcreaterole or r.rolcreatedb
           or r.rolbypassrls <> (r.rolname in ('tenantry_copy', 'tenantry_agent', 'tenantry_operator')))
    union all
    select 'error', 'role ' || name, 'does not exist', 'run bootstrap'
    from unnest(array['tenantry_owner', 'tenantry_app', 'tenantry_copy', 'tenantry_agent', 'tenantry_operator']) name
    where not exists (select from pg_roles r where r.rolname = name)
    union all
    select 'error', 'role ' || m.member::regrole::text, 'is a member of ' || m.roleid::regrole::text, 'revoke the membership'
    from pg_auth_members m
    where (m.member = to_regrole('tenantry_app') and m.roleid <> to_regrole('tenantry_copy'))
       or m.member = to_regrole('tenantry_copy')
    union all
    select 'error', 'role ' || c.relowner::regrole::text, 'owns ' || c.oid::regclass::text, 'application roles own nothing'
    from pg_class c where c.relowner in (to_regrole('tenantry_app'), to_regrole('tenantry_copy'))
    union all
    select 'error', 'role ' || coalesce(s.setrole::regrole::text, 'of everyone'), 'has default settings: ' || array_to_string(s.setconfig, ', '),
           'ALTER ROLE ... RESET ALL: every session of every tenant would start with them'
    from pg_db_role_setting s
    where s.setrole in (to_regrole('tenantry_app'), to_regrole('tenantry_copy'), to_regrole('tenantry_agent'))
    union all
    select 'error', 'schema ' || n.nspname, 'application roles may create objects in it', 'revoke CREATE'
    from pg_namespace n
    where n.nspname !~ '^pg_(toast|temp)'
      and (has_schema_privilege('tenantry_app', n.oid, 'CREATE') or has_schema_privilege('tenantry_copy', n.oid, 'CREATE'))
    union all
    select 'error', 'database ' || current_database(), 'application roles may create schemas or temporary objects',
           'REVOKE CREATE, TEMPORARY ON DATABASE'
    where has_database_privilege('tenantry_app', current_database(), 'CREATE')
       or has_database_privilege('tenantry_app', current_database(), 'TEMPORARY')
    union all
    select 'error', 'function ' || p.oid::regprocedure::text, 'is executable by tenants and crosses them', 'run bootstrap'
    from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace
      and has_function_privilege('tenantry_app', p.oid, 'EXECUTE')
      and (p.proname ~ '^pg_(try_)?advisory_' and p.proname <> 'pg_advisory_unlock_all'
           or p.proname ~ '^pg_stat_get_backend_' or p.proname ~ '^lo_|^loread$|^lowrite$'
           or p.proname in ('pg_logical_emit_message', 'pg_notify', 'pg_cancel_backend', 'pg_terminate_backend',
                            'pg_stat_get_activity', 'pg_lock_status'))
    union all
    select 'error', c.oid::regclass::text, 'is readable by tenants and crosses them', 'run bootstrap'
    from pg_class c
    where c.oid in ('pg_catalog.pg_stat_activity'::regclass, 'pg_catalog.pg_locks'::regclass)
      and has_table_privilege('tenantry_app', c.oid, 'SELECT')
    union all
    select 'error', 'function ' || p.oid::regprocedure::text, 'is marked leakproof and is not',
           'its errors depend on values: run bootstrap'
    from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.proleakproof and p.proname = any (tenantry.leaky_functions())
    union all
    select 'warning', 'language plpgsql', 'application roles may use DO', 'a DO block hides statements from the router'
    where has_language_privilege('tenantry_app', 'plpgsql', 'USAGE')
    union all
    select 'error', c.oid::regclass::text,
           case c.relkind when 'm' then 'a materialized view' when 'f' then 'a foreign table'
                          else 'a view whose owner bypasses row-level security' end || ' that tenants may read',
           'policies do not apply to it'
    from pg_class c join pg_roles o on o.oid = c.relowner
    where c.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'tenantry'::regnamespace)
      and has_table_privilege('tenantry_app', c.oid, 'SELECT')
      and (c.relkind in ('m', 'f')
           or c.relkind = 'v' and (o.rolsuper or o.rolbypassrls)
              and not coalesce(c.reloptions @> '{security_invoker=true}' or c.reloptions @> '{security_invoker=on}', false))
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    union all
    select 'error', 'function ' || p.oid::regprocedure::text, 'runs with the rights of a role that bypasses row-level security',
           'give it to tenantry_owner'
    from pg_proc p join pg_roles o on o.oid = p.proowner
    where p.prosecdef and (o.rolsuper or o.rolbypassrls)
      and p.pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      and has_function_privilege('tenantry_app', p.oid, 'EXECUTE')
    union all
    select 'error', 'database ' || current_database(), 'no guard key is installed: no tenant can be bound', 'run bootstrap with the secrets file'
    where not exists (select from tenantry.guard_key)
    union all
    select 'warning', 'server', 'max_prepared_transactions is not 0', 'tenants share a role, and could finish each other''s prepared transactions'
    where current_setting('max_prepared_transactions')::integer > 0
    union all
    select 'warning', 'role ' || r.role_name, 'binds tenants without a signature: ' || r.reason, 'trusted SQL only'
    from tenantry.unsigned_role r
$$;
revoke execute on function tenantry.findings() from public;
grant execute on function tenantry.findings() to tenantry_operator;
grant select on tenantry.uncovered, tenantry.tenant_table to tenantry_operator;

-- Index operators that policies keep from using their index, because their functions are not leakproof. Comparisons
-- of different types, which a cast avoids, are left out.
create or replace view tenantry.slow_operator as
    select t.relation, i.indexrelid::pg_catalog.regclass as index, o.oprname || ' (' || o.oprcode::text || ')' as operator
    from tenantry.tenant_table t
    join pg_catalog.pg_index i on i.indrelid = t.relation
    cross join lateral pg_catalog.unnest(i.indclass::oid[]) as class (oid)
    join pg_catalog.pg_opclass c on c.oid = class.oid
    join pg_catalog.pg_am method on method.oid = c.opcmethod
    join pg_catalog.pg_amop m on m.amopfamily = c.opcfamily and m.amoplefttype = c.opcintype and m.amoppurpose = 's'
                                 and (method.amname <> 'btree' or m.amoprighttype = m.amoplefttype)
    join pg_catalog.pg_operator o on o.oid = m.amopopr
    join pg_catalog.pg_proc f on f.oid = o.oprcode
    where not f.proleakproof;
grant select on tenantry.slow_operator to tenantry_operator;
