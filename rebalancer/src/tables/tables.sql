-- The tables that have the tenant column $1, each described as JSON: see TenantTable. Partitions are part of their
-- root. An attribute's number is not its place in the list: dropped columns leave gaps.
with recursive root as (
    select c.oid, n.nspname, c.relname, c.relkind, c.relreplident
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
      and n.nspname not in ('pg_catalog', 'information_schema', 'tenantry')
      and n.nspname not like 'pg\_toast%'
      and exists (select from pg_attribute a
                  where a.attrelid = c.oid and a.attname = $1 and a.attnum > 0 and not a.attisdropped)
),
-- A type's binary form travels well if no part of it is an oid: arrays and composites carry those of their elements,
-- and the reg* types are oids that print as names. Enums are sent as labels. An array of int2vector or oidvector is
-- sent in a form that the server itself does not accept.
component as (
    select t.oid as column_type, t.oid as part from pg_type t
    where t.oid in (select a.atttypid from pg_attribute a join root r on r.oid = a.attrelid
                    where a.attnum > 0 and not a.attisdropped)
    union
    select c.column_type, below.oid
    from component c
    join pg_type t on t.oid = c.part
    cross join lateral (
        select t.typbasetype as oid where t.typtype = 'd'
        union all
        select t.typelem where t.typcategory = 'A' and t.typelem <> 0
        union all
        select r.rngsubtype from pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
    ) below
),
travels as (
    select c.column_type,
           bool_and(case t.typtype
                    when 'd' then true
                    when 'e' then c.column_type = t.oid or whole.typtype = 'd' and whole.typbasetype = t.oid
                    else t.typnamespace = 'pg_catalog'::regnamespace and t.typtype in ('b', 'r', 'm')
                         and t.typsend <> 0 and t.typreceive <> 0 and t.typname not like 'reg%'
                         and t.typname not in ('int2vector', 'oidvector')
                    end) as binary
    from component c
    join pg_type t on t.oid = c.part
    join pg_type whole on whole.oid = c.column_type
    group by c.column_type
),
col as (
    select r.oid as relation, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attidentity, t.binary,
           row_number() over (partition by r.oid order by a.attnum) - 1 as place
    from root r
    join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    join travels t on t.column_type = a.atttypid
)
select r.nspname || '.' || r.relname,
       json_build_object(
           'oid', r.oid::bigint,
           'schema', r.nspname,
           'name', r.relname,
           'partitioned', r.relkind = 'p',
           'columns', (select json_agg(json_build_object(
                                  'name', c.attname,
                                  'type_sql', format_type(c.atttypid, c.atttypmod),
                                  'type_oid', c.atttypid::bigint,
                                  'generated', c.attgenerated <> '',
                                  'identity', c.attidentity <> '',
                                  'binary', c.binary) order by c.place)
                       from col c where c.relation = r.oid),
           'tenant', (select c.place from col c where c.relation = r.oid and c.attname = $1),
           -- What the server takes for the identity of a row; a deferrable key is none. With REPLICA IDENTITY FULL the
           -- primary key still names a row.
           'key', coalesce((select json_agg(c.place order by k.ord)
                            from pg_index i
                            cross join lateral unnest(i.indkey[0:i.indnkeyatts - 1]) with ordinality as k (attnum, ord)
                            join col c on c.relation = r.oid and c.attnum = k.attnum
                            where i.indrelid = r.oid and i.indisvalid and i.indimmediate
                              and case r.relreplident when 'i' then i.indisreplident
                                                      when 'n' then false
                                                      else i.indisprimary end), '[]'),
           'sequences', coalesce((
               select json_agg(json_build_object('schema', used.nspname, 'name', used.relname)
                               order by used.nspname, used.relname)
               from (
                   select n.nspname, s.relname
                   from pg_depend d
                   join pg_class s on s.oid = d.objid and s.relkind = 'S'
                   join pg_namespace n on n.oid = s.relnamespace
                   where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid
                     and d.refobjsubid > 0 and d.deptype in ('a', 'i')
                   union
                   select n.nspname, s.relname
                   from pg_attrdef f
                   join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
                                       and d.refclassid = 'pg_class'::regclass
                   join pg_class s on s.oid = d.refobjid and s.relkind = 'S'
                   join pg_namespace n on n.oid = s.relnamespace
                   where f.adrelid = r.oid
               ) used), '[]')) as description
from root r
order by r.nspname collate "C", r.relname collate "C"
