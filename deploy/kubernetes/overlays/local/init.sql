-- PostgreSQL when its volume is empty: two databases, with the roles of deploy/postgres/roles.sql and development passwords.
CREATE DATABASE upstream;
CREATE DATABASE msg;

\connect upstream
\set service upstream
\i /opt/countersign/roles.sql

\connect msg
\set service callback
\i /opt/countersign/roles.sql

ALTER ROLE upstream PASSWORD 'dev-upstream';
ALTER ROLE upstream_owner PASSWORD 'dev-upstream-owner';
ALTER ROLE callback PASSWORD 'dev-callback';
ALTER ROLE callback_owner PASSWORD 'dev-callback-owner';
