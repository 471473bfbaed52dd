-- Where the guard lives, and who may write functions: 09_revokes.sql takes plpgsql from everyone else.
grant usage on language plpgsql to tenantry_owner, tenantry_agent;
create schema if not exists tenantry authorization tenantry_owner;
