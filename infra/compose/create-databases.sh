#!/bin/bash
# Runs once, when PostgreSQL's volume is new: a role and a database for each service, which sees nothing of the others.
set -euo pipefail

for name in prefect mlflow ledger; do
  # by the environment, since arguments are seen by every process
  PASSWORD="$(cat "/run/secrets/${name}_password")" \
    psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres --set=name="$name" <<'SQL'
\getenv password PASSWORD
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done

# MLflow's users and permissions
psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE mlflow_auth FROM PUBLIC;
SQL
