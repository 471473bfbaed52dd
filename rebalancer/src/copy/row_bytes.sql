-- Bytes of an average row of each of the tables $1, without and with indexes, in the order asked for. All partitions
-- together; a table whose rows were never counted has rows of 128 bytes.
select case when size.rows > 0 then size.heap / size.rows else 128 end::float8,
       case when size.rows > 0 then size.total / size.rows else 256 end::float8
from unnest($1::oid[]) with ordinality as asked (relation, place)
cross join lateral (
    select sum(greatest(c.reltuples, 0)) as rows, sum(pg_table_size(c.oid)) as heap,
           sum(pg_total_relation_size(c.oid)) as total
    from pg_class c
    where c.oid = asked.relation and c.relkind = 'r'
       or c.oid in (select t.relid from pg_partition_tree(asked.relation) t where t.isleaf)
) size
order by asked.place
