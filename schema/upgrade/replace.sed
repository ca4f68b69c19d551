# The functions that follow nearly every change, with their comments: an upgrade
# makes them, or replaces them, by what schema/ has.
/^CREATE FUNCTION event_store\.(create_store|grant_access)\(/,/\$\$;$/{
	s/^CREATE FUNCTION/CREATE OR REPLACE FUNCTION/
	p
}
/^CREATE FUNCTION event_store\.access_levels\(/,/';$/{
	s/^CREATE FUNCTION/CREATE OR REPLACE FUNCTION/
	p
}
