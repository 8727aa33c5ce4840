-- PostgreSQL in deploy/docker/compose.yaml, when it is empty: a database and an owner for upstream, and the same for MSG DB.
-- The passwords are examples.
CREATE ROLE shop LOGIN PASSWORD 'example-shop-password';
CREATE DATABASE shop OWNER shop;
CREATE ROLE msgdb LOGIN PASSWORD 'example-msgdb-password';
CREATE DATABASE msgdb OWNER msgdb;
