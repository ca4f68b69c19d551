# Prometheus sees every series of two databases, by Debian's two exporters and under the
# names of openmetrics(); the alerts load, and every panel of the dashboard shows something.

use strict;
use warnings;

use Cwd 'abs_path';
use EventStoreTest;
use File::Basename;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my %program;
foreach my $name (qw(prometheus prometheus-postgres-exporter prometheus-sql-exporter))
{
	($program{$name}) = grep { -x $_ } map { "$_/$name" } split /:/, "$ENV{PATH}:/usr/bin";
	plan skip_all => "$name is not installed" if !$program{$name};
}

my $deploy = dirname(abs_path(__FILE__)) . '/../../deploy';
my $temp = PostgreSQL::Test::Utils::tempdir();
my $http = HTTP::Tiny->new(timeout => 20);
my @databases = qw(shop stock);
my $node = new_server('monitoring', conf => "event_store.write_delay = '200ms'\nmax_worker_processes = 20\nlog_line_prefix = '%m %b[%p] '\n");
my @started;

$node->start;
$node->safe_psql('postgres', 'CREATE ROLE watcher LOGIN IN ROLE pg_monitor');

# ---------- two databases in which something of everything goes on

sub sql
{
	my ($database, $statement) = @_;

	return $node->safe_psql($database, $statement);
}

foreach my $database (@databases)
{
	create_store_in($node, $database);
	sql($database, q{
		SELECT event_store.create_subscription('mail', ARRAY['Order']);
		SELECT event_store.create_view_projection('orders', '{Order}', '"$.aggregate_id"', '{"events": {"*": [{"op": "increment", "path": "$.n", "value": 1}]}}');
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
		    AS $$ BEGIN IF NEW.aggregate_type = 'Refused' THEN RAISE 'no' USING ERRCODE = '23514'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION public.refuse();
		SELECT event_store.append_event('Refused', 'r-1', 0, 'Made', durability => 'staged');
		SELECT event_store.define_saga('parcel', '{"steps": [{"name": "pack"}]}');
		SELECT event_store.append_event('Order', 'unknown', 0, 'Placed');
		SELECT event_store.fail_events('mail', global_position, 'no such customer', 'park') FROM event_store.domain_events WHERE aggregate_id = 'unknown';
	});
	flush_all($node, $database);
}

# What goes on, once more.
sub work
{
	my ($n) = @_;

	foreach my $database (@databases)
	{
		sql($database, qq{
			SELECT event_store.append_event('Order', 'o-$n', 0, 'Placed');
			SELECT event_store.append_batch('[{"aggregate_type": "Order", "aggregate_id": "b-$n", "event_type": "Placed"}]');
			SELECT event_store.append_event('Order', 's-$n', 0, 'Placed', durability => 'staged');
			SELECT event_store.put_view('Orders', 'o-$n', '{}');
			SELECT event_store.load_events('Order', 'o-$n');
			SELECT event_store.load_view('Orders', 'o-$n');
			SELECT event_store.schedule_event(now(), 'Order', 'd-$n', 'Reminded');
			SELECT event_store.append_batch('[{"aggregate_type": "Order", "aggregate_id": "o-$n", "expected_sequence": 7, "event_type": "Placed"}]', on_conflict => 'report_all');
			SELECT event_store.start_saga('parcel', 's-$n');
			SELECT event_store.report_step('parcel', c.saga_id, c.step, 'succeeded', c.lease) FROM event_store.claim_steps('parcel', 'packer') c;
			SELECT event_store.archive_aggregate('Order', 'b-$n');
			SELECT * FROM event_store.next_events('mail', 1)});
	}
	return;
}

# ---------- programs, on ports of their own

sub port
{
	return PostgreSQL::Test::Cluster::get_free_port();
}

sub launch
{
	my ($name, $environment, @arguments) = @_;
	my $log = "$temp/$name.log";

	local %ENV = (%ENV, HTTP_PROXY => '', http_proxy => '', %$environment);
	push @started, IPC::Run::start([ $program{$name}, @arguments ], '<', \undef, '>', $log, '2>&1');
	return;
}

# A page, once it is there and "ready" says so.
sub page
{
	my ($url, $ready) = @_;
	my $answer;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$answer = $http->get($url);
		return $answer->{content} if $answer->{success} && (!$ready || $ready->($answer->{content}));
		select undef, undef, undef, 0.1;
	}
	diag slurp_file($_) foreach glob "$temp/*.log";
	die "$url: $answer->{status} " . substr $answer->{content}, 0, 2000;
}

sub encoded
{
	my ($text) = @_;

	$text =~ s/([^A-Za-z0-9])/sprintf '%%%02X', ord $1/ge;
	return $text;
}

