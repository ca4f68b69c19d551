# StressPrograms: runs the programs of test/stress from a TAP test, with what they
# print shown when something is wrong.

package StressPrograms;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(can_run_programs program_passes storm_passes count_of crash_command);

my $python = '/usr/bin/python3';

sub can_run_programs
{
	return system("$python -c 'import psycopg2' >/dev/null 2>&1") == 0;
}

# Tests that a program finds nothing wrong; returns what it printed.
sub program_passes
{
	my ($program, $node, $database, $name, @arguments) = @_;
	my $output = '';
	local $ENV{TMPDIR} = $PostgreSQL::Test::Utils::tmp_check;

	my $passed = IPC::Run::run(
		[
			$python, dirname(__FILE__) . "/../stress/$program.py",
			'--dsn', $node->connstr($database), @arguments
		],
		'>', \$output, '2>&1');
	ok($passed, $name);
	diag($output) unless $passed;
	return $output;
}

# Tests that a storm finds nothing wrong, in a database of its own, and in another with crashes of the server.  Its clients
# are named after the program; "counted" gives, for both, what there must have been.
sub storm_passes
{
	my ($program, $node, $name, $counted, @arguments) = @_;

	foreach my $crashes (0, 1)
	{
		my $database = $crashes ? 'crashed' : 'calm';

		create_store_in($node, $database);
		my $output = program_passes($program, $node, $database, $name . ($crashes ? ', across crashes' : ''), @arguments,
			$crashes ? ('--crash-cmd', crash_command($node, $database, $program =~ tr/_/ /r)) : ());
		cmp_ok(count_of($output, $_), '>', 0, "there were some of $_") foreach $counted->($crashes);
	}
	like(slurp_file($node->logfile), qr/was terminated by signal 9/, 'the server crashed');
	return;
}

# A number that a program printed behind some words; 0 = it did not.
sub count_of
{
	my ($output, $what) = @_;

	return $output =~ /^\s+\Q$what\E\s+(\d+)$/m ? $1 : 0;
}

# A command that kills one backend whose application name begins so.
sub crash_command
{
	my ($node, $database, $application) = @_;
	my $crash = $PostgreSQL::Test::Utils::tmp_check . '/crash';

	append_to_file($crash, <<"SCRIPT");
#!/bin/sh
kill -9 \$(psql -XAtqc "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '$application%' LIMIT 1" "@{[ $node->connstr($database) ]}")
SCRIPT
	chmod 0700, $crash;
	return $crash;
}

1;
