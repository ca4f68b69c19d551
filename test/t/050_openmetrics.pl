# What openmetrics() returns can be read by what reads it: promtool's two
# parsers, and the rules of OpenMetrics checked here line by line.  Every metric
# that docs/metrics.md names is there, and none that it does not name.

use strict;
use warnings;

use Cwd 'abs_path';
use EventStoreTest;
use File::Basename;
use File::Temp;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('metrics',
	conf => "event_store.write_delay = '1h'\nrestart_after_crash = on\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub metric
{
	my ($metric, $operation) = @_;

	return sql("SELECT value FROM event_store.metrics WHERE metric = '$metric'"
		  . (defined $operation ? " AND operation = '$operation'" : ''));
}

# something of everything
wait_for_worker($node, 'shop');
sql(q{SELECT FROM event_store.append_event('Order', 'o-1', 0, 'Placed')});
sql(q{SELECT FROM event_store.load_events('Order', 'o-1')}) foreach (1 .. 20);
stage($node, 'shop', 'staged', 3, 10);
flush_all($node, 'shop');
stage($node, 'shop', 'waiting', 2, 1);
sql(q{SELECT event_store.put_view('Orders', 'o-1', '{}')});
sql(q{SELECT event_store.schedule_event(now(), 'Order', 'o-2', 'Reminded')});
$node->poll_query_until('shop', q{SELECT value = 1 FROM event_store.metrics WHERE metric = 'deadlines.appended'})
  or die 'nothing was appended when it was due';
sql(q{SELECT event_store.define_saga('trip', '{"steps": [{"name": "a"}]}'), event_store.start_saga('trip', 't-1')});
sql(q{SELECT event_store.report_step('trip', saga_id, step, 'succeeded', lease) FROM event_store.claim_steps('trip', 'e')});
error_of($node, 'shop', q{SELECT event_store.append_event('Order', 'o-1', 0, 'Placed')});

sql(q{SELECT event_store.create_subscription('mail', ARRAY['Order']), event_store.create_subscription(E'a "name"\\\\\n')});

# as psql prints it, which is how a scraper without a driver gets it
my ($status, $text) = $node->psql('shop', 'SELECT event_store.openmetrics()');
$text .= "\n";

# ---------- the rules of the format

my (%type, %unit, %help, %sample, @order, %closed);
my $number = qr/[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf|NaN)/;
my @lines = split /\n/, $text;
my @faults;

is(pop @lines, '# EOF', 'the text ends with # EOF');
foreach my $line (@lines)
{
	if ($line =~ /^# (TYPE|UNIT|HELP) (\S+) (.+)$/)
	{
		my ($what, $family, $value) = ($1, $2, $3);
		my $into = { TYPE => \%type, UNIT => \%unit, HELP => \%help }->{$what};

		push @faults, "twice: $line" if exists $into->{$family};
		push @faults, "after its samples: $line" if exists $closed{$family};
		$into->{$family} = $value;
		push @order, $family if $what eq 'TYPE';
	}
	elsif ($line =~ /^([a-z_]+)(\{(?:[a-z]+="(?:[^"\\]|\\["\\n])*",?)*\})? ($number)$/)
	{
		my ($name, $labels, $value) = ($1, $2 // '', $3);
		my $family = $name;

		$family =~ s/_(?:bucket|count|sum)$//
		  if !exists $type{$family};
		push @faults, "of no family: $line" if !exists $type{$family};
		push @faults, "not of the family before: $line" if $family ne $order[-1];
		push @faults, "twice: $line" if exists $sample{"$name$labels"};
		$sample{"$name$labels"} = $value;
		$closed{$family} = 1;
	}
	else
	{
		push @faults, "not understood: $line";
	}
}
is(join("\n", @faults), '', 'every line is understood, in its place and once');
is(join(' ', grep { $type{$_} !~ /^(?:counter|gauge|histogram)$/ } @order),
	'', 'every family has a type');
is(join(' ', grep { ($help{$_} // '') eq '' } @order), '', 'and a help text');
is(join(' ', grep { ($type{$_} eq 'counter') != /_total$/ } @order),
	'', 'counters, and only they, end in _total');
is(join(' ', grep { ($unit{$_} // 'seconds') ne 'seconds' || exists $unit{$_} != /_seconds$/ } @order),
	'', 'units are the end of the name');

# ---------- histograms: buckets grow, the last is the count, the sum fits

my %histogram;
foreach my $line (@lines)
{
	push @{ $histogram{ $1 . ($2 eq '' ? '' : "{$2}") } }, [ $3, $4 ]
	  if $line =~ /^(\w+)_bucket\{(.*?),?le="([^"]+)"\} (\d+)$/;
}
cmp_ok(scalar keys %histogram, '>', 20, 'there are histograms');
@faults = ();
foreach my $name (sort keys %histogram)
{
	my @buckets = @{ $histogram{$name} };
	my ($count, $sum) = map { my $n = $name; $n =~ s/(?=\{|$)/_$_/; $sample{$n} } qw(count sum);
	my ($limit, $seen, $at_least) = (0, 0, 0);

	push @faults, "$name: no +Inf" if $buckets[-1][0] ne '+Inf';
	push @faults, "$name: count" if $buckets[-1][1] != $count;
	foreach my $bucket (@buckets)
	{
		my ($le, $value) = @$bucket;

		push @faults, "$name: $value at $le after $seen" if $value < $seen;
		push @faults, "$name: $le after $limit" if $le ne '+Inf' && $le <= $limit;
		$at_least += ($value - $seen) * $limit;
		($limit, $seen) = ($le, $value);
	}
	push @faults, "$name: sum $sum of $count, at least $at_least" if $sum < $at_least;
}
is(join("\n", @faults), '', 'histograms are consistent');
is(join(' ', grep { !/_seconds(?:\{|$)/ && $histogram{$_}[-1][1] == 0 } sort keys %histogram),
	'', 'every histogram of numbers has counted something');
my $loads = 'event_store_persistence_load_duration_seconds';
is($sample{ $loads . '_count{database="shop",name="events",operation="load_events"}' },
	20, 'each call is in its histogram');
my $rounds = 'event_store_persistence_drain_rows';
is("$sample{ $rounds . '_count{database=\"shop\"}' } $sample{ $rounds . '_sum{database=\"shop\"}' }", '1 30', 'each round is in one');
is("$sample{ $rounds . '_bucket{database=\"shop\",le=\"15\"}' } $sample{ $rounds . '_bucket{database=\"shop\",le=\"31\"}' }",
	'0 1', 'among those of its size');
cmp_ok(abs(sql(q{SELECT value FROM event_store.metrics
	WHERE metric = 'persistence.drain.rows' AND quantile = 0.5}) / 30 - 1),
	'<', 0.12, 'and its percentile is near it');

# ---------- the page and the text name the same

my $page = slurp_file(dirname(abs_path(__FILE__)) . '/../../docs/metrics.md');
my %documented;
$documented{$1} = $2 while $page =~ /^\| `([a-z_.]+)` \| (counter|gauge|histogram)/mg;
my %shown = map { split /\|/, $_ } split /\n/,
  sql('SELECT DISTINCT metric, kind FROM event_store.metrics');
is_deeply(\%documented, \%shown, 'docs/metrics.md has every metric of the view, and its kind');
my @missing;
foreach my $metric (sort keys %documented)
{
	my $name = "event_store_$metric";

	$name =~ tr/./_/;
	push @missing, $metric
	  if !grep { /^\Q$name\E(?:_seconds)?(?:_total)?$/ && $type{$_} eq $documented{$metric} && $closed{$_} } @order;
}
is(join(' ', @missing), '', 'and each has samples in the text');
@missing = ();
my $alerts = dirname(abs_path(__FILE__)) . '/../../deploy/prometheus';
$page .= slurp_file("$alerts/rules.yaml");
while ($page =~ /\b(event_store_[a-z_]+)/g)
{
	my $name = $1;

	push @missing, $name
	  if !grep { /^\Q$name\E(?:\{|$)/ } keys %sample;
}
is(join(' ', @missing), '', 'every series that the page and the alerts name exists');
@missing = ();
my $rules = slurp_file("$alerts/rules.yaml");
while ($rules =~ /\b(event_store_[a-z_]+)\{(\w+="[^"]+")\}/g)
{
	my ($name, $label) = ($1, $2);

	push @missing, "$name $label" if !grep { /^\Q$name\E\{.*\b\Q$label\E/ } keys %sample;
}
is(join(' ', @missing), '', 'with the labels that an alert chooses by');
my %case = map { $_ => 1 } slurp_file("$alerts/rules_test.yaml") =~ /alertname: (\w+)/g;
is(join(' ', grep { !$case{$_} } $rules =~ /- alert: (\w+)/g), '', 'every alert has a case');

# ---------- promtool

SKIP:
{
	skip 'promtool is not installed', 4 if !grep { -x "$_/promtool" } split /:/, $ENV{PATH};

	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run [ 'promtool', 'check', 'metrics' ], '<', \$text, '>', \$out, '2>', \$err;
	ok($ok && "$out$err" eq '', 'promtool check metrics') or diag "$out$err";

	# its OpenMetrics parser reads samples with a time
	my $folder = File::Temp->newdir;
	(my $timed = $text) =~ s/^([^#].*)$/$1 1700000000/mg;
	append_to_file("$folder/metrics", $timed);
	($out, $err) = ('', '');
	$ok = IPC::Run::run [ 'promtool', 'tsdb', 'create-blocks-from', 'openmetrics', "$folder/metrics", "$folder/blocks" ],
	  '>', \$out, '2>', \$err;
	ok($ok, "promtool's OpenMetrics parser") or diag "$out$err";

	foreach my $what ([ 'check', 'rules.yaml' ], [ 'test', 'rules_test.yaml' ])
	{
		$ok = IPC::Run::run [ 'promtool', $what->[0], 'rules', "$alerts/$what->[1]" ], '>', \$out, '2>&1';
		ok($ok, "promtool $what->[0] rules") or diag $out;
	}
}

# ---------- what is counted where others count too

is(metric('persistence.store.batch.entries', q{drain' AND name = 'events}), '30', 'the worker drained');
is(metric('worker.starts'), '1', 'one worker');
is(metric('worker.failures'), '0', 'without failures');
is(metric('persistence.lost_epochs'), '0', 'nothing was lost');

# eight sessions at once: nothing is lost between them
my $before = metric('persistence.store.count', 'append_event');
local $ENV{PGDATABASE} = 'shop';
$node->pgbench('--no-vacuum --client=8 --jobs=2 --transactions=100',
	0, [qr/processed: 800\/800/], [qr/^$/], 'eight sessions append',
	{ '050_append' => q{SELECT FROM event_store.append_event('Busy', 'b-' || :client_id, NULL, 'Happened', durability => 'staged')} });
is(metric('persistence.store.count', 'append_event') - $before, 800, 'every call was counted');
is(metric('persistence.errors', 'append_event'), 1, 'and no error');

# a failing round of the worker is an error; staging_status says so too
sql(q{CREATE FUNCTION public.not_now() RETURNS trigger LANGUAGE plpgsql
	AS $$ BEGIN RAISE 'not now' USING ERRCODE = '55000'; END $$;
	CREATE TRIGGER not_now BEFORE INSERT ON event_store.domain_events
	FOR EACH ROW EXECUTE FUNCTION public.not_now()});
is(sql(q{SELECT event_store.flush('0s')}), 'f', 'a flush that does not wait');
$node->poll_query_until('shop',
	q{SELECT value >= 1 FROM event_store.metrics WHERE metric = 'worker.failures'})
  or die 'the round did not fail';
cmp_ok(metric('persistence.errors', 'drain'), '>=', 1, 'a failed round is an error of the drain');
is(sql(q{SELECT s.last_error, s.consecutive_failures >= 1, m.value >= 1
	       FROM event_store.staging_status s, event_store.metrics m WHERE m.metric = 'persistence.drain.failures'}),
	'not now|t|t', 'staging_status and the gauge show it');
is(sql(q{SELECT sum(value) FROM event_store.metrics WHERE metric = 'persistence.queue.depth'}),
	'802', 'the rows are where they were');
cmp_ok(metric('persistence.queue.age'), '>', 0, 'and grow old');
sql('DROP TRIGGER not_now ON event_store.domain_events; DROP FUNCTION public.not_now()');
ok(flush_all($node, 'shop'), 'after that they are drained');
is(sql(q{SELECT s.consecutive_failures, m.value FROM event_store.staging_status s, event_store.metrics m
	      WHERE m.metric = 'persistence.drain.failures'}), '0|0', 'and nothing fails');
is(metric('persistence.queue.age'), '0', 'an empty queue has no age');

# waiting for space shows while it lasts, and ends with the session
$node->append_conf('postgresql.conf',
	"event_store.staging_limit = 1\nevent_store.retry_initial = '10min'\nevent_store.retry_max = '10min'\n");
sql('SELECT pg_reload_conf()');
$node->poll_query_until('shop', q{SELECT current_setting('event_store.staging_limit') = '1'});
stage($node, 'shop', 'full', 1, 1);
my $mover = $node->background_psql('shop');
$mover->query_safe('BEGIN; LOCK TABLE event_store.domain_events IN SHARE MODE');
my $blocked = $node->background_psql('shop');
$blocked->query_until(qr/sent/, qq{SET event_store.on_staging_full = 'block';
\\echo sent
SELECT event_store.append_event('Full', 'f-1', NULL, 'Added', durability => 'staged');
});
ok($node->poll_query_until('shop',
		q{SELECT value = 1 FROM event_store.metrics WHERE metric = 'persistence.queue.waiting'}),
	'a write that waits for space');
is(metric('persistence.queue.blocked'), '1', 'is counted once');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%Full%' AND pid <> pg_backend_pid()});
ok($node->poll_query_until('shop',
		q{SELECT value = 0 FROM event_store.metrics WHERE metric = 'persistence.queue.waiting'}),
	'cancelled it waits no more');
is(metric('persistence.errors', 'append_event'), 2, 'and is an error');
$mover->query_safe('ROLLBACK');
$mover->quit;
$blocked->{run}->kill_kill;

# ---------- another database, another count; a crash begins anew but for losses

create_store_in($node, 'other');
is($node->safe_psql('other',
		q{SELECT value FROM event_store.metrics WHERE metric = 'persistence.store.count' AND operation = 'append_event'}),
	'0', 'each database has its own');

flush_all($node, 'shop');
stage($node, 'shop', 'lost', 1, 1);
$node->stop('immediate');
$node->start;
wait_for_worker($node, 'shop');
ok($node->poll_query_until('shop',
		q{SELECT value = 1 FROM event_store.metrics WHERE metric = 'persistence.lost_epochs'}),
	'a loss is counted');
is(metric('persistence.store.count', 'append_event'), '0', 'counters begin anew');
$node->restart;
wait_for_worker($node, 'shop');
ok($node->poll_query_until('shop',
		q{SELECT value = 1 FROM event_store.metrics WHERE metric = 'persistence.lost_epochs'}),
	'and stays counted');

# ---------- without preload

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
like(error_of($node, 'shop', 'SELECT event_store.openmetrics()'),
	qr/55000.*preloaded.*HINT:  Set shared_preload_libraries/s, 'openmetrics() says what to do');
like(error_of($node, 'shop', 'SELECT * FROM event_store.metrics'),
	qr/55000.*preloaded/s, 'the view too');
is(sql(q{SELECT outcome FROM event_store.append_event('Order', 'o-9', 0, 'Placed')}),
	'appended', 'and nothing else minds');

$node->stop;
done_testing();
