-- Ids that no other shard hands out, so that rows keep them when their tenant moves: 41 bits of milliseconds since
-- 2025-01-01, 12 bits of shard number, 10 bits of counter. Roughly in order of time, positive, good until 2094.

-- Milliseconds and counter are one number, kept in the sequence id_clock: the larger of the clock and the last one
-- plus one. So a clock that steps back, a backend that stalls, and more than 1,024 ids in a millisecond repeat
-- nothing. Comparing and setting is not atomic, hence the lock: a session lock, because one that lasts until the end
-- of the transaction would let one slow transaction stop everyone's inserts. The handler
-- releases it if anything fails in between.
create or replace function tenantry.next_id() returns bigint
language plpgsql volatile security definer parallel unsafe
as $$
declare
    floor_now bigint;
    ticket    bigint;
begin
    -- nextval() would refuse, but with the lock held.
    if pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'on' then
        raise exception using errcode = '25006', message = 'cannot execute next_id() in a read-only transaction';
    end if;
    if pg_catalog.pg_advisory_lock(@id_class@, 0) is not null then
        floor_now := ((pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) operator(pg_catalog.-) 1735689600)
                      operator(pg_catalog.*) 1000)::bigint operator(pg_catalog.<<) 10;
        ticket := pg_catalog.nextval('tenantry.id_clock');
        if ticket operator(pg_catalog.<) floor_now then
            ticket := pg_catalog.setval('tenantry.id_clock', floor_now);
        end if;
    end if;
    if not pg_catalog.pg_advisory_unlock(@id_class@, 0) then
        raise exception using errcode = 'XX000', message = 'the id lock was not held';
    end if;
    return ((ticket operator(pg_catalog.>>) 10) operator(pg_catalog.<<) 22)
        operator(pg_catalog.|) (@shard@::bigint operator(pg_catalog.<<) 10)
        operator(pg_catalog.|) (ticket operator(pg_catalog.&) 1023);
exception when query_canceled or others then
    perform pg_catalog.pg_advisory_unlock(@id_class@, 0);
    raise;
end
$$;
