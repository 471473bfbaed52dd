-- What was hot is told for a while and not for ever; a kill switch that is thrown harder keeps what the weaker one
-- promised.

-- Heat --------------------------------------------------------------------------------------------------------

-- By age, to be trimmed.
CREATE INDEX heat_event_at ON tenantry.heat_event (at);

-- The kill switch ---------------------------------------------------------------------------------------------

-- One that is thrown harder cools down no sooner than the one before would have, or releasing it would be the way
-- around; and it lasts no shorter, or the tenant could write again when it ends though nobody has allowed that.
CREATE FUNCTION tenantry.keep_kill_switch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    modes      CONSTANT text[] := ARRAY['off', 'read_only', 'refuse'];
    right_now  CONSTANT timestamptz := clock_timestamp();
    cool_at    CONSTANT timestamptz := OLD.since + OLD.cool_down;
BEGIN
    IF OLD.mode = 'off' OR coalesce(OLD.until, 'infinity') <= right_now
       OR array_position(modes, NEW.mode) <= array_position(modes, OLD.mode)
    THEN
        RETURN NEW;
    END IF;
    IF coalesce(NEW.until, 'infinity') < coalesce(OLD.until, 'infinity') THEN
        RAISE EXCEPTION 'the kill switch is % until %, and would be lost before', OLD.mode,
                coalesce(date_trunc('second', OLD.until)::text, 'it is released')
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Throw it harder for at least as long, or without an end, and back by hand.';
    END IF;
    -- The end of the cooling counts from now, when the mode changes.
    NEW.cool_down := greatest(NEW.cool_down, cool_at - right_now);
    RETURN NEW;
END $$;

-- Before the other trigger of this event: they fire in the order of their names.
CREATE TRIGGER kill_switch_a_harder_keeps BEFORE UPDATE ON tenantry.kill_switch
    FOR EACH ROW EXECUTE FUNCTION tenantry.keep_kill_switch();
