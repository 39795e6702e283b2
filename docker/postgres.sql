-- Run once by the postgres image, as its superuser, when the volume is new: the server's role, which is no superuser,
-- and its database. The password is read from the secret's file by psql itself; it is in no argument and no variable.
\set password `cat /run/secrets/database_password`
CREATE ROLE popsigner LOGIN PASSWORD :'password';
-- What its work runs as (the server's migration 0002); `popsigner` may become each.
CREATE ROLE popsigner_tenant NOLOGIN;
CREATE ROLE popsigner_identity NOLOGIN;
CREATE ROLE popsigner_jobs NOLOGIN;
CREATE ROLE popsigner_gate NOLOGIN;
GRANT popsigner_tenant, popsigner_identity, popsigner_jobs, popsigner_gate TO popsigner;
CREATE DATABASE popsigner OWNER popsigner;
