# What stands in deploy holds as far as it can be tried without an engine: the init script of the
# image makes store, schemas and roles, pgbouncer runs with its file, and a setting for tracing
# that is local to a transaction is gone with it; the files are read by the tools of their field.

use strict;
use warnings;

use Cwd 'abs_path';
use EventStoreTest;
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $deploy = dirname(abs_path(__FILE__)) . '/../../deploy';
my $temp = PostgreSQL::Test::Utils::tempdir();
my $node = new_server('deploy');

$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');

sub program
{
	my ($name) = @_;

	return (grep { -x $_ } $name =~ m{/} ? $name : map { "$_/$name" } split /:/, "$ENV{PATH}:/usr/sbin:/usr/bin")[0];
}

# ---------- the init script

my %password = (writer => q{it's "secret"}, monitor => 'monitor');
mkdir "$temp/secrets";
append_to_file("$temp/secrets/event_store_$_", "$password{$_}\n") foreach keys %password;

sub init
{
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, POSTGRES_USER => $ENV{USER} // getpwuid $<,
		POSTGRES_DB => 'shop', SECRETS => "$temp/secrets");

	my ($out, $ok) = ('');
	$ok = IPC::Run::run [ 'bash', "$deploy/docker/init/10-event_store.sh" ], '>', \$out, '2>&1';
	diag $out if !$ok;
	return $ok;
}

ok(init(), 'the init script runs');
ok(init(), 'and once more');
is($node->safe_psql('shop', q{SELECT event_store.is_available()}), 't', 'there is a store');
is($node->safe_psql('shop', q{SELECT string_agg(nspname, ' ' ORDER BY nspname COLLATE "C") FROM pg_namespace WHERE nspname ~ '_model$'}),
	'command_model read_model', 'and schemas beside it');
is($node->safe_psql('shop', q{SELECT string_agg(rolname || CASE WHEN rolcanlogin THEN '!' ELSE '' END, ' ' ORDER BY rolname COLLATE "C") FROM pg_roles WHERE rolname LIKE 'event_store_%'}),
	'event_store_admin event_store_consumer event_store_monitor! event_store_reader event_store_writer!',
	'a role for each level, of which those with a secret may log in');

# ---------- the pooler

SKIP:
{
	my $pgbouncer = program('pgbouncer');
	skip 'pgbouncer is not installed', 7 if !$pgbouncer;

	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my ($host, $server) = ($node->host, $node->port);
	my $settings = slurp_file("$deploy/docker/pgbouncer/pgbouncer.ini");

	$settings =~ s/host=server port=5432/host=$host port=$server/;
	$settings =~ s/^listen_addr = .*$/listen_addr = 127.0.0.1/m;
	$settings =~ s/^listen_port = .*$/listen_port = $port/m;
	$settings =~ s/^auth_file = .*$/auth_file = $temp\/users/m;
	$settings =~ s/^default_pool_size = .*$/default_pool_size = 1\nunix_socket_dir =/m;
	append_to_file("$temp/pgbouncer.ini", $settings);
	append_to_file("$temp/users", join '', map { my $p = $password{$_} =~ s/"/""/gr; qq{"event_store_$_" "$p"\n} } sort keys %password);

	my $log = "$temp/pgbouncer.log";
	my $pooler = IPC::Run::start([ $pgbouncer, "$temp/pgbouncer.ini" ], '<', \undef, '>', $log, '2>&1');
	my $pooled = sub {
		my ($role, $statements, $password) = @_;
		my ($out, $err) = ('', '');
		local $ENV{PGPASSWORD} = $password // $password{$role};

		IPC::Run::run [ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', "host=127.0.0.1 port=$port dbname=shop user=event_store_$role" ],
		  '<', \$statements, '>', \$out, '2>', \$err;
		chomp $out;
		return $out . $err;
	};
	my $append = sub { "SELECT event_store.append_event('Order', '$_[0]', 0, 'Placed')" };
	my $traced = sub { $node->safe_psql('shop', "SELECT coalesce(correlation_id, 'none') FROM event_store.domain_events WHERE aggregate_id = '$_[0]'") };

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if $pooled->('writer', 'SELECT 1') eq '1';
		select undef, undef, undef, 0.1;
	}
	is($pooled->('writer', 'SELECT 1'), '1', 'a writer comes through the pooler') or diag slurp_file($log);
	like($pooled->('writer', 'SELECT 1', 'wrong'), qr/password|authentication/, 'with its password alone');
	is($pooled->('writer', "BEGIN; SET LOCAL event_store.correlation_id = 'c-1'; " . $append->('o-1') . '; COMMIT') =~ /appended/, 1,
		'and appends');
	is($traced->('o-1'), 'c-1', 'with the correlation of its transaction');
	$pooled->('writer', $append->('o-2'));
	is($traced->('o-2'), 'none', 'which the next one on that connection has not');
	like($pooled->('monitor', 'SELECT count(*) > 100 FROM event_store.metrics_series'), qr/^t$/, 'a monitor reads the series');
	like($pooled->('monitor', $append->('o-3')), qr/permission denied/, 'and writes nothing');
	$pooler->kill_kill;
}

# ---------- files

SKIP:
{
	skip 'docker-compose is not installed', 1 if !program('docker-compose');
	my $out = '';
	ok(IPC::Run::run([ 'docker-compose', '-f', "$deploy/docker/compose.yaml", 'config', '-q' ], '>', \$out, '2>&1'),
		'docker-compose reads compose.yaml')
	  or diag $out;
}

SKIP:
{
	my $out = '';
	skip 'there is no yaml for python3', 1 if !IPC::Run::run [ 'python3', '-c', 'import yaml' ], '>', \$out, '2>&1';

	my ($text, $count) = ('', '');
	IPC::Run::run [ 'bash', "$deploy/kubernetes/monitoring.sh", 'shop', 'stock' ], '>', \$text;
	IPC::Run::run [ 'python3', '-c', 'import sys, yaml; q = yaml.safe_load(yaml.safe_load(sys.stdin)["data"]["queries.yaml"]); print(len(q), all(v["target_databases"] == ["shop", "stock"] and v["query"] and v["metrics"] for v in q.values()))' ],
	  '<', \$text, '>', \$count;
	like($count, qr/^[3-9]\d True$/, 'monitoring.sh prints all queries, each for the databases given');
}

# The schema that the operator publishes, and linters, all from npm.
SKIP:
{
	my $tools = dirname(abs_path(__FILE__)) . '/../deploy';
	my ($out, @dockerfiles) = ('', map { glob "$deploy/$_" } 'docker/Dockerfile', 'docker/*/Dockerfile', 'kubernetes/Dockerfile.*');
	my $run = sub { $out = ''; return program($_[0]) && IPC::Run::run([@_], '>', \$out, '2>&1'); };

	skip 'node 20 is not installed', 7
	  if !$run->('node', '-e', 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)');
	skip 'npm cannot install what reads manifests', 7
	  if !-e "$tools/node_modules/dclint"
	  && (!program('npm') || !$run->('sh', '-c', "cd '$tools' && npm ci --no-audit --no-fund --loglevel=error"));

	ok($run->('node', "$tools/manifests.js", map { "$deploy/kubernetes/$_" } qw(cluster-17.yaml cluster-18.yaml)),
		'the manifests are what the schemas of their kinds allow')
	  or diag $out;
	is($out, "Cluster holds\nCluster holds\nDatabase holds\n", 'all documents of them');

	# or the schema is none, and lets all pass
	my $text = slurp_file("$deploy/kubernetes/cluster-18.yaml");
	my @slips = (s_in($text, 'ensure: present', 'ensure: maybe'), s_in($text, 'stopDelay: 120', 'stopDelay: "120"'),
		s_in($text, 'customQueriesConfigMap', 'customQueryConfigMap'));
	append_to_file("$temp/slip-$_.yaml", $slips[$_]) foreach 0 .. $#slips;
	$run->('node', "$tools/manifests.js", map { "$temp/slip-$_.yaml" } 0 .. $#slips);
	like($out, qr/slip-$_\.yaml: /, "not so with $_") foreach 0 .. $#slips;

	ok($run->("$tools/node_modules/.bin/dockerfilelint", @dockerfiles), 'dockerfilelint has nothing against ' . @dockerfiles . ' files') or diag $out;
	ok($run->("$tools/node_modules/.bin/dclint", '--quiet', "$deploy/docker/compose.yaml"), 'nor dclint against compose.yaml') or diag $out;
}

sub s_in
{
	my ($text, $from, $to) = @_;

	$text =~ s/\Q$from\E/$to/ or die "no $from";
	return $text;
}

done_testing();
