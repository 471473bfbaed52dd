-- Settings of every session of the rebalancer. The first group decides how a value reads and writes as text: values
-- are compared and copied as text between servers whose defaults may differ. The second keeps the server from doing
-- anything clever or impatient in a session that works for hours beside a shard's tenants.
set client_encoding = 'UTF8';
set datestyle = 'ISO, YMD';
set intervalstyle = 'postgres';
set timezone = 'UTC';
set extra_float_digits = 3;
set bytea_output = 'hex';
set xmloption = 'content';
set lc_monetary = 'C';
set standard_conforming_strings = on;
set quote_all_identifiers = off;
set search_path = pg_catalog;

set row_security = off;
set statement_timeout = 0;
set lock_timeout = 0;
set idle_in_transaction_session_timeout = 0;
set default_transaction_isolation = 'read committed';
set default_transaction_read_only = off;
set max_parallel_workers_per_gather = 0;
set jit = off;
set client_min_messages = warning;
