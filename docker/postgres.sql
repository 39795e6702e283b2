-- Run once by the postgres image, as its superuser, when the volume is new: the server's role, which is no superuser,
-- and its database. The password is read from the secret's file by psql itself; it is in no argument and no variable.
\set password `cat /run/secrets/database_password`
CREATE ROLE popsigner LOGIN PASSWORD :'password';
CREATE DATABASE popsigner OWNER popsigner;
