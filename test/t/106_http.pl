# examples/http, an HTTP entry of postgraphile and nginx: a request does what the role of its token may, and nothing
# without one; its X-Correlation-Id is in its events, and in nobody else's; what goes wrong says what it is.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use EventStoreTest;
use File::Basename qw(dirname);
use HTTP::Tiny;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $example = dirname(__FILE__) . '/../../examples/http';
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
$ENV{PATH} .= ':/usr/sbin';

plan skip_all => 'node is not installed' unless can_run('node', '--version');
plan skip_all => 'npm cannot install postgraphile' unless -e "$example/node_modules/postgraphile" || can_run('sh', '-c',
	"cd '$example' && npm ci --no-audit --no-fund --loglevel=error");

sub can_run
{
	my ($output, $done) = ('');

	$done = eval { IPC::Run::run([@_], '>', \$output, '2>&1') };
	note($output) unless $done;
	return $done;
}

# ---------- who takes part

my $node = new_server('http');
$node->start;
create_store_in($node, 'shop');
sql(slurp_file("$example/$_")) for 'setup.sql', 'postgrest.sql';
sql('CREATE ROLE others');

my $secret = 'the secret of this test, which is long enough';
append_to_file("$tmp/jwt.secret", "$secret\n");
my $port = PostgreSQL::Test::Cluster::get_free_port();
# so few connections that requests share them
my $server = start_server(2);
my $nginx;

# Nobody outlives the test.
END
{
	local $?;
	foreach my $program (grep { defined } $nginx, $server)
	{
		eval { $program->kill_kill };
	}
}

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub start_server
{
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGUSER => 'authenticator', PGDATABASE => 'shop',
		JWT_SECRET_FILE => "$tmp/jwt.secret", PORT => $port, POOL => $_[0]);

	return IPC::Run::start([ 'node', "$example/server.js" ], '<', '/dev/null', '>>', "$tmp/server.log", '2>&1');
}

# ---------- requests