my ($exporter, $sql_exporter, $prometheus) = map { port() } 1 .. 3;
my ($socket, $server) = ($node->host, $node->port);

# Its version says what else it looks at, of which nothing is wanted (an option of a collector has a second dot), and whether
# it misses a file of its own.
my $help = `'$program{'prometheus-postgres-exporter'}' --help 2>&1`;
my @flags = map { "--no-collector.$_" } $help =~ /--collector\.(\w+)(?=\s)/g;
if ($help =~ /--config\.file/)
{
	append_to_file("$temp/postgres_exporter.yml", "auth_modules: {}\n");
	push @flags, "--config.file=$temp/postgres_exporter.yml";
}
launch('prometheus-postgres-exporter',
	{ DATA_SOURCE_NAME => join ',', map { "user=watcher host=$socket port=$server dbname=$_ sslmode=disable" } @databases },
	"--extend.query-path=$deploy/prometheus/queries.yaml", "--web.listen-address=127.0.0.1:$exporter",
	'--disable-default-metrics', '--disable-settings-metrics', @flags);

my $connections = join '', map { "      - postgres://watcher@/$_?host=$socket&port=$server&sslmode=disable\n" } @databases;
my $jobs = slurp_file("$deploy/prometheus/sql_exporter.yml");
$jobs =~ s/(?: +- postgres:.*\n)+/$connections/;
append_to_file("$temp/sql_exporter.yml", $jobs);
launch('prometheus-sql-exporter', {}, '-config.file', "$temp/sql_exporter.yml", '-web.listen-address', "127.0.0.1:$sql_exporter");

my $config = slurp_file("$deploy/prometheus/prometheus.yml");
$config =~ s/localhost:9187/127.0.0.1:$exporter/;
$config =~ s/localhost:9237/127.0.0.1:$sql_exporter/;
append_to_file("$temp/prometheus.yml", "global:\n  scrape_interval: 5s\n  evaluation_interval: 1s\n$config");
append_to_file("$temp/rules.yaml", slurp_file("$deploy/prometheus/rules.yaml"));
launch('prometheus', {}, "--config.file=$temp/prometheus.yml", "--storage.tsdb.path=$temp/data",
	"--web.listen-address=127.0.0.1:$prometheus", '--log.level=warn');

sub api
{
	my ($path) = @_;

	return decode_json(page("http://127.0.0.1:$prometheus/api/v1/$path"))->{data};
}

# The samples of a query.
sub ask
{
	my ($query) = @_;

	return @{ api('query?query=' . encoded($query))->{result} };
}

# ---------- the exporter's page has the series of openmetrics(), and no others

# The series of a text, each with its labels in order; those of a database alone.
sub series_of
{
	my ($text, $database) = @_;
	my %series;

	foreach my $line (split /\n/, $text)
	{
		my ($name, $labels) = $line =~ /^(event_store_\w+)\{(.*)\} \S+$/ or next;
		my %label = $labels =~ /(\w+)="((?:[^"\\]|\\.)*)"/g;

		next if $label{database} ne $database;
		delete $label{server};
		# of bounds one writes 1e-05 where the other one writes 0.000010
		$label{le} = 0 + $label{le} if defined $label{le} && $label{le} ne '+Inf';
		$series{ "$name " . join ' ', map { "$_=$label{$_}" } sort keys %label } = 1;
	}
	return \%series;
}

work(1);
foreach my $database (@databases)
{
	$node->poll_query_until($database, q{SELECT value = 1 FROM event_store.metrics WHERE metric = 'deadlines.appended'})
	  or die 'nothing was appended when it was due';
}
my $text = page("http://127.0.0.1:$exporter/metrics");
foreach my $database (@databases)
{
	my $exported = series_of($text, $database);
	my $own = series_of(sql($database, 'SELECT event_store.openmetrics()'), $database);

	cmp_ok(scalar keys %$own, '>', 1000, "$database has many series");
	is(join("\n", grep { !$exported->{$_} } sort keys %$own), '', "the exporter has each series of $database");
	is(join("\n", grep { !$own->{$_} } sort keys %$exported), '', 'and no others');
}
# newer versions say at their start that the flag for the queries may go one day
my @complaints = grep { /level=(?:error|warn)|Unexpected|error/i && !/queries\.yaml config is DEPRECATED/ }
  split /^/, slurp_file("$temp/prometheus-postgres-exporter.log");
is(join('', @complaints), '', 'without a complaint');

# ---------- Prometheus has them from both, of both databases

