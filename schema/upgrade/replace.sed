# The functions in PL/pgSQL that follow nearly every change, with their comments:
# an upgrade replaces them by what schema/ has.
/^CREATE FUNCTION event_store\.(create_store|grant_access)\(/,/\$\$;$/{
	s/^CREATE FUNCTION/CREATE OR REPLACE FUNCTION/
	p
}
