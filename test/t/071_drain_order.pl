# What the drain makes of what was staged: every event, once, in order, byte for
# byte, in few statements; one write for each view key and round; a transaction's
# events and views at once.  And whether something was staged makes no difference to
# what a client is told and to what is there in the end.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('drain_order',
	conf => "event_store.write_delay = '1h'\nevent_store.write_batch_size = 1000000\nsynchronous_commit = off\n"
	  . "fsync = off\n");
$node->start;
create_store_in($node, 'shop');
wait_for_worker($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub flush
{
	my $database = $_[0] // 'shop';

	return $node->safe_psql($database, q{SELECT event_store.flush('1min')});
}

# ---------- one write for each view key and round, few statements for many events

sql(<<'SQL');
CREATE TABLE writes (what text, operation text, n bigint, txid bigint DEFAULT txid_current());
CREATE FUNCTION note_statement() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO public.writes SELECT 'events', TG_OP, count(*) FROM new; RETURN NULL; END $$;
CREATE FUNCTION note_view() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO public.writes VALUES ('view ' || NEW.view_key, TG_OP, 1); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT ON event_store.domain_events
    REFERENCING NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION note_statement();
CREATE TRIGGER note AFTER INSERT OR UPDATE ON event_store.domain_views
    FOR EACH ROW EXECUTE FUNCTION note_view();
GRANT ALL ON writes TO PUBLIC;

-- Every call in a transaction of its own.
CREATE PROCEDURE stage_one_by_one(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN first .. last LOOP
        PERFORM event_store.put_view('V', 'hot', jsonb_build_object('n', n), durability => 'staged');
        COMMIT;
        PERFORM event_store.put_view('V', 'versions', jsonb_build_object('n', n), version => n, durability => 'staged');
        COMMIT;
        PERFORM event_store.append_event('T', 'long', n - 1, 'Counted', jsonb_build_object('n', n), durability => 'staged');
        COMMIT;
    END LOOP;
END
$$;
SQL
sql('CALL stage_one_by_one(1, 1000)');
is(sql('SELECT staged_events, staged_views FROM event_store.staging_status'), '1000|2000', 'a lot is staged, row by row');
is(flush(), 't', 'and drained');
is(sql(q{SELECT string_agg(what || ' ' || operation || ' ' || n, ', ' ORDER BY what) FROM writes WHERE what LIKE 'view%'}),
	'view hot INSERT 1, view versions INSERT 1', '1,000 puts to a key are one write');
is(sql(q{SELECT string_agg(view_key || (view_data ->> 'n') || coalesce(' ' || version, ''), ', ' ORDER BY view_key)
	       FROM event_store.domain_views}),
	'hot1000, versions1000 1000', 'of the last value');
cmp_ok(sql(q{SELECT count(*) FROM writes WHERE what = 'events'}), '<=', 2, '1,000 events are written in few statements');
is(sql(q{SELECT sum(n) || ' ' || count(DISTINCT txid) FROM writes WHERE what = 'events'}), '1000 1', 'of one transaction');
is(sql(q{SELECT count(*) || ' ' || count(*) FILTER (WHERE (payload ->> 'n')::int = sequence) || ' ' ||
	            max(global_position) - min(global_position)
	       FROM event_store.domain_events WHERE aggregate_id = 'long'}),
	'1000 1000 999', 'each is there, in its place, one after the other');
is(sql(q{SELECT count(*) FROM (SELECT sequence - lag(sequence) OVER (ORDER BY global_position) AS step
	                             FROM event_store.domain_events WHERE aggregate_id = 'long') s WHERE step <> 1}),
	'0', 'in the order of their positions');
sql('TRUNCATE writes; CALL stage_one_by_one(1001, 1200)');
flush();
is(sql(q{SELECT string_agg(what || ' ' || operation || ' ' || n, ', ' ORDER BY what) FROM writes WHERE what LIKE 'view%'}),
	'view hot UPDATE 1, view versions UPDATE 1', 'the next round is one more write');
sql('DROP TRIGGER note ON event_store.domain_events; DROP TRIGGER note ON event_store.domain_views');

# ---------- one call over many aggregates: positions in the order of the call

foreach my $case (
	[ 'small events', 3500, q{'{}'::jsonb} ],
	[ 'events that do not fit together', 1200, q{jsonb_build_object('x', repeat('y', n % 7 * 600))} ],
	[ 'large events among small ones', 300, q{to_jsonb(repeat(md5(n::text), CASE n % 90 WHEN 7 THEN 200000 ELSE 1 END))} ])
{
	my ($name, $events, $payload) = @$case;
	my $type = $name =~ s/ .*//r . $events;

	sql(qq{CREATE TABLE call AS SELECT n::int, '$type-' || (n * n + n / 3) % 11 AS id FROM generate_series(1, $events) n;
		SELECT event_store.append_event('$type', '$type-1', 0, 'First', durability => 'staged');
		CREATE TABLE called AS
		SELECT * FROM event_store.append_batch(
		    (SELECT array_agg('$type'::text) FROM call), (SELECT array_agg(id ORDER BY n) FROM call),
		    (SELECT array_agg('Called'::text) FROM call),
		    (SELECT array_agg($payload ORDER BY n) FROM call), durability => 'staged')});
	is(sql(qq{SELECT count(*) FROM call JOIN called ON ordinal = n
		       JOIN LATERAL event_store.load_events('$type', id) e USING (sequence)
		      WHERE e.event_id = called.event_id AND e.global_position IS NULL AND e.payload = $payload}),
		$events, "$name: each is to be seen where it was staged");
	flush();
	is(sql(qq{SELECT count(*) || ' ' || count(*) FILTER (WHERE e.global_position - first = n - 1) || ' ' ||
		             count(*) FILTER (WHERE e.payload = $payload)
		       FROM call JOIN called ON ordinal = n
		       JOIN event_store.domain_events e ON e.event_id = called.event_id AND e.aggregate_id = id
		                                       AND e.sequence = called.sequence,
		       (SELECT min(global_position) AS first FROM event_store.domain_events
		         WHERE event_type = 'Called' AND aggregate_type = '$type') f}),
		"$events $events $events", "$name: and its position is that in the call");
	sql('DROP TABLE call, called');
}

# ---------- ids, the caller's and our own, are found; repeats are recognised

my %ids = (
	'random ids' => 'gen_random_uuid()',
	'ids that grow' => q{(lpad(to_hex(1700000000000 + n / 3), 12, '0') || '7' || lpad(to_hex(n), 3, '0') || '8000' || lpad(to_hex(n), 12, '0'))::uuid},
	'ids that fall' => q{(lpad(to_hex(1700000100000 - n / 3), 12, '0') || '7' || lpad(to_hex(4000 - n), 3, '0') || '8000' || lpad(to_hex(n), 12, '0'))::uuid},
	'ids of one millisecond, in disorder' => q{('0189a2b3c4d57' || lpad(to_hex((n * 7919) % 4096), 3, '0') || '8000' || lpad(to_hex(n), 12, '0'))::uuid},
	'ids of all kinds' => q{CASE n % 3 WHEN 0 THEN gen_random_uuid()
	    WHEN 1 THEN (lpad(to_hex(1700000200000 + (n * 37) % 5), 12, '0') || '7' || lpad(to_hex(n), 3, '0') || '8000' || lpad(to_hex(n), 12, '0'))::uuid END},
	'our own ids' => 'NULL::uuid',
	'extreme ids' => q{CASE n WHEN 1 THEN '00000000-0000-0000-0000-000000000000'::uuid WHEN 2 THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid
	    WHEN 3 THEN 'ffffffff-ffff-0000-0000-000000000000'::uuid WHEN 4 THEN 'ffffffff-ffff-0000-0000-000000000001'::uuid END});
sql('CREATE TABLE given (kind text, n int, id text, event_id uuid, sequence bigint)');
my $kinds = 0;
foreach my $kind (sort keys %ids)
{
	my $id = 'ids' . ++$kinds;

	sql(qq{CREATE TABLE call AS SELECT n::int, '$id-' || n % 3 AS id, $ids{$kind} AS event_id FROM generate_series(1, 300) n;
		INSERT INTO given SELECT '$kind', n, id, b.event_id, sequence
		  FROM event_store.append_batch(
		           (SELECT array_agg('Ids'::text) FROM call), (SELECT array_agg(id ORDER BY n) FROM call),
		           (SELECT array_agg('Given'::text) FROM call), (SELECT array_agg(to_jsonb(n) ORDER BY n) FROM call),
		           event_ids => (SELECT array_agg(event_id ORDER BY n) FROM call), durability => 'staged') b
		  JOIN call ON n = ordinal;
		DROP TABLE call;});
}

sub check_ids
{
	my ($when, $durable, @durabilities) = @_;

	foreach my $kind (sort keys %ids)
	{
		is(sql(qq{SELECT count(*) FROM given g, LATERAL event_store.load_event(g.event_id) e
			      WHERE g.kind = '$kind' AND e.aggregate_id = g.id AND e.sequence = g.sequence AND e.payload = to_jsonb(g.n)
			        AND (e.global_position IS NOT NULL) = $durable}),
			'300', "$when: $kind are found");
		foreach my $durability (@durabilities)
		{
			is(sql(qq{SELECT count(*) FROM event_store.append_batch(
				           (SELECT array_agg('Ids'::text) FROM given WHERE kind = '$kind'),
				           (SELECT array_agg(id ORDER BY n) FROM given WHERE kind = '$kind'),
				           (SELECT array_agg('Given'::text) FROM given WHERE kind = '$kind'),
				           (SELECT array_agg(to_jsonb(n) ORDER BY n) FROM given WHERE kind = '$kind'),
				           event_ids => (SELECT array_agg(event_id ORDER BY n) FROM given WHERE kind = '$kind'),
				           durability => '$durability') b
				      JOIN given g ON g.kind = '$kind' AND g.n = b.ordinal
				     WHERE b.outcome = 'duplicate' AND b.sequence = g.sequence AND b.event_id = g.event_id}),
				'300', "$when: $kind sent again, $durability, are repeats");
		}
		like(error_of($node, 'shop', qq{SELECT event_store.append_event('Ids', id, NULL, 'Another', event_id => event_id,
				durability => 'staged') FROM given WHERE kind = '$kind' AND n = 77}),
			qr/VS002/, "$when: $kind cannot be used for something else");
	}
	return;
}

check_ids('staged', 'false', 'staged');
my $staged = sql('SELECT staged_events FROM event_store.staging_status');
is($staged, 300 * $kinds, 'repeats wrote nothing');
is(sql(q{SELECT count(*) FROM event_store.load_event('12345678-0000-7000-8000-000000000000')}), '0', 'an unknown id is not found');
is(flush(), 't', 'all are drained');
check_ids('durable', 'true', 'staged', 'durable');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Ids'}), 300 * $kinds, 'once each');

# ---------- every column, byte for byte

sql(<<'SQL');
CREATE FUNCTION noise(seed text, bytes int) RETURNS text LANGUAGE sql
    RETURN (SELECT left(string_agg(md5(seed || n), ''), bytes) FROM generate_series(0, bytes / 32) n);
CREATE TABLE originals AS
SELECT n, gen_random_uuid() AS event_id, 'Type ' || n AS event_type, n * 7 AS schema_version,
       CASE WHEN n % 4 < 3 THEN (ARRAY[
           '{}', 'null', '{"amount": 1.10, "text": "\u00fc \ud83d\ude00 \\ \" \u0001", "list": [1, [2, {"a": null}]]}', '[]', '0.000100', '"x"',
           to_jsonb(noise('a', 10000))::text, to_jsonb(noise('b', 1000000))::text, jsonb_build_object('x', repeat('ab', 500000))::text,
           to_jsonb(noise('c', 1850))::text, jsonb_build_object('x', repeat('c', 3000))::text])[1 + n % 11]::jsonb END AS payload,
       CASE WHEN n % 4 = 3 THEN (ARRAY['', '\x00', '\xff00ff', noise('d', 10000), noise('e', 1000000), repeat('z', 100000)])[1 + n % 6]::bytea
           END AS payload_bytes,
       CASE WHEN n % 2 = 0 THEN jsonb_build_object('user', n, 'large', noise('m', n * 97)) END AS metadata,
       CASE WHEN n % 3 = 0 THEN repeat('c', 255) END AS correlation_id, CASE WHEN n % 5 = 0 THEN 'ä' || n END AS causation_id,
       CASE WHEN n % 7 = 0 THEN 's' || n END AS saga_id,
       CASE WHEN n % 2 = 1 THEN timestamptz '2020-02-29 23:59:59.999999+00' + n * interval '1 day 1 us' END AS occurred_at
  FROM generate_series(1, 66) n;
CREATE VIEW original AS
SELECT n::bigint AS sequence, o.event_id, event_type, schema_version, payload::text AS payload_text, payload, payload_bytes, metadata,
       correlation_id, causation_id, saga_id, occurred_at
  FROM originals o;
CREATE FUNCTION differences(aggregate text) RETURNS bigint LANGUAGE sql AS $$
    WITH there AS (
        SELECT sequence, event_id, event_type, schema_version, payload::text AS payload_text, payload, payload_bytes, metadata,
               correlation_id, causation_id, saga_id, CASE WHEN sequence % 2 = 1 THEN occurred_at END AS occurred_at
          FROM event_store.load_events('Columns', aggregate)),
    given AS (
        SELECT sequence, CASE aggregate WHEN 'one' THEN event_id ELSE md5(event_id::text)::uuid END AS event_id, event_type, schema_version,
               payload_text, payload, payload_bytes, metadata, correlation_id, causation_id, saga_id, occurred_at FROM original)
    SELECT count(*) FROM ((TABLE there EXCEPT ALL TABLE given) UNION ALL (TABLE given EXCEPT ALL TABLE there)) d
$$;
-- one by one from the table, where values are stored out of line
SELECT count(l) FROM (SELECT event_store.append_event('Columns', 'one', n - 1, event_type, payload, metadata, event_id,
    correlation_id, causation_id, saga_id, occurred_at, payload_bytes, schema_version, durability => 'staged') l
  FROM (SELECT * FROM originals ORDER BY n) o) l;
SELECT count(*) FROM event_store.append_batch(
    (SELECT array_agg('Columns'::text) FROM originals), (SELECT array_agg('batch'::text) FROM originals),
    (SELECT array_agg(event_type ORDER BY n) FROM originals), (SELECT array_agg(payload ORDER BY n) FROM originals),
    metadata => (SELECT array_agg(metadata ORDER BY n) FROM originals),
    event_ids => (SELECT array_agg(md5(event_id::text)::uuid ORDER BY n) FROM originals),
    correlation_ids => (SELECT array_agg(correlation_id ORDER BY n) FROM originals),
    causation_ids => (SELECT array_agg(causation_id ORDER BY n) FROM originals),
    saga_ids => (SELECT array_agg(saga_id ORDER BY n) FROM originals),
    occurred_at => (SELECT array_agg(occurred_at ORDER BY n) FROM originals),
    payload_bytes => (SELECT array_agg(payload_bytes ORDER BY n) FROM originals),
    schema_versions => (SELECT array_agg(schema_version ORDER BY n) FROM originals), durability => 'staged');
SQL
my $recorded = q{SELECT md5(string_agg(recorded_at::text || occurred_at, ',' ORDER BY aggregate_id, sequence))
	FROM unnest(ARRAY['one', 'batch']) a, LATERAL event_store.load_events('Columns', a)};
my $recorded_at = sql($recorded);
is(sql(q{SELECT differences('one') || ' ' || differences('batch')}), '0 0', 'staged: every column is what was given');
is(flush(), 't', 'drained');
is(sql(q{SELECT differences('one') || ' ' || differences('batch')}), '0 0', 'durable: every column is what was given');
is(sql($recorded), $recorded_at, 'and the times are those of staging');
is(sql(q{SELECT count(*) FROM event_store.domain_events WHERE aggregate_type = 'Columns'}), '132', 'all in the log');

# ---------- what one transaction staged becomes durable at once

$node->append_conf('postgresql.conf', "event_store.write_batch_size = 20\nevent_store.write_delay = '1ms'\n");
$node->reload;
sql(<<'SQL');
CREATE PROCEDURE write_both(last int) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. last LOOP
        PERFORM event_store.put_view('Both', 'v', to_jsonb(n), version => n, durability => 'staged');
        PERFORM event_store.append_event('Both', 'b', n - 1, 'Written', durability => 'staged');
        PERFORM event_store.append_event('Both', 'c', n - 1, 'Written', durability => 'staged');
        COMMIT;
    END LOOP;
END
$$;
-- Compares under one snapshot each, until the view has come to its end.
CREATE PROCEDURE compare_both(last int, INOUT seen int, INOUT differences int) LANGUAGE plpgsql AS $$
DECLARE
    r record;
    before int := 0;
BEGIN
    LOOP
        SELECT (SELECT coalesce((v.view_data)::int, 0) FROM event_store.domain_views v WHERE v.view_name = 'Both') AS view,
               (SELECT max(sequence) FROM event_store.domain_events e WHERE e.aggregate_type = 'Both' AND e.aggregate_id = 'b') AS b,
               (SELECT max(sequence) FROM event_store.domain_events e WHERE e.aggregate_type = 'Both' AND e.aggregate_id = 'c') AS c INTO r;
        COMMIT;
        IF r.view IS DISTINCT FROM r.b OR r.view IS DISTINCT FROM r.c THEN
            differences := differences + 1;
        END IF;
        IF coalesce(r.view, 0) <> before THEN
            seen := seen + 1;
            before := r.view;
        END IF;
        EXIT WHEN before = last;
    END LOOP;
END
$$;
SQL
my $comparison = $node->background_psql('shop');
$comparison->query_until(qr/begun/, "\\echo begun\nCALL compare_both(1000, 0, 0);\n");
sql('CALL write_both(1000)');
is(flush(), 't', 'views and events are drained while they are watched');
my ($seen, $differences) = split /\|/, ($comparison->query_safe('SELECT') =~ s/^\s+|\s+$//gr);
cmp_ok($seen, '>', 5, "they were seen in $seen states");
is($differences, '0', 'a view and the events of its transactions were never apart');
$comparison->quit;

# ---------- staged, durable or both by turns: no difference

# A random script.  What stands between %% is the durability of a call.
sub random_script
{
	my ($transactions) = @_;
	my @lines = ("\\set VERBOSITY terse", "\\pset format unaligned", "\\t on");
	my $aggregate = sub { return 'a-' . int(rand(5)); };
	my $expected = sub { my $r = rand; return $r < 0.9 ? 'NULL' : $r < 0.93 ? '0' : $r < 0.96 ? '-4' : int(rand(20)); };
	my $n = 0;
	# an id means the same event each time, but for its aggregate
	my $event = sub {
		my ($with_aggregate) = @_;
		my $id = int(rand(60));
		my $given = rand() < 0.1;
		my $key = $given ? $id : ++$n . '-';
		my $name = $with_aggregate ? '"aggregate_type": "T", "aggregate_id": "' . ($given ? 'a-' . $id % 5 : $aggregate->()) . '", ' : '';
		my $text = 'x' x int(rand() < 0.05 ? rand(5000) : rand(200));

		return sprintf('{%s"event_type": "E", %s"payload": {"k": "%s%s"}}', $name,
			$given ? sprintf('"event_id": "%08d-0000-%d000-8000-000000000000", ', $id, 4 + 3 * ($id % 2)) : '',
			$key, $given ? '' : $text);
	};
	my @calls = (
		sub {
			return sprintf(q{SELECT last_sequence, outcome FROM event_store.append_event('T', '%s', %s, 'E', '{"n": %d}', durability => %%%%);},
				$aggregate->(), $expected->(), ++$n);
		},
		sub {
			return sprintf(q{SELECT first_sequence, last_sequence, outcome FROM event_store.append_events('T', '%s', %s, '[%s]', durability => %%%%);},
				$aggregate->(), $expected->(), join ',', map { $event->(0) } 1 .. 1 + int(rand(6)));
		},
		sub {
			return sprintf(q{SELECT ordinal, sequence, outcome FROM event_store.append_batch('[%s]', on_conflict => '%s', durability => %%%%);},
				(join ',', map { $event->(1) } 1 .. int(rand(15))), rand() < 0.7 ? 'report' : 'error');
		},
		sub {
			return sprintf(q{SELECT event_store.put_view('V', 'k-%d', '{"n": %d}', version => %s, durability => %%%%);},
				int(rand(6)), ++$n, rand() < 0.5 ? 'NULL' : int(rand(50)));
		},
		sub {
			return sprintf(q{SELECT event_store.put_views('V', ARRAY['k-%d', 'k-%d'], ARRAY['1', '%d']::jsonb[], durability => %%%%);},
				int(rand(6)), int(rand(6)), ++$n);
		},
		sub { return sprintf(q{SELECT event_store.delete_view('V', 'k-%d', durability => %%%%);}, int(rand(6))); },
	);
	my $look = q{SELECT sequence, event_type, payload FROM event_store.load_events('T', '%s');
		SELECT event_store.aggregate_sequence('T', '%s'), (event_store.replay_aggregate('T', '%s')).*;
		SELECT view_key, view_data, version FROM event_store.load_views('V');
		SELECT string_agg(id, ' ') FROM event_store.load_aggregate_ids('T') id;};

	foreach my $transaction (1 .. $transactions)
	{
		my @open;

		push @lines, 'BEGIN;';
		foreach my $call (1 .. 1 + int(rand(6)))
		{
			my $r = rand;

			if ($r < 0.15) { push @open, "s$call"; push @lines, "SAVEPOINT s$call;"; }
			elsif ($r < 0.3 && @open) { push @lines, 'ROLLBACK TO ' . $open[int(rand(@open))] . ';'; }
			elsif ($r < 0.35 && @open) { push @lines, 'RELEASE ' . pop(@open) . ';'; }
			# weighted: appends more often than the rest
			push @lines, $calls[(0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 5)[int(rand(11))]]->(), '\echo :SQLSTATE';
			push @lines, $look =~ s/%s/$aggregate->()/ger if rand() < 0.1;
		}
		push @lines, rand() < 0.85 ? 'COMMIT;' : 'ROLLBACK;';
		push @lines, q{SELECT event_store.clear_view('V');} if rand() < 0.02;
		push @lines, "\\o /dev/null\n"
		  . (rand() < 0.2 ? q{SELECT event_store.flush('1min');} : 'SELECT event_store.drain(' . (1 + int(rand(15))) . ');')
		  . "\n\\o"
		  if rand() < 0.3;
		push @lines, $look =~ s/%s/$aggregate->()/ger if rand() < 0.2;
	}
	return join("\n", @lines) . "\n";
}

my $seed = $ENV{EVENT_STORE_SEED} // time;
srand($seed);
my $script = random_script(500);
$node->append_conf('postgresql.conf', "event_store.write_batch_size = 1000\nevent_store.write_delay = '1h'\n");
$node->reload;
my %outputs;
foreach my $database (qw(durable staged mixed))
{
	my ($out, $err);
	my $text = $script =~ s/%%/$database eq 'mixed' ? (rand() < 0.5 ? "'staged'" : "'durable'") : "'$database'"/ger;

	create_store_in($node, $database);
	wait_for_worker($node, $database);
	$node->psql($database, $text, on_error_stop => 0, stdout => \$out, stderr => \$err,
		extra_params => [ '-v', 'SHOW_CONTEXT=never' ]);
	flush($database);
	$err =~ s/^psql:<stdin>:\d+: //mg;
	$outputs{$database} = {
		told => $out,
		errors => $err,
		log => $node->safe_psql($database,
			'SELECT aggregate_id, sequence, event_type, payload, metadata FROM event_store.domain_events ORDER BY 1, 2'),
		views => $node->safe_psql($database, 'SELECT view_name, view_key, view_data, version FROM event_store.domain_views ORDER BY 1, 2'),
		left => $node->safe_psql($database, 'SELECT (SELECT count(*) FROM event_store.dead_letters), (SELECT count(*) FROM event_store.staging)'),
	};
}
foreach my $database (qw(staged mixed))
{
	foreach my $part (qw(told errors log views left))
	{
		ok($outputs{$database}{$part} eq $outputs{durable}{$part}, "$database as durable: $part")
		  or diag("EVENT_STORE_SEED=$seed", first_difference($outputs{durable}{$part}, $outputs{$database}{$part}));
	}
}
cmp_ok(scalar(() = $outputs{durable}{log} =~ /\n/g), '>', 500, 'the script appended a lot');
like($outputs{durable}{errors}, qr/sequence conflict/, 'and met conflicts');
like($outputs{durable}{told}, qr/duplicate/, 'and repeats');
is($outputs{durable}{left}, '0|0', 'and left nothing');

sub first_difference
{
	my @one = split /\n/, $_[0];
	my @two = split /\n/, $_[1];
	my $line = 0;

	$line++ while $line < @one && $line < @two && $one[$line] eq $two[$line];
	return "\nline $line: durable " . ($one[$line] // 'nothing') . "\n     other   " . ($two[$line] // 'nothing');
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');
done_testing();