sub token
{
	my ($claims, %options) = @_;
	my $json = JSON::PP->new->canonical;
	my $signed = join '.', map { encode_base64url($json->encode($_)) }
	  { alg => $options{alg} // 'HS256' },
	  { aud => 'event_store', iat => time, exp => time + 600, %$claims };

	return "$signed." if ($options{alg} // '') eq 'none';
	return "$signed." . encode_base64url(hmac_sha256($signed, $options{secret} // $secret));
}

my $writer = token({ role => 'web_writer' });
my $reader = token({ role => 'web_reader' });
my $entry = "http://127.0.0.1:$port/graphql";
my $http = HTTP::Tiny->new(timeout => 60);

# Sends a document; returns the status, what is in the answer, and its headers.
sub request
{
	my ($query, %options) = @_;
	my %headers = ('Content-Type' => 'application/json');

	$headers{Authorization} = "Bearer $options{token}" if defined $options{token};
	$headers{'X-Correlation-Id'} = $options{correlation} if defined $options{correlation};
	my $answer = $http->post($options{entry} // $entry,
		{ headers => \%headers, content => encode_json({ query => $query, variables => $options{variables} // {} }) });
	return ($answer->{status}, eval { decode_json($answer->{content}) } // $answer->{content}, $answer->{headers});
}

my $append = 'mutation($event: AppendEventInput!) { appendEvent(input: $event) { appendResult { lastSequence outcome } } }';

# The answer to a request with a header that HTTP::Tiny would not send.
sub answer_to_header
{
	my ($header) = @_;
	my $body = encode_json({ query => '{ isAvailable }' });
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 60) or die $@;

	print $socket join "\r\n", 'POST /graphql HTTP/1.0', "Authorization: Bearer $reader", 'Content-Type: application/json',
	  'Content-Length: ' . length $body, $header, '', $body;
	local $/;
	return <$socket>;
}

# An event as appendEvent takes it.
sub event
{
	my ($id, $expected, %more) = @_;

	return { aggregateType => 'Order', aggregateId => $id, expectedSequence => $expected, eventType => 'Placed', %more };
}

# Appends, as the writer and at any sequence if nothing else is said.
sub append
{
	my ($id, %options) = @_;

	return request($append, token => $writer, variables => { event => event($id, -2) }, %options);
}

# What a request got: its status, and of its first error the SQLSTATE or else the message.
sub outcome
{
	my ($status, $answer) = @_;
	my $error = ref $answer ? $answer->{errors}[0] : undef;

	return $error ? "$status " . ($error->{errcode} // $error->{message}) : $status;
}

sub correlation
{
	return sql("SELECT coalesce(correlation_id, 'none') FROM event_store.load_events('Order', '$_[0]')");
}

sub await_entry
{
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if outcome(request('{ isAvailable }', token => $reader)) eq '200';
		select undef, undef, undef, 0.1;
	}
	return 0;
}

ok(await_entry(), 'the entry is up') or diag(slurp_file("$tmp/server.log"));

# ---------- what there is to call

my (undef, $schema) = request('{ __schema { queryType { fields { name } } mutationType { fields { name } } } }', token => $reader);
is(join("\n", sort map { $_->{name} } map { @{ $schema->{data}{__schema}{$_}{fields} } } qw(queryType mutationType)),
	join("\n", sort map { s/_(.)/\U$1/gr } split /\n/, sql(q{
	SELECT proname || CASE WHEN proretset AND provolatile <> 'v' THEN '_list' ELSE '' END
	  FROM pg_proc p
	 WHERE (has_function_privilege('web_writer', oid, 'EXECUTE') OR has_function_privilege('web_reader', oid, 'EXECUTE'))
	   AND (pronamespace = 'event_store'::regnamespace OR pronamespace = 'api'::regnamespace) AND prokind = 'f'
	   AND obj_description(oid, 'pg_proc') NOT LIKE 'Internal:%'
	   AND NOT (proname = 'append_batch' AND pronamespace = 'event_store'::regnamespace)
	   AND proname NOT IN ('assert_sequence', 'flush', 'lock_aggregate', 'wait_for_events')})),
	'the functions that the roles may call, and nothing else');

# ---------- what a writer does, a reader sees

my ($status, $answer) = request($append, token => $writer, correlation => 'request-1',
	variables => { event => event('o-1', 0, payload => { total => '19.99' }) });
is_deeply([ $status, $answer ],
	[ 200, { data => { appendEvent => { appendResult => { lastSequence => '1', outcome => 'appended' } } } } ], 'a writer appends');
is(correlation('o-1'), 'request-1', 'with the correlation of the request');
is(sql('SELECT count(*) FROM event_store.domain_events'), 1, 'once');

($status, $answer) = request(q[{ loadEventsList(aggregateType: "Order", aggregateId: "o-1") { sequence eventType payload correlationId }
	replayAggregate(aggregateType: "Order", aggregateId: "o-1") { sequence state } }], token => $reader);
is_deeply($answer->{data}, {
	loadEventsList => [ { sequence => '1', eventType => 'Placed', payload => { total => '19.99' }, correlationId => 'request-1' } ],
	replayAggregate => { sequence => '1', state => { total => '19.99' } } }, 'a reader loads and replays it');

($status, $answer) = request(q[mutation($events: JSON!, $batch: JSON!) {
	appendEvents(input: { aggregateType: "Order", aggregateId: "o-1", expectedSequence: "1", events: $events }) { appendResult { lastSequence } }
	appendBatch(input: { events: $batch }) { results { ordinal sequence outcome } } }],
	token => $writer, correlation => 'request-2', variables => {
		events => [ { event_type => 'Paid' }, { event_type => 'Shipped' } ],
		batch => [ map { { aggregate_type => 'Order', aggregate_id => "b-$_", event_type => 'Placed', expected_sequence => 0 } } 1, 2 ] });
is_deeply($answer->{data}, {
	appendEvents => { appendResult => { lastSequence => '3' } },
	appendBatch => { results => [ map { { ordinal => $_, sequence => '1', outcome => 'appended' } } 1, 2 ] } }, 'lists and batches');

($status, $answer) = request('mutation { readEvents(input: { afterPosition: "0" }) { events { globalPosition aggregateId eventType correlationId } } }',
	token => $reader);
is(join("\n", map { join ' ', @$_{qw(globalPosition aggregateId eventType correlationId)} } @{ $answer->{data}{readEvents}{events} }),
	"1 o-1 Placed request-1\n2 o-1 Paid request-2\n3 o-1 Shipped request-2\n4 b-1 Placed request-2\n5 b-2 Placed request-2", 'the feed');

append('own', correlation => 'request-3', variables => { event => event('own', 0, correlationId => 'its own') });
is(correlation('own'), 'its own', 'what the call says goes before the header');

# ---------- errors say what they are

($status, $answer) = append('o-1', variables => { event => event('o-1', 1) });
is(outcome($status, $answer), '200 VS001', 'a conflict');
is_deeply(decode_json($answer->{errors}[0]{detail}),
	{ aggregate_type => 'Order', aggregate_id => 'o-1', expected => 1, actual => 3 }, 'its detail');
my $forgotten = event('o-1');
delete $forgotten->{expectedSequence};
is(outcome(append('o-1', variables => { event => $forgotten })), '200 22004', 'an expected sequence that was forgotten');
($status, $answer) = request('mutation($a: AppendEventInput!, $b: AppendEventInput!) { a: appendEvent(input: $a) { appendResult { outcome } }
	b: appendEvent(input: $b) { appendResult { outcome } } }',
	token => $writer, variables => { a => event('two', 0), b => event('two', 0) });
is(outcome($status, $answer) . ' ' . sql("SELECT event_store.aggregate_sequence('Order', 'two')"), '200 VS001 1',
	'calls of a request fail each by itself');
is(outcome(request('{ isAvailable', token => $reader)), '400 Syntax Error: Expected Name, found <EOF>.', 'a document that is none');

# ---------- who may not

my $before = events_in($node, 'shop');
is(outcome(append('no', token => $reader)), '200 42501', 'a reader does not append');
is(outcome(append('no', token => undef)), '401 no token', 'nobody does without a token');
is(outcome(request('{ isAvailable }')), '401 no token', 'or reads');
is(outcome(append('no', token => token({ role => 'web_writer' }, secret => 'x' x 40))), '403 invalid signature', 'a forged token');
like(outcome(append('no', token => token({ role => 'web_writer' }, alg => 'none'))), qr/^403 jwt signature is required/, 'one without a signature');
is(outcome(append('no', token => token({ role => 'web_writer' }, alg => 'HS512'))), '403 invalid algorithm', 'of another algorithm');
is(outcome(append('no', token => token({ role => 'web_writer', exp => time - 60 }))), '401 jwt expired', 'one that has expired');
is(outcome(append('no', token => token({ role => 'web_writer', iat => time - 100_000 }))), '401 maxAge exceeded', 'one that is days old');
is(outcome(append('no', token => token({ role => 'web_writer', aud => 'others' }))), '403 jwt audience invalid. expected: event_store',
	'one for somebody else');
my $superuser = sql('SELECT current_user');
is(outcome(append('no', token => token({ role => $_ }))), '403 42501', "the role $_, which the authenticator has not")
  for $superuser, 'others';
is(outcome(append('no', token => token({ role => $_ }))), '403 22023', "no role: $_")
  for 'nobody', 'web_writer"; RESET ROLE; --', '';
is(outcome(append('no', token => token({ role => ['web_writer'] }))), q{403 JWT `role` claim must be a string. Instead found 'object'.},
	'a role that is no text');
is(outcome(append('no', token => token($_))), '200 42501', 'nothing without a role of the web: ' . encode_json($_))
  for {}, { role => 'none' }, { role => 'authenticator' };
is(events_in($node, 'shop'), $before, 'and nothing was appended');

# ---------- what a header is

is(outcome(append('long', correlation => 'x' x 256)), '400 X-Correlation-Id is not 1 to 255 characters of ASCII', 'a header that is too long');
like(answer_to_header("X-Correlation-Id: $_->[0]"), qr/^HTTP\S+ 400 .*X-Correlation-Id is not 1 to 255 characters of ASCII/s, $_->[1])
  for [ "\xc3\xa4", 'or not ASCII' ], [ "a\tb", 'or not printable' ];
append('longest', correlation => 'x' x 255);
is(correlation('longest'), 'x' x 255, 'the longest');
my $injection = q{'); DROP SCHEMA event_store CASCADE; SET ROLE postgres; --};
append('injected', correlation => $injection);
is(correlation('injected'), $injection, 'SQL in a header is a text');
append('bare');
is(correlation('bare'), 'none', 'no header, no correlation');

# ---------- who shares a connection

# Clients side by side, more than there are connections: writers with and without the header, readers, and conflicts.
my $clients = 6;
my @children;
foreach my $client (1 .. $clients)
{
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		my $failed = 0;
		foreach my $n (1 .. 20)
		{
			my ($header, $id) = ("$client/$n", "shared-$client-$n");
			$failed++ if outcome(append($id, correlation => $header,
					variables => { event => event($id, 0, payload => { header => $header }) })) ne '200';
			$failed++ if outcome(append($id, token => $reader, correlation => 'of a reader')) ne '200 42501';
			$failed++ if outcome(append($id, variables => { event => event($id, 0) }, correlation => 'of a conflict')) ne '200 VS001';
			$failed++ if outcome(append($id, token => token({ role => 'others' }), correlation => 'of nobody')) ne '403 42501';
			$failed++ if outcome(append($id, variables => { event => event($id, 1) })) ne '200';
		}
		POSIX::_exit($failed ? 1 : 0);
	}
	push @children, $pid;
}
my $failures = 0;
foreach my $child (@children)
{
	waitpid $child, 0;
	$failures++ if $? != 0;
}
is($failures, 0, 'requests that share connections get what their own tokens give');
is(sql(q{SELECT count(*) || ' ' || count(*) FILTER (WHERE correlation_id IS NOT DISTINCT FROM payload ->> 'header')
	FROM event_store.domain_events WHERE aggregate_id LIKE 'shared-%'}), join(' ', (2 * 20 * $clients) x 2), 'and their own correlation');
my $connections = q{FROM pg_stat_activity WHERE application_name = 'http' AND usename = 'authenticator'};
is(sql("SELECT count(*) $connections"), 2, 'two connections were enough');

sql("SELECT pg_terminate_backend(pid) $connections");
ok(await_entry(), 'connections that are lost are made anew');
$node->stop;
is(outcome(request('{ isAvailable }', token => $reader)), '500 internal error', 'a server that is away');
$node->start;
ok(await_entry(), 'and is back');

# ---------- a request is worth so much and no more

my @calls = map { qq[c$_: aggregateSequence(aggregateType: "Order", aggregateId: "o-1")] } 1 .. 21;
is(outcome(request("{ @calls[0 .. 19] }", token => $reader)), '200', 'twenty calls');
is(outcome(request("{ @calls }", token => $reader)), '400 more than 20 calls in a request', 'and not one more');
is(outcome(request("query Q { ...F } fragment F on Query { @calls }", token => $reader)), '400 more than 20 calls in a request', 'in fragments neither');
like(outcome(request($_, token => $writer)), qr/^400 Cannot query field "(query|node|nodeId)"/, "no way back to the root: $_")
  for '{ query { isAvailable } }', '{ node(nodeId: "query") { nodeId } }', 'mutation { safePosition(input: {}) { query { isAvailable } } }';
is(outcome(append('large', variables => { event => event('large', 0, payload => { text => 'x' x 1_100_000 }) })),
	'413 request entity too large', 'a body that is too large');

# ---------- nginx

SKIP:
{
	skip 'nginx is not installed', 9 unless can_run('nginx', '-v');

	my $front = PostgreSQL::Test::Cluster::get_free_port();
	my $conf = slurp_file("$example/nginx.conf");
	my %here = ('127.0.0.1:8080' => "127.0.0.1:$front", '127.0.0.1:5433' => "127.0.0.1:$port",
		# so that a slow machine is too fast as well
		'rate=50r/s' => 'rate=1r/s');
	is(scalar(grep { $conf =~ s/\Q$_\E/$here{$_}/ } keys %here), 3, 'its ports and its rate');
	append_to_file("$tmp/site.conf", $conf);
	append_to_file("$tmp/nginx.conf", "daemon off;\npid $tmp/nginx.pid;\nevents {}\nhttp {\naccess_log off;\n"
		  . join('', map { "${_}_temp_path $tmp/$_;\n" } qw(client_body proxy fastcgi uwsgi scgi)) . "include $tmp/site.conf;\n}\n");
	$nginx = IPC::Run::start([ 'nginx', '-e', "$tmp/nginx.log", '-p', $tmp, '-c', "$tmp/nginx.conf" ], '<', '/dev/null', '>>', "$tmp/nginx.log", '2>&1');
	my $through = "http://127.0.0.1:$front/graphql";
	my $up = 0;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if $up = outcome(request('{ isAvailable }', token => $reader, entry => $through)) eq '200';
		select undef, undef, undef, 0.1;
	}
	ok($up, 'nginx is up') or diag(slurp_file("$tmp/nginx.log"));

	append('proxied', entry => $through, correlation => 'request-4');
	is(correlation('proxied'), 'request-4', 'nginx passes the correlation on');
	my (undef, undef, $headers) = append('named', entry => $through);
	like($headers->{'x-correlation-id'}, qr/^[0-9a-f]{32}$/, 'or makes one');
	is(correlation('named'), $headers->{'x-correlation-id'}, 'which is in the event');
	is(outcome(append('no', token => undef, entry => $through)), '401 no token', 'a refusal comes through');
	is((append('large', entry => $through, variables => { event => event('large', 0, payload => { text => 'x' x 1_100_000 }) }))[0],
		413, 'a body that is too large');
	is($http->get("http://127.0.0.1:$front/other")->{status}, 404, 'there is nothing else');
	my ($last, $asked) = (0, 0);
	$last = (request('{ isAvailable }', token => $reader, entry => $through))[0] while $last != 429 && $asked++ < 1000;
	is($last, 429, 'who asks too often is told so');
	note("after $asked requests");
}

# ---------- what PostgREST would call

sub as_postgrest
{
	my ($id, $headers) = @_;

	return (error_of($node, 'shop', "BEGIN; SET LOCAL ROLE web_writer; SELECT set_config('request.headers', '$headers', true); "
			  . "SELECT postgrest.correlate(); SELECT event_store.append_event('Order', '$id', 0, 'Placed'); COMMIT"))[0];
}

as_postgrest('rest', '{"x-correlation-id": "request-5"}');
is(correlation('rest'), 'request-5', 'the header as PostgREST hands it on');
as_postgrest('rest-bare', '{"host": "localhost"}');
is(correlation('rest-bare'), 'none', 'no header');
like(as_postgrest('no', '{"x-correlation-id": "' . ('x' x 256) . '"}'), qr/22023/, 'one that is too long');

# ---------- the end

$server->signal('TERM');
ok(IPC::Run::finish($server), 'the entry ends when it is told to');
undef $server;
diag(slurp_file("$tmp/server.log")) unless Test::More->builder->is_passing;
$node->stop;
done_testing();
