-- Sequences by schema ($1) and name ($2), in the order asked for.
select pg_sequence_last_value(s.seqrelid), s.seqincrement, s.seqmin, s.seqmax, s.seqcycle
from unnest($1::text[], $2::text[]) with ordinality as asked (schema_name, sequence_name, place)
join pg_namespace n on n.nspname = asked.schema_name
join pg_class c on c.relnamespace = n.oid and c.relname = asked.sequence_name
join pg_sequence s on s.seqrelid = c.oid
order by asked.place
