# What an upgrade takes from schema/ as it stands: functions, procedures,
# aggregates and views, made or replaced, their comments and grants.

# Follows the quotes of a line; "quote" is the one that is open at its end.
function follow(line) {
	while (match(line, quote == "" ? "'|\\$[a-z_]*\\$" : quote)) {
		if (quote == "") {
			quote = substr(line, RSTART, RLENGTH)
			gsub(/\$/, "[$]", quote)
		} else
			quote = ""
		line = substr(line, RSTART + RLENGTH)
	}
}

!taking && /^CREATE (FUNCTION|PROCEDURE|AGGREGATE|VIEW) event_store\./ {
	sub(/^CREATE /, "CREATE OR REPLACE ")
	taking = 1
}
!taking && /^(COMMENT ON|GRANT) / {
	taking = 1
}
taking {
	print
	follow($0)
	if (/BEGIN ATOMIC$/)
		atomic = 1
	# the end of a statement, not of a line within a body or text
	if (/;$/ && quote == "" && (!atomic || /^ *END;$/)) {
		taking = atomic = 0
		print ""
	}
}
