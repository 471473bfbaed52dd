-- Tables with the tenant column $1 that a move cannot carry (true) or that may stop it later (false): table and reason.
with recursive root as (
    select c.oid, c.relkind, c.relpersistence, c.relreplident, c.relowner, c.relname
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f') and not c.relispartition and c.relpersistence <> 't'
      and n.nspname not in ('pg_catalog', 'information_schema', 'tenantry')
      and n.nspname not like 'pg\_toast%'
      and exists (select from pg_attribute a
                  where a.attrelid = c.oid and a.attname = $1 and a.attnum > 0 and not a.attisdropped)
),
-- With partitions: rows are changed in those, and their identity is what a change is checked against.
part as (
    select r.oid, r.oid as root from root r
    union
    select i.inhrelid, p.root from part p join pg_inherits i on i.inhparent = p.oid join pg_class c on c.oid = i.inhrelid
    where c.relispartition
),
leaf as (
    select c.*, p.root from part p join pg_class c on c.oid = p.oid where c.relkind <> 'p'
),
-- The columns that name a row, by table; none if the server has no identity for its rows.
identity as (
    select c.oid, c.relname,
           case when c.relreplident = 'f' then (select array_agg(a.attnum) from pg_attribute a where a.attrelid = c.oid and a.attnum > 0)
                else (select i.indkey[0:i.indnkeyatts - 1]::smallint[]
                      from pg_index i
                      where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                        and case c.relreplident when 'i' then i.indisreplident when 'd' then i.indisprimary else false end) end
               as columns
    from part p join pg_class c on c.oid = p.oid
),
tenant as (
    select a.attrelid, a.attnum from pg_attribute a where a.attname = $1 and not a.attisdropped
),
fault (stops, relation, reason) as (
    select true, l.oid, 'is a foreign table: its rows are elsewhere' from leaf l where l.relkind = 'f'
    union all
    select true, l.oid, 'is unlogged: its changes are in no log' from leaf l where l.relpersistence = 'u'
    union all
    select true, i.inhparent, 'has a table that inherits from it: make it a partition, or separate them'
    from pg_inherits i join root r on r.oid in (i.inhparent, i.inhrelid) join pg_class c on c.oid = i.inhrelid
    where not c.relispartition and c.relkind in ('r', 'f')
    union all
    select true, i.oid, 'has no key: give it a primary key that contains the tenant column, and that is not deferrable'
    from identity i join pg_class c on c.oid = i.oid where i.columns is null and c.relkind <> 'f'
    union all
    select true, i.oid, 'is identified by a key without the tenant column: a publication of one tenant would make updates of '
                        || 'every tenant fail'
    from identity i join tenant t on t.attrelid = i.oid where t.attnum <> all (i.columns)
    union all
    -- REPLICA IDENTITY FULL still needs a key by which rows are found.
    select true, r.oid, 'has REPLICA IDENTITY FULL and no primary key that contains the tenant column'
    from root r join tenant t on t.attrelid = r.oid
    where r.relreplident = 'f'
      and not exists (select from pg_index i where i.indrelid = r.oid and i.indisprimary and i.indimmediate and i.indisvalid
                                               and t.attnum = any (i.indkey::smallint[]))
    union all
    -- Ranges of a key are written with the operators of pg_catalog.
    select true, r.oid, format('has column %I of type %s in its key, which has an order of its own', a.attname,
                               format_type(a.atttypid, a.atttypmod))
    from root r
    join pg_index i on i.indrelid = r.oid and i.indisvalid and case r.relreplident when 'i' then i.indisreplident else i.indisprimary end
    join pg_attribute a on a.attrelid = r.oid and a.attnum = any (i.indkey::smallint[])
    where exists (select from unnest(i.indkey::smallint[], i.indclass::oid[]) k (attnum, class)
                  join pg_opclass o on o.oid = k.class
                  where k.attnum = a.attnum and o.opcnamespace <> 'pg_catalog'::regnamespace)
    union all
    -- Such values are oids, which are others on each server.
    select true, r.oid, format('has column %I of type %s in its key, whose order is another on each server', a.attname,
                               format_type(a.atttypid, a.atttypmod))
    from root r
    join pg_index i on i.indrelid = r.oid and i.indisvalid and case r.relreplident when 'i' then i.indisreplident else i.indisprimary end
    join pg_attribute a on a.attrelid = r.oid and a.attnum = any (i.indkey::smallint[])
    join pg_type whole on whole.oid = a.atttypid
    join pg_type t on t.oid in (whole.oid, whole.typbasetype, case when whole.typcategory = 'A' then whole.typelem end)
    where t.typnamespace = 'pg_catalog'::regnamespace and t.typname like 'reg%'
    union all
    select true, g.tgrelid, format('has trigger %I that fires for copied rows too (ENABLE %s)', g.tgname,
                                   case g.tgenabled when 'A' then 'ALWAYS' else 'REPLICA' end)
    from pg_trigger g join part p on p.oid = g.tgrelid
    where not g.tgisinternal and g.tgenabled in ('A', 'R')
    union all
    select true, w.ev_class, format('has rule %I, which rewrites what is applied', w.rulename)
    from pg_rewrite w join part p on p.oid = w.ev_class
    where w.ev_enabled in ('A', 'R')
    union all
    select true, c.oid, format('belongs to %s, whom the rebalancer''s role is no member of', c.relowner::regrole)
    from part p join pg_class c on c.oid = p.oid
    where not pg_has_role(current_user, c.relowner, 'USAGE')
    union all
    select true, a.attrelid, format('has column %I with numbers of large objects, which are not moved', a.attname)
    from part p
    join pg_attribute a on a.attrelid = p.oid and p.oid = p.root and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
    where t.typname = 'lo' and t.typtype = 'd'
    union all
    select false, i.indrelid, format('has unique index %s without the tenant column: its values may be taken at the destination',
                                     i.indexrelid::regclass)
    from pg_index i join part p on p.oid = i.indrelid and p.oid = p.root join tenant t on t.attrelid = i.indrelid
    where i.indisunique and t.attnum <> all (i.indkey::smallint[])
)
select distinct stops, relation::regclass::text, reason from fault order by 1 desc, 2, 3
