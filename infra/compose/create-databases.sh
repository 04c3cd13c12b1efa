#!/bin/bash
# Runs once, when PostgreSQL's volume is new: a role and a database for each service, which sees nothing of the others.
set -euo pipefail

for name in prefect mlflow ledger; do
  psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres \
    --set=name="$name" --set=password="$(cat "/run/secrets/${name}_password")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done

# MLflow's users and permissions
psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE mlflow_auth FROM PUBLIC;
SQL
