# Who may look at metrics and status, and may not read events, sees nothing of what events
# and views hold: not where an error quotes it either.

use strict;
use warnings;

use EventStoreTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('monitor', conf => "event_store.write_delay = '50ms'\nevent_store.snapshot_every = 1\n");
$node->start;
create_store_in($node, 'shop');

sub sql
{
	return $node->safe_psql('shop', $_[0]);
}

sub poll
{
	return $node->poll_query_until('shop', $_[0]);
}

sql(q{
	CREATE ROLE watcher;
	CREATE ROLE member IN ROLE pg_monitor;
	CREATE ROLE analyst;
	SELECT event_store.grant_access('watcher', 'monitor'), event_store.grant_access('analyst', 'monitor');
	GRANT SELECT ON event_store.domain_events TO analyst});

# ---------- whatever fails says what it met

sql(q{
	CREATE FUNCTION public.fold(state jsonb, event event_store.event) RETURNS jsonb LANGUAGE sql IMMUTABLE
	    RETURN to_jsonb((event.payload ->> 'n')::int);
	SELECT event_store.set_reducer('Folded', 'public.fold');
	CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	    IF NEW.aggregate_type IN ('Letter', 'Stuck') THEN
	        RAISE 'refused: %', NEW.payload USING ERRCODE = CASE NEW.aggregate_type WHEN 'Letter' THEN '23514' ELSE '53100' END;
	    END IF;
	    RETURN NEW;
	END $$;
	CREATE TRIGGER refuse BEFORE INSERT ON event_store.domain_events FOR EACH ROW EXECUTE FUNCTION public.refuse();
	CREATE FUNCTION public.handle(event event_store.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	    PERFORM (event.payload ->> 'n')::int;
	END $$;
	SELECT event_store.append_event('Folded', 'f-1', 0, 'Made', '{"n": "secret 1"}');
	SELECT event_store.create_projection('handled', 'public.handle(event_store.event)'::regprocedure, '{Folded}', max_attempts => 1, on_failure => 'stop');
	SELECT event_store.create_subscription('stopped', '{Folded}');
	SELECT event_store.fail_events('stopped', n.global_position, 'secret 2', 'stop') FROM event_store.next_events('stopped', 1) n;
	SELECT event_store.append_event('Kept', 'k-1', 0, 'Made', '{"n": "secret 8"}');
	SELECT event_store.create_subscription('parked', '{Kept}'), event_store.create_subscription('by key', '{Kept}', partition_by => '$.payload.n');
	SELECT event_store.fail_events('parked', n.global_position, 'secret 9', 'park') FROM event_store.next_events('parked', 1) n;
	SELECT event_store.fail_events('by key', n.global_position, 'secret 9', 'park') FROM event_store.next_events('by key', 1) n;
	SELECT event_store.define_saga('trip', '{"steps": [{"name": "a"}]}');
	SELECT event_store.start_saga('trip', 't-1', '{"a": "secret 3"}');
	SELECT event_store.report_step('trip', 't-1', 'a', 'failed', lease, error => 'secret 4') FROM event_store.claim_steps('trip', 'e');
	SELECT event_store.append_event('Letter', 'l-1', 0, 'Made', '{"n": "secret 5"}', durability => 'staged');
	SELECT event_store.put_view('letters', 'l-1', '{"n": "secret 6"}')});
ok(poll(q{SELECT count(*) = 1 FROM event_store.dead_letters}), 'a dead letter');
sql(q{SELECT event_store.append_event('Stuck', 's-1', 0, 'Made', '{"n": "secret 7"}', durability => 'staged')});

# the views that show errors, and what a reader sees of them
my %shown = (
	staging_status => 'refused: {"n": "secret 7"}',
	worker_status => 'refused: {"n": "secret 7"}',
	worker_jobs => 'refused: {"n": "secret 7"}',
	reducer_status => 'could not take a snapshot of Folded/f-1: invalid input syntax for type integer: "secret 1"',
	projection_status => '22P02: invalid input syntax for type integer: "secret 1"',
	subscription_status => 'secret 2',
	saga_status => 'secret 4');
foreach my $view (sort keys %shown)
{
	ok(poll("SELECT bool_or(last_error LIKE '%secret%') FROM event_store.$view"), "$view: a superuser sees an error")
	  or diag sql("SELECT v FROM event_store.$view v");
	my $seen = sql("SET ROLE analyst; SELECT DISTINCT last_error FROM event_store.$view WHERE last_error LIKE '%secret%'");
	ok((grep { $_ eq $shown{$view} } split /\n/, $seen), 'as who may read events') or diag $seen;
}

is(sql('SELECT subscription_name, partition_key, state, error_code FROM event_store.parked_event_status ORDER BY 1'),
	"by key||parked|\nparked|Kept/k-1|parked|", 'what is parked, without a key that the event gave');

# ---------- and a monitor sees none of it

my @views = split /\n/, sql(q{
	SELECT DISTINCT unnest(relations) FROM event_store.access_levels() WHERE level IN ('every', 'feed', 'monitor')});
cmp_ok(scalar @views, '>', 10, 'there are views to look at');
foreach my $role (qw(watcher member))
{
	foreach my $view (grep { $role eq 'watcher' || !/^(?:dead_letter|parked_event)_status$/ } @views)
	{
		unlike(sql("SET ROLE $role; SELECT v FROM event_store.$view v"), qr/secret/, "$role: nothing of it in $view");
	}
	is(sql("SET ROLE $role; SELECT last_error FROM event_store.$_"), '53100', "but the SQLSTATE in $_") foreach qw(staging_status worker_status);
	is(sql("SET ROLE $role; SELECT last_error FROM event_store.reducer_status"), '22P02', 'and of a reducer');
	is(sql("SET ROLE $role; SELECT last_error FROM event_store.subscription_status WHERE subscription_name = 'handled'"), '22P02', 'and of a handler');
	is(sql("SET ROLE $role; SELECT last_error FROM event_store.subscription_status WHERE subscription_name = 'stopped'"), 'hidden', 'that a consumer had one');
	unlike(sql("SET ROLE $role; SELECT event_store.openmetrics()"), qr/secret/, 'nor in the text');
}

$node->stop;
done_testing();
