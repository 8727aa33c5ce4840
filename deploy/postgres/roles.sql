-- Two roles for one service's database: SERVICE_owner makes and alters the tables, SERVICE reads and writes rows. Run it by psql as a
-- superuser, in the database of the service, once for each; again at any time, it changes only what is missing:
--
--   psql -d shop   -v service=upstream   -f deploy/postgres/roles.sql
--   psql -d msg    -v service=callback   -f deploy/postgres/roles.sql
--   psql -d stock  -v service=downstream -f deploy/postgres/roles.sql    -- guards inbox, tiered, redis+archive
--
-- Then give both a password (`\password upstream_owner`, `\password upstream`), and make the tables as the owner, before the first start and
-- before each new version:
--
--   COUNTERSIGN_DATABASE__URL=postgres://upstream_owner:...@host/shop upstream --config upstream.toml --migrate
--
-- The service itself runs as postgres://upstream:...@host/shop with database.migrate = false. When the tables are there, run this file once
-- more: from then on the service may no longer write the record of migrations. A service that embeds upstream or downstream has tables of its
-- own in this database: make them as the same owner, and they are granted to the service in the same way.
\set ON_ERROR_STOP on
\set owner :service _owner

SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', name)
FROM unnest(ARRAY[:'owner', :'service']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

-- Nobody comes into this database, or makes anything in it, just because he exists.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database())
\gexec
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
SELECT format('GRANT CONNECT ON DATABASE %I TO %I, %I', current_database(), :'owner', :'service')
\gexec
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";
GRANT USAGE ON SCHEMA public TO :"service";

-- Rows of what the owner makes from now on, and of what it has made; nothing of anybody else's.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"service";
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON public.%I TO %I', tablename, :'service')
FROM pg_tables WHERE schemaname = 'public' AND tableowner = :'owner'
\gexec
SELECT format('REVOKE INSERT, UPDATE, DELETE ON public.%I FROM %I', tablename, :'service')
FROM pg_tables WHERE schemaname = 'public' AND tableowner = :'owner' AND tablename LIKE 'countersign\_migrations\_%'
\gexec
