-- The fleet's own row and the record of applied migrations.
-- Runs before `init` has chosen the tenant key, so nothing here may depend on it.

CREATE SCHEMA tenantry;
COMMENT ON SCHEMA tenantry IS 'The catalog: the truth about the fleet. It is off the data path.';

CREATE TABLE tenantry.migration (
    version     integer     PRIMARY KEY,
    name        text        NOT NULL,
    checksum    bigint      NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tenantry.migration IS 'Catalog migrations that were applied; checksum is the CRC-32 of the text.';

CREATE TABLE tenantry.fleet (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    catalog_id     uuid        NOT NULL DEFAULT gen_random_uuid(),
    tenant_key     text        NOT NULL CHECK (tenant_key IN ('bigint', 'uuid')),
    tenant_column  text        NOT NULL CHECK (tenant_column ~ '^[a-z_][a-z0-9_]{0,62}$'),
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tenantry.fleet IS 'One row, written once by init: what every shard and router was built with.';

-- Every shard's tables carry this key and this column: changing either here would only make the catalog lie.
CREATE FUNCTION tenantry.refuse_fleet_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the fleet''s tenant key and tenant column are chosen once, at init'
        USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;

CREATE TRIGGER fleet_is_final BEFORE UPDATE OR DELETE ON tenantry.fleet
    FOR EACH ROW EXECUTE FUNCTION tenantry.refuse_fleet_change();
