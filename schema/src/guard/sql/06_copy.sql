-- What watches tenantry_copy. The role bypasses row-level security, so that the router can COPY FROM as it; it may
-- only insert, and only rows of the tenant that is bound. A client that becomes the role by itself gains nothing.

-- The tenant that the statement's trigger verified, as the row trigger sees it. Verifying the signature for each row
-- would double the cost of a COPY. A setting could be rewritten by an expression in the middle of the statement; the
-- last value that this session set in a sequence it has no grant on can not. Only currval() of it means anything.
create sequence if not exists tenantry.copying_high as bigint minvalue -9223372036854775808 start 0;
create sequence if not exists tenantry.copying_low as bigint minvalue -9223372036854775808 start 0;

create or replace function tenantry.copy_statement() returns trigger
language plpgsql volatile security definer
as $$
declare
    tenant @key@ := tenantry.tenant();
begin
    @remember_copying@
    return null;
end
$$;

create or replace function tenantry.copy_row() returns trigger
language plpgsql volatile security definer
as $$
begin
    if @row_is_copying@ then
        return new;
    end if;
    raise exception using
        errcode = '42501',
        message = pg_catalog.format('new row violates row-level security policy for table "%s"', tg_table_name),
        detail = 'The row names another tenant than the one that is bound.',
        schema = tg_table_schema, table = tg_table_name, constraint = 'TENANT_ROW';
end
$$;
