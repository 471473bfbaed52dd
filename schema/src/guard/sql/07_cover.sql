-- Bringing a table under the guard, and saying which tables are not.

-- Tables that hold tenants' rows: they have the tenant column. Partitions are tables of their own here.
create or replace view tenantry.tenant_table as
    select c.oid::pg_catalog.regclass as relation, n.nspname as schema_name, c.relname as table_name,
           c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relowner,
           a.attnum, a.atttypid, a.attnotnull, a.atthasdef
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = @column_literal@ and not a.attisdropped
    where c.relkind in ('r', 'p')
      and n.nspname not in ('pg_catalog', 'information_schema', 'tenantry')
      and n.nspname not like 'pg\_toast%' and n.nspname not like 'pg\_temp%';

-- What the policy of a covered table says, as PostgreSQL prints it.
create or replace function tenantry.policy_text() returns text
language sql immutable parallel safe
as $$ select '(' || pg_catalog.quote_ident(@column_literal@) || ' = ( SELECT tenantry.tenant() AS tenant))' $$;

-- Covers a table: row-level security, forced on its owner too; one policy for all commands; the default; the triggers
-- that watch COPY; the grants. Only what is missing is changed; returns what was. Until a table is covered the
-- application role has no grant on it.
create or replace function tenantry.cover(target regclass) returns text[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    found tenantry.tenant_table;
    done text[] := '{}';
    wanted record;
begin
    select * into found from tenantry.tenant_table t where t.relation = target;
    if found.relation is null then
        raise exception using
            errcode = '42P17', message = format('table %s has no column %I', target, @column_literal@),
            hint = 'A table that is the same for every tenant is a reference table: tenantry.cover_reference().';
    end if;
    if found.atttypid <> '@key@'::regtype then
        raise exception using
            errcode = '42P17', message = format('column %I of table %s must be @key@, not %s', @column_literal@, target,
                                                format_type(found.atttypid, null));
    end if;

    if not found.attnotnull then
        execute format('alter table %s alter column %I set not null', target, @column_literal@);
        done := done || 'not null'::text;
    end if;
    if not found.atthasdef then
        execute format('alter table %s alter column %I set default tenantry.bound_tenant()', target, @column_literal@);
        done := done || 'default'::text;
    end if;
    if not (found.relrowsecurity and found.relforcerowsecurity) then
        execute format('alter table %s enable row level security, force row level security', target);
        done := done || 'row security'::text;
    end if;
    if not exists (
        select from pg_policy p
        where p.polrelid = target and p.polname = 'tenantry_guard' and p.polpermissive and p.polcmd = '*'
          and p.polroles = '{0}'
          and pg_get_expr(p.polqual, p.polrelid) = tenantry.policy_text()
          and pg_get_expr(p.polwithcheck, p.polrelid) = tenantry.policy_text())
    then
        execute format('drop policy if exists tenantry_guard on %s', target);
        execute format('create policy tenantry_guard on %1$s for all to public
                        using (%2$I = (select tenantry.tenant())) with check (%2$I = (select tenantry.tenant()))',
                       target, @column_literal@);
        done := done || 'policy'::text;
    end if;

    -- Triggers fire in order of name: the row check is the last of the BEFORE triggers, so that none can change the
    -- row after it.
    if not exists (select from pg_trigger t where t.tgrelid = target and t.tgname = '~tenantry_copy_statement') then
        execute format('create trigger "~tenantry_copy_statement" before insert on %s for each statement
                        when (current_user = ''tenantry_copy'') execute function tenantry.copy_statement()', target);
        done := done || 'copy statement trigger'::text;
    end if;
    if not exists (select from pg_trigger t where t.tgrelid = target and t.tgname = '~tenantry_copy_row') then
        execute format('create trigger "~tenantry_copy_row" before insert on %s for each row
                        when (current_user = ''tenantry_copy'') execute function tenantry.copy_row()', target);
        done := done || 'copy row trigger'::text;
    end if;
    if exists (select from pg_trigger t where t.tgrelid = target and t.tgname like '~tenantry\_copy\_%'
                                          and t.tgenabled <> 'O') then
        execute format('alter table %s enable trigger "~tenantry_copy_statement", enable trigger "~tenantry_copy_row"',
                       target);
        done := done || 'copy triggers enabled'::text;
    end if;

    for wanted in
        select *
        from (values
            ('tenantry_app', 'SELECT'), ('tenantry_app', 'INSERT'), ('tenantry_app', 'UPDATE'),
            ('tenantry_app', 'DELETE'), ('tenantry_copy', 'INSERT'),
            ('tenantry_operator', 'SELECT'), ('tenantry_operator', 'INSERT'), ('tenantry_operator', 'UPDATE'),
            ('tenantry_operator', 'DELETE')
        ) as privilege (role_name, action)
    loop
        if not has_table_privilege(wanted.role_name, target, wanted.action) then
            execute format('grant %s on %s to %I', wanted.action, target, wanted.role_name);
            done := done || lower(format('%s to %s', wanted.action, wanted.role_name));
        end if;
    end loop;
    if has_table_privilege('tenantry_app', target, 'TRUNCATE, REFERENCES, TRIGGER')
       or has_any_column_privilege('tenantry_copy', target, 'SELECT, UPDATE') then
        execute format('revoke truncate, references, trigger on %s from public, tenantry_app', target);
        execute format('revoke all on %s from public', target);
        execute format('revoke select, update, delete, truncate, references, trigger on %s from tenantry_copy', target);
        done := done || 'grants too many'::text;
    end if;
    return done;
end
$$;

-- A reference table: the same rows on every shard, for everyone to read, written elsewhere.
create or replace function tenantry.cover_reference(target regclass) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('revoke all on %s from public, tenantry_app, tenantry_copy', target);
    execute format('grant select on %s to tenantry_app, tenantry_operator', target);
end
$$;

-- Covers every tenant table of the database; returns what was changed, as 'table: what'.
create or replace function tenantry.cover_all() returns setof text
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    select t.relation::text || ': ' || done
    from (select relation from tenantry.tenant_table order by schema_name, table_name) t,
         unnest(tenantry.cover(t.relation)) done
$$;

revoke execute on function tenantry.cover(regclass), tenantry.cover_reference(regclass), tenantry.cover_all()
from public;
