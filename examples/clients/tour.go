// A five-minute tour of event_store from Go, through a transaction pooler.
// Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

// Statements are described once and not prepared: the pooler would leave them behind in another session.
const settings = "statement_cache_mode=describe"

type object = map[string]any

type result struct {
	lastSequence int64
	outcome      string
	durable      bool
}

// A connection or a transaction.
type queryer interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}

var (
	background = context.Background()
	account    = "go-" + newUUID()
)

// The one row of an append.
func one(db queryer, call string, values ...any) (r result, err error) {
	err = db.QueryRow(background, "SELECT last_sequence, outcome, durable FROM event_store."+call, values...).
		Scan(&r.lastSequence, &r.outcome, &r.durable)
	return r, err
}

// eventID is nil or a text; a nil is NULL.
func appendEvent(db queryer, expected int64, eventType string, payload object, eventID any) (result, error) {
	return one(db, `append_event(
		aggregate_type => 'Account', aggregate_id => $1, expected_sequence => $2,
		event_type => $3, payload => $4, event_id => $5)`, account, expected, eventType, payload, eventID)
}

// The texts that a query returns, one a row.
func texts(conn *pgx.Conn, sql string, values ...any) string {
	var found []string
	rows, err := conn.Query(background, sql, values...)
	check(err)
	for rows.Next() {
		var text string
		check(rows.Scan(&text))
		found = append(found, text)
	}
	check(rows.Err())
	return strings.Join(found, ", ")
}

func newUUID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		log.Fatal(err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	conn, err := pgx.Connect(background, settings)
	check(err)
	defer conn.Close(background)

	// 0: the account must be new
	r, err := appendEvent(conn, 0, "AccountOpened", object{"owner": "Niamh O'Brien", "balance": "0.00"}, nil)
	check(err)
	fmt.Println("opened:", r.outcome, "as", r.lastSequence)

	// 1: nobody else may have written since we saw event 1
	r, err = appendEvent(conn, 1, "MoneyDeposited", object{"balance": "50.00"}, nil)
	check(err)
	fmt.Println("deposited:", r.outcome, "as", r.lastSequence)

	// a decision made on old knowledge is refused, with the numbers
	_, err = appendEvent(conn, 1, "MoneyWithdrawn", object{"balance": "-20.00"}, nil)
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "VS001" {
		log.Fatal(err)
	}
	var detail struct{ Expected, Actual int64 }
	check(json.Unmarshal([]byte(refused.Detail), &detail))
	fmt.Println("refused:", refused.Code, "expected", detail.Expected, "actual", detail.Actual)

	// the client names the event, so a retry after a lost answer writes nothing
	eventID := newUUID()
	for _, attempt := range []string{"first:", "retry:"} {
		r, err = appendEvent(conn, 2, "MoneyWithdrawn", object{"balance": "30.00"}, eventID)
		check(err)
		fmt.Println(attempt, r.outcome, "as", r.lastSequence)
	}

	// the events, and the state that they fold into
	fmt.Println("events:", texts(conn, "SELECT sequence || ' ' || event_type FROM event_store.load_events('Account', $1)", account))
	var state object
	var sequence int64
	check(conn.QueryRow(background, "SELECT state, sequence FROM event_store.replay_aggregate('Account', $1)", account).
		Scan(&state, &sequence))
	fmt.Println("balance:", state["balance"], "after", sequence)

	// a list of events
	list := []object{
		{"event_type": "NoteAdded", "payload": object{"note": "checked"}},
		{"event_type": "LimitSet", "payload": object{"limit": "500.00"}},
	}
	r, err = one(conn, "append_events('Account', $1, 3, $2)", account, list)
	check(err)
	fmt.Println("list:", r.outcome, "as", r.lastSequence)

	// from one account to another, both or none; each jsonb of an array is its text
	fmt.Println("moved:", texts(conn, "SELECT outcome FROM event_store.append_batch($1, $2, $3, $4, $5, on_conflict => 'report_all')",
		[]string{"Account", "Account"}, []string{account, account + "-savings"},
		[]string{"MoneyWithdrawn", "MoneyDeposited"},
		[]string{`{"balance": "10.00"}`, `{"balance": "20.00"}`}, []int64{5, 0}))

	// an event and the view of it in one transaction, at memory speed
	tx, err := conn.Begin(background)
	check(err)
	r, err = one(tx, "append_event('Account', $1, 6, 'MoneyDeposited', $2, durability => 'staged')",
		account, object{"balance": "130.00"})
	check(err)
	_, err = tx.Exec(background, "SELECT event_store.put_view('balances', $1, $2, version => $3, durability => 'staged')",
		account, object{"balance": "130.00"}, r.lastSequence)
	check(err)
	check(tx.Commit(background))
	fmt.Println("staged:", r.outcome, "as", r.lastSequence, "durable", r.durable)

	// true: all that was committed before is durable or a dead letter; not inside a transaction block
	var flushed bool
	var view object
	check(conn.QueryRow(background, "SELECT event_store.flush('30s')").Scan(&flushed))
	fmt.Println("flushed:", flushed)
	check(conn.QueryRow(background, "SELECT event_store.load_view('balances', $1)", account).Scan(&view))
	fmt.Println("view:", view["balance"])
}
