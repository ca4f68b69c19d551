// A five-minute tour of event_store from Java, through a transaction pooler.
// Where to connect comes from PGHOST, PGPORT, PGUSER and PGDATABASE.

import java.sql.*;
import java.util.*;
import java.util.regex.*;
import org.postgresql.util.PSQLException;

public class Tour {
    static final String ACCOUNT = "java-" + UUID.randomUUID();

    static Connection connect() throws SQLException {
        Map<String, String> env = System.getenv();
        Properties settings = new Properties();
        settings.setProperty("user", env.get("PGUSER"));
        // no named prepared statements, which the pooler would leave behind in another session
        settings.setProperty("prepareThreshold", "0");
        // a String is sent without a type, so that it may be a jsonb
        settings.setProperty("stringtype", "unspecified");
        return DriverManager.getConnection("jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT")
            + "/" + env.get("PGDATABASE"), settings);
    }

    /** The one row of a query. */
    static ResultSet query(Connection connection, String sql, Object... values) throws SQLException {
        PreparedStatement statement = connection.prepareStatement(sql);
        for (int i = 0; i < values.length; i++)
            statement.setObject(i + 1, values[i]);
        ResultSet rows = statement.executeQuery();
        rows.next();
        return rows;
    }

    static String append(Connection connection, long expected, String type, String payload, UUID id)
            throws SQLException {
        ResultSet row = query(connection, "SELECT * FROM event_store.append_event("
            + "aggregate_type => 'Account', aggregate_id => ?, expected_sequence => ?,"
            + "event_type => ?, payload => ?, event_id => ?)", ACCOUNT, expected, type, payload, id);
        return row.getString("outcome") + " as " + row.getLong("last_sequence");
    }

    public static void main(String[] arguments) throws SQLException {
        Connection connection = connect();

        // 0: the account must be new
        System.out.println("opened: " + append(connection, 0, "AccountOpened",
            "{\"owner\": \"Niamh O'Brien\", \"balance\": \"0.00\"}", null));

        // 1: nobody else may have written since we saw event 1
        System.out.println("deposited: " + append(connection, 1, "MoneyDeposited", "{\"balance\": \"50.00\"}", null));

        // a decision made on old knowledge is refused, with the numbers
        try {
            append(connection, 1, "MoneyWithdrawn", "{\"balance\": \"-20.00\"}", null);
        } catch (PSQLException error) {
            if (!error.getSQLState().equals("VS001"))
                throw error;
            // JSON, for the parser that you use
            String detail = error.getServerErrorMessage().getDetail();
            Matcher numbers = Pattern.compile("\"expected\": (\\d+), \"actual\": (\\d+)").matcher(detail);
            numbers.find();
            System.out.println("refused: VS001 expected " + numbers.group(1) + " actual " + numbers.group(2));
        }

        // the client names the event, so a retry after a lost answer writes nothing
        UUID id = UUID.randomUUID();
        for (String attempt : new String[] {"first", "retry"})
            System.out.println(attempt + ": " + append(connection, 2, "MoneyWithdrawn", "{\"balance\": \"30.00\"}", id));

        // the events, and the state that they fold into
        ResultSet row = query(connection, "SELECT sequence, event_type FROM event_store.load_events('Account', ?)", ACCOUNT);
        StringJoiner events = new StringJoiner(", ");
        do
            events.add(row.getLong("sequence") + " " + row.getString("event_type"));
        while (row.next());
        System.out.println("events: " + events);
        row = query(connection, "SELECT state ->> 'balance', sequence FROM event_store.replay_aggregate('Account', ?)", ACCOUNT);
        System.out.println("balance: " + row.getString(1) + " after " + row.getLong(2));

        // a list of events
        row = query(connection, "SELECT * FROM event_store.append_events('Account', ?, 3, ?)", ACCOUNT,
            "[{\"event_type\": \"NoteAdded\", \"payload\": {\"note\": \"checked\"}},"
            + " {\"event_type\": \"LimitSet\", \"payload\": {\"limit\": \"500.00\"}}]");
        System.out.println("list: " + row.getString("outcome") + " as " + row.getLong("last_sequence"));

        // from one account to another, both or none
        row = query(connection, "SELECT outcome FROM event_store.append_batch(?, ?, ?, ?, ?, on_conflict => 'report_all')",
            connection.createArrayOf("text", new String[] {"Account", "Account"}),
            connection.createArrayOf("text", new String[] {ACCOUNT, ACCOUNT + "-savings"}),
            connection.createArrayOf("text", new String[] {"MoneyWithdrawn", "MoneyDeposited"}),
            connection.createArrayOf("jsonb", new String[] {"{\"balance\": \"10.00\"}", "{\"balance\": \"20.00\"}"}),
            connection.createArrayOf("bigint", new Long[] {5L, 0L}));
        StringJoiner moved = new StringJoiner(", ");
        do
            moved.add(row.getString("outcome"));
        while (row.next());
        System.out.println("moved: " + moved);

        // an event and the view of it in one transaction, at memory speed
        connection.setAutoCommit(false);
        row = query(connection, "SELECT * FROM event_store.append_event('Account', ?, 6, 'MoneyDeposited', ?,"
            + " durability => 'staged')", ACCOUNT, "{\"balance\": \"130.00\"}");
        query(connection, "SELECT event_store.put_view('balances', ?, ?, version => ?, durability => 'staged')",
            ACCOUNT, "{\"balance\": \"130.00\"}", row.getLong("last_sequence"));
        connection.commit();
        System.out.println("staged: " + row.getString("outcome") + " as " + row.getLong("last_sequence")
            + " durable " + row.getBoolean("durable"));

        // true: all that was committed before is durable or a dead letter; not inside a transaction block
        connection.setAutoCommit(true);
        System.out.println("flushed: " + query(connection, "SELECT event_store.flush('30s')").getBoolean(1));
        System.out.println("view: " + query(connection,
            "SELECT event_store.load_view('balances', ?) ->> 'balance'", ACCOUNT).getString(1));
        connection.close();
    }
}