my $metrics = slurp_file("$deploy/../docs/metrics.md");
my %wanted;
while ($metrics =~ /^\| `([a-z_.]+)` \| (counter|gauge|histogram) \| (\w+)/mg)
{
	my ($name, $kind, $unit) = ("event_store_$1", $2, $3);

	$name =~ tr/./_/;
	$name .= '_seconds' if $unit eq 'seconds';
	$name .= '_total' if $kind eq 'counter';
	$wanted{$_} = 1 foreach $kind eq 'histogram' ? map { "${name}_$_" } qw(bucket sum count) : $name;
}
cmp_ok(scalar keys %wanted, '>', 50, 'docs/metrics.md names series');

# The series of a database that a job does not see at its next scrapes.
sub lacking
{
	my ($job, $database) = @_;
	my %left = %wanted;

	foreach (1 .. 60)
	{
		delete $left{ $_->{metric}{__name__} } foreach ask("{job=\"$job\",database=\"$database\"}");
		last if !%left;
		select undef, undef, undef, 0.5;
	}
	return sort keys %left;
}

page("http://127.0.0.1:$prometheus/-/ready");
foreach my $job (qw(event_store event_store_sql))
{
	page("http://127.0.0.1:$prometheus/api/v1/query?query=" . encoded("count(event_store_store_primary{job=\"$job\"}) == 2"),
		sub { @{ decode_json($_[0])->{data}{result} } });
	foreach my $database (@databases)
	{
		is(join(' ', lacking($job, $database)), '', "job $job: every series of $database");
	}
}
my ($left) = ask('count({__name__="sql_event_store"}) or vector(0)');
is($left->{value}[1], '0', 'none under the name that prometheus-sql-exporter gives');

# ---------- alerts

my $rules = api('rules');
my @unhealthy = map { $_->{name} } grep { $_->{health} eq 'err' } map { @{ $_->{rules} } } @{ $rules->{groups} };
is("@unhealthy", '', 'the alerts are evaluated');
page("http://127.0.0.1:$prometheus/api/v1/query?query=" . encoded('count(ALERTS{alertname="EventStoreDeadLetters",alertstate="firing"})'),
	sub { @{ decode_json($_[0])->{data}{result} } });
pass('and the one of dead letters fires');

# ---------- what a lock holds up is seen

my $blocker = $node->background_psql('shop');
$blocker->query_safe('BEGIN; LOCK TABLE event_store.domain_events IN ACCESS EXCLUSIVE MODE');
sql('shop', q{SELECT event_store.put_view('Orders', 'waits', '{}', durability => 'staged')});
ok($node->poll_query_until('shop', q{SELECT value > 0 FROM event_store.metrics WHERE metric = 'persistence.drain.waiting'}),
	'the worker waits for a lock');
$blocker->query_safe('COMMIT');
$blocker->quit;

# ---------- the log level of the processes alone

sql('shop', q{SELECT format('ALTER ROLE %I IN DATABASE shop SET log_min_messages = debug5', rolname) FROM pg_roles WHERE oid = 10 \gexec});
my $offset = log_offset($node);
sql('shop', 'SELECT pg_reload_conf()');
work('logged');
ok($node->wait_for_log(qr/event_store worker\[\d+\] DEBUG:/, $offset), 'the worker has the log level of its role');

# ---------- the dashboard

my $dashboard = decode_json(slurp_file("$deploy/grafana/event_store.json"));
my @panels = grep { $_->{targets} } @{ $dashboard->{panels} };
my %open;
foreach my $panel (@panels)
{
	$open{"$panel->{title}: $_->{expr}"} = $_->{expr} foreach @{ $panel->{targets} };
}
cmp_ok(scalar keys %open, '>', 30, 'the dashboard has panels');
s/\$database/shop|stock/g, s/\$__rate_interval/1m/g foreach values %open;
# rates come with the second scrape, and of what is only made by some calls later
foreach my $n (2 .. 60)
{
	work($n);
	foreach my $panel (sort keys %open)
	{
		my %databases = map { ($_->{metric}{database} // '') => 1 } ask($open{$panel});

		delete $open{$panel} if $databases{shop} && $databases{stock};
	}
	last if !%open;
	select undef, undef, undef, 0.5;
}
is(join("\n", sort keys %open), '', 'every panel shows something of both databases');

# ---------- a picture of it, for who asks for one
if ($ENV{DASHBOARD_PICTURE})
{
	work($_) && select undef, undef, undef, 0.2 foreach 61 .. 260;
	system_or_bail("$deploy/../test/dashboard", "http://127.0.0.1:$prometheus", "$deploy/grafana/event_store.json", $ENV{DASHBOARD_PICTURE});
}

$_->kill_kill foreach @started;
done_testing();
