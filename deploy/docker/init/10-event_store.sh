#!/bin/bash
# Makes the store, the schemas around it and a role for each level of grant_access, when the
# official image makes its cluster.  A role may log in if there is a secret of its name:
# /run/secrets/ROLE.  Tried: test/t/052_deploy.pl.
set -euo pipefail

SECRETS=${SECRETS:-/run/secrets}

run() {
	psql -X -q -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"
}

run <<-'SQL'
	CREATE EXTENSION IF NOT EXISTS event_store;
	SELECT event_store.create_store();
	-- what an application derives from events, and what it decides with
	CREATE SCHEMA IF NOT EXISTS read_model;
	CREATE SCHEMA IF NOT EXISTS command_model;
SQL

for level in monitor reader consumer writer admin; do
	run -v role="event_store_$level" -v level="$level" <<-'SQL'
		SELECT format('CREATE ROLE %I NOLOGIN', :'role')
		 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
		SELECT event_store.grant_access(:'role', :'level');
		GRANT USAGE ON SCHEMA read_model TO :"role";
	SQL
	if [ -r "$SECRETS/event_store_$level" ]; then
		# the secret is in no argument, which others could see
		run -v role="event_store_$level" <<-SQL
			\\set password \`cat '$SECRETS/event_store_$level'\`
			ALTER ROLE :"role" LOGIN PASSWORD :'password';
		SQL
	fi
done

run <<-'SQL'
	GRANT CREATE ON SCHEMA read_model TO event_store_consumer, event_store_admin;
	GRANT USAGE, CREATE ON SCHEMA command_model TO event_store_writer, event_store_admin;
	GRANT pg_monitor TO event_store_monitor;
SQL
