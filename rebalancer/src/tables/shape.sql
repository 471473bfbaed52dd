-- Everything that decides whether a row of a tenant table (one with the column $1) means the same on another shard, a
-- line each. Order of columns, oids and what an owner or a grant says do not matter.
with recursive part as (
    select c.oid, c.oid as root
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
      and n.nspname not in ('pg_catalog', 'information_schema', 'tenantry')
      and n.nspname not like 'pg\_toast%'
      and exists (select from pg_attribute a
                  where a.attrelid = c.oid and a.attname = $1 and a.attnum > 0 and not a.attisdropped)
    union
    select i.inhrelid, p.root from part p join pg_inherits i on i.inhparent = p.oid
),
col as (
    select a.* from pg_attribute a join part p on p.oid = a.attrelid and p.oid = p.root
    where a.attnum > 0 and not a.attisdropped
),
used (oid) as (
    select atttypid from col
    union
    select below.oid
    from used u
    join pg_type t on t.oid = u.oid
    cross join lateral (
        select t.typbasetype where t.typbasetype <> 0
        union all
        select t.typelem where t.typelem <> 0
        union all
        select r.rngsubtype from pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
        union all
        select a.atttypid from pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) below (oid)
),
line (text) as (
    select format('database encoding %s', pg_encoding_to_char(d.encoding))
    from pg_database d where d.datname = current_database()
    union all
    select format('table %s %s identity %s persistence %s bounds %s by %s', c.oid::regclass, c.relkind, c.relreplident,
                  c.relpersistence, pg_get_expr(c.relpartbound, c.oid),
                  case when c.relkind = 'p' then pg_get_partkeydef(c.oid) end)
    from part p join pg_class c on c.oid = p.oid
    union all
    select format('column %s.%I %s not null %s default %s generated %s identity %s', a.attrelid::regclass, a.attname,
                  format_type(a.atttypid, a.atttypmod), a.attnotnull,
                  case when a.attgenerated = '' and a.attidentity = '' then pg_get_expr(f.adbin, f.adrelid) end,
                  case when a.attgenerated <> '' then pg_get_expr(f.adbin, f.adrelid) end, a.attidentity)
    from col a left join pg_attrdef f on f.adrelid = a.attrelid and f.adnum = a.attnum
    union all
    -- NOT NULL, which some versions list here, is with the column.
    select format('constraint %I on %s %s validated %s', k.conname, k.conrelid::regclass, pg_get_constraintdef(k.oid),
                  k.convalidated)
    from pg_constraint k join part p on p.oid = k.conrelid and p.oid = p.root
    where k.contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select format('index %s valid %s', pg_get_indexdef(i.indexrelid), i.indisvalid)
    from pg_index i join part p on p.oid = i.indrelid and p.oid = p.root
    union all
    select format('trigger %s enabled %s', pg_get_triggerdef(g.oid), g.tgenabled)
    from pg_trigger g join part p on p.oid = g.tgrelid and p.oid = p.root
    where not g.tgisinternal
    union all
    select format('type %s %s base %s %s labels %s attributes %s constraints %s', format_type(t.oid, null), t.typtype,
                  format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typnotnull,
                  (select string_agg(quote_literal(e.enumlabel), ',' order by e.enumsortorder)
                   from pg_enum e where e.enumtypid = t.oid),
                  (select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ',' order by a.attnum)
                   from pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped),
                  (select string_agg(pg_get_constraintdef(k.oid), ',' order by k.conname)
                   from pg_constraint k where k.contypid = t.oid and k.contype = 'c'))
    from used u join pg_type t on t.oid = u.oid
    where t.typnamespace <> 'pg_catalog'::regnamespace and t.typcategory <> 'A'
    union all
    -- Chunks are cut in the order of the key on one shard and compared on the other: text keys need the same order.
    select format('order of %s.%I %s', a.attrelid::regclass, a.attname,
                  case when l.oid = 'pg_catalog.default'::regcollation
                       then concat_ws(' ', d.datcollate, d.datlocprovider, pg_database_collation_actual_version(d.oid))
                       else concat_ws(' ', l.collname, l.collprovider, pg_collation_actual_version(l.oid)) end)
    from col a
    join pg_index i on i.indrelid = a.attrelid and (i.indisprimary or i.indisreplident) and a.attnum = any (i.indkey::smallint[])
    join pg_collation l on l.oid = a.attcollation
    join pg_database d on d.datname = current_database()
)
select text from line order by text collate "C"
