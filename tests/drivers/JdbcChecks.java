// PostgreSQL's JDBC driver through the router, with HikariCP as its pool. One file, which `java` compiles as it starts.

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.FileReader;
import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadLocalRandom;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PGobject;

class JdbcChecks {
    static final String STORE = "INSERT INTO stores (name, email) VALUES (?, 'shop@example.com') RETURNING id";
    static final String ORDER = "INSERT INTO orders (store_id, number, email, currency, subtotal, total)"
            + " VALUES (?, ?, ?, 'EUR', 1000, 1190)";
    // All orders that are visible must be the tenant's; those of this run are told by their address.
    static final String SEEN =
            "SELECT array_agg(DISTINCT tenant_id), count(*) FILTER (WHERE email = ?) FROM orders";

    static final String RUN = Long.toHexString(ThreadLocalRandom.current().nextLong());
    static final Properties fleet = new Properties();
    static long a;
    static long b;

    interface Body {
        void run() throws Exception;
    }

    interface Use {
        void of(Connection connection) throws Exception;
    }

    static class Failure extends Exception {
        Failure(String what) {
            super(what);
        }
    }

    public static void main(String[] arguments) throws Exception {
        try (var file = new FileReader(arguments[0])) {
            fleet.load(file);
        }
        a = Long.parseLong(fleet.getProperty("a"));
        b = Long.parseLong(fleet.getProperty("b"));
        check("the documented URLs", JdbcChecks::documentedUrls);
        check("the role of a tenant sees its own and cannot act for another", JdbcChecks::tenantRole);
        check("two tenants over a pool of one connection see only their own orders", JdbcChecks::twoTenants);
        check("another tenant's rows can be neither written nor reached by their id", JdbcChecks::foreignRows);
        check("prepared on the server after the driver's threshold, for two tenants in turn", JdbcChecks::prepared);
        check("more statements than the driver or a server connection keeps", JdbcChecks::manyStatements);
        for (var mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            check("query mode " + mode, () -> queryMode(mode));
        }
        check("a unique violation undone by a savepoint", JdbcChecks::uniqueViolation);
        check("savepoints that the driver sets by itself", JdbcChecks::autosave);
        check("a failed transaction is rolled back and the connection goes on", JdbcChecks::failedTransaction);
        check("a query timeout and a cancel, and the connection goes on", JdbcChecks::cancels);
        check("a limit on the time of statements, given at connect", JdbcChecks::statementTimeout);
        check("COPY in and out", JdbcChecks::copy);
        check("a COPY that fails or is given up leaves a usable connection", JdbcChecks::failedCopy);
        check("rows in pieces, with other statements in between", JdbcChecks::fetchSize);
        check("batches, as they are and rewritten, and one that fails", JdbcChecks::batches);
        check("keys that the server made, and the catalog's description of tables", JdbcChecks::metadata);
        check("isolation, read only, and a function called", JdbcChecks::modes);
        check("several statements in one string", JdbcChecks::severalStatements);
        check("arrays, jsonb and large values", JdbcChecks::values);
        check("many threads for many tenants share a small pool", JdbcChecks::manyThreads);
    }

    static void check(String name, Body body) {
        try {
            body.run();
            System.out.println("ok      jdbc: " + name);
        } catch (Exception | AssertionError error) {
            var place = Arrays.stream(error.getStackTrace())
                    .filter(frame -> frame.getClassName().startsWith("JdbcChecks")
                            && !List.of("expect", "expectError").contains(frame.getMethodName()))
                    .map(StackTraceElement::getLineNumber)
                    .findFirst().orElse(0);
            var text = String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
            System.out.println("FAILED  jdbc: " + name + ": line " + place + " " + error.getClass().getSimpleName() + ": " + text);
        }
    }

    static void expect(Object actual, Object wanted) throws Failure {
        if (!Objects.equals(actual, wanted)) {
            throw new Failure("got <" + actual + ">, wanted <" + wanted + ">");
        }
    }

    static void expectError(String state, Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            if (!state.equals(error.getSQLState())) {
                throw new Failure("SQLSTATE " + error.getSQLState() + ", wanted " + state + ": " + error.getMessage());
            }
            return;
        }
        throw new Failure("no error " + state);
    }

    // ---- connections ----

    static String url(String... parameters) {
        return urlOf(fleet.getProperty("user"), parameters);
    }

    static String urlOf(String user, String... parameters) {
        var all = new ArrayList<>(List.of("user=" + user, "password=" + fleet.getProperty("password")));
        all.addAll(List.of(parameters));
        return "jdbc:postgresql://" + fleet.getProperty("host") + ":" + fleet.getProperty("port") + "/"
                + fleet.getProperty("database") + "?" + String.join("&", all);
    }

    static HikariDataSource pool(int size, String url) {
        var config = new HikariConfig();
        config.setJdbcUrl(url);
        config.setMaximumPoolSize(size);
        config.setAutoCommit(false);
        return new HikariDataSource(config);
    }

    static void withConnection(String url, Use use) throws Exception {
        try (var connection = DriverManager.getConnection(url)) {
            connection.setAutoCommit(false);
            use.of(connection);
        }
    }

    /** A transaction of the tenant. */
    static void forTenant(Connection connection, long tenant, Use use) throws Exception {
        try {
            bind(connection, tenant);
            use.of(connection);
            connection.commit();
        } catch (Exception error) {
            connection.rollback();
            throw error;
        }
    }

    static void bind(Connection connection, long tenant) throws Exception {
        expect(one(connection, "SELECT set_config('tenantry.tenant', ?, true)", String.valueOf(tenant)), String.valueOf(tenant));
    }

    // ---- statements ----

    static PreparedStatement prepare(Connection connection, String sql, Object... values) throws SQLException {
        var statement = connection.prepareStatement(sql);
        for (int index = 0; index < values.length; index++) {
            statement.setObject(index + 1, values[index]);
        }
        return statement;
    }

    /** The first column of every row. */
    static List<Object> column(Connection connection, String sql, Object... values) throws SQLException {
        try (var statement = prepare(connection, sql, values); var rows = statement.executeQuery()) {
            var found = new ArrayList<>();
            while (rows.next()) {
                found.add(rows.getObject(1));
            }
            return found;
        }
    }

    static Object one(Connection connection, String sql, Object... values) throws Exception {
        var found = column(connection, sql, values);
        expect(found.size(), 1);
        return found.get(0);
    }

    static int change(Connection connection, String sql, Object... values) throws SQLException {
        try (var statement = prepare(connection, sql, values)) {
            return statement.executeUpdate();
        }
    }

    static String email(String name) {
        return name + "-" + RUN + "@example.com";
    }

    static long makeOrders(Connection connection, String address, int count) throws Exception {
        long store = (Long) one(connection, STORE, address);
        for (long number = 1; number <= count; number++) {
            expect(change(connection, ORDER, store, number, address), 1);
        }
        return store;
    }

    static List<Object> tenantsOf(Connection connection) throws SQLException {
        return column(connection, "SELECT DISTINCT tenant_id FROM stores");
    }

    static void expectOnlyOwn(Connection connection, long tenant, String address, long count) throws Exception {
        try (var statement = prepare(connection, SEEN, address); var rows = statement.executeQuery()) {
            rows.next();
            expect(List.of((Long[]) rows.getArray(1).getArray()), List.of(tenant));
            expect(rows.getLong(2), count);
        }
    }

    // ---- checks ----

    static void documentedUrls() throws Exception {
        withConnection(fleet.getProperty("url.0"), connection ->
                forTenant(connection, a, tx -> expect(tenantsOf(tx), List.of(a))));
        int named = 1;
        for (; fleet.containsKey("url." + named); named++) {
            withConnection(fleet.getProperty("url." + named), connection -> expect(tenantsOf(connection), List.of(b)));
        }
        expect(named > 1, true);
    }

    static void tenantRole() throws Exception {
        withConnection(urlOf(fleet.getProperty("tenant_role")), connection -> {
            expect(tenantsOf(connection), List.of(a));
            expectError("42501", () -> one(connection, "SELECT set_config('tenantry.tenant', ?, false)", String.valueOf(b)));
            connection.rollback();
            expect(tenantsOf(connection), List.of(a));
        });
    }

    static void twoTenants() throws Exception {
        var address = email("pool");
        try (var pool = pool(1, url())) {
            for (long tenant : List.of(a, b)) {
                try (var connection = pool.getConnection()) {
                    forTenant(connection, tenant, tx -> makeOrders(tx, address, 2));
                }
            }
            for (long tenant : List.of(b, a, b)) {
                try (var connection = pool.getConnection(); var statement = connection.createStatement()) {
                    statement.execute("SET LOCAL tenantry.tenant = '" + tenant + "'");
                    expectOnlyOwn(connection, tenant, address, 2);
                    connection.commit();
                }
            }
            try (var connection = pool.getConnection()) {
                expectError("42704", () -> column(connection, "SELECT id FROM orders"));
            }
        }
    }

    static void foreignRows() throws Exception {
        withConnection(url(), connection -> {
            bind(connection, a);
            long store = makeOrders(connection, email("foreign"), 1);
            connection.commit();
            bind(connection, b);
            expect(column(connection, "SELECT id FROM stores WHERE id = ?", store), List.of());
            expect(change(connection, "UPDATE stores SET name = 'taken' WHERE id = ?", store), 0);
            expectError("42501", () ->
                    change(connection, "INSERT INTO stores (tenant_id, name, email) VALUES (?, 'x', 'x')", a));
            connection.rollback();
        });
    }

    static void prepared() throws Exception {
        var address = email("prepared");
        withConnection(url(), connection -> {
            try (var store = connection.prepareStatement(STORE);
                    var seen = connection.prepareStatement("SELECT DISTINCT tenant_id FROM stores")) {
                for (int round = 0; round < 10; round++) {
                    for (long tenant : List.of(a, b)) {
                        bind(connection, tenant);
                        store.setString(1, address);
                        store.executeQuery().close();
                        try (var rows = seen.executeQuery()) {
                            expect(rows.next() ? rows.getLong(1) : null, tenant);
                            expect(rows.next(), false);
                        }
                        connection.commit();
                    }
                }
                expect(seen.unwrap(PGStatement.class).isUseServerPrepare(), true);
            }
            for (long tenant : List.of(a, b)) {
                forTenant(connection, tenant, tx ->
                        expect(one(tx, "SELECT count(*) FROM stores WHERE name = ?", address), 10L));
            }
        });
    }

    static void manyStatements() throws Exception {
        withConnection(url("prepareThreshold=1"), connection -> {
            for (long tenant : List.of(a, b)) {
                bind(connection, tenant);
                for (int number = 0; number < 600; number++) {
                    expect(one(connection, "SELECT " + number + " + ?", 1), number + 1);
                }
                connection.commit();
            }
        });
    }

    static void queryMode(String mode) throws Exception {
        var address = email(mode);
        withConnection(url("preferQueryMode=" + mode, "prepareThreshold=2"), connection -> {
            for (int round = 0; round < 4; round++) {
                for (long tenant : List.of(a, b)) {
                    forTenant(connection, tenant, tx -> makeOrders(tx, address, 1));
                }
            }
            for (long tenant : List.of(a, b)) {
                forTenant(connection, tenant, tx -> expectOnlyOwn(tx, tenant, address, 4));
            }
            expectError("22012", () -> one(connection, "SELECT 1 / ?", 0));
            connection.rollback();
            expect(one(connection, "SELECT 1"), 1);
        });
    }

    static void uniqueViolation() throws Exception {
        var address = email("savepoint");
        withConnection(url(), connection -> {
            for (long tenant : List.of(a, b)) {
                forTenant(connection, tenant, tx -> {
                    long store = makeOrders(tx, address, 1);
                    var savepoint = tx.setSavepoint();
                    expectError("23505", () -> change(tx, ORDER, store, 1L, address));
                    tx.rollback(savepoint);
                    change(tx, ORDER, store, 2L, address);
                    expectOnlyOwn(tx, tenant, address, 2);
                });
            }
        });
    }

    static void autosave() throws Exception {
        var address = email("autosave");
        for (var mode : List.of("always", "conservative")) {
            withConnection(url("autosave=" + mode, "prepareThreshold=1"), connection -> {
                for (long tenant : List.of(a, b)) {
                    forTenant(connection, tenant, tx -> {
                        long store = makeOrders(tx, address, 1);
                        if (mode.equals("always")) {
                            expectError("23505", () -> change(tx, ORDER, store, 1L, address));
                        }
                        change(tx, ORDER, store, 2L, address);
                        expect(tenantsOf(tx), List.of(tenant));
                    });
                }
            });
        }
        withConnection(url(), connection ->
                forTenant(connection, b, tx -> expectOnlyOwn(tx, b, address, 4)));
    }

    static void failedTransaction() throws Exception {
        var address = email("error");
        withConnection(url(), connection -> {
            bind(connection, a);
            makeOrders(connection, address, 1);
            expectError("22012", () -> one(connection, "SELECT 1 / ?", 0));
            expectError("25P02", () -> one(connection, "SELECT 1"));
            connection.rollback();
            forTenant(connection, a, tx -> expectOnlyOwn(tx, a, address, 0));
            expectError("22023", () -> one(connection, "SELECT set_config('tenantry.tenant', ?, false)", "no-such-store"));
            connection.rollback();
            expectError("42703", () -> one(connection, "SELECT no_such_column"));
            connection.rollback();
            connection.setAutoCommit(true);
            expectError("42601", () -> one(connection, "SELEC 1"));
            expect(one(connection, "SELECT 1"), 1);
        });
    }

    static void cancels() throws Exception {
        withConnection(url(), connection -> {
            for (long tenant : List.of(a, b)) {
                bind(connection, tenant);
                try (var statement = connection.createStatement()) {
                    statement.setQueryTimeout(1);
                    expectError("57014", () -> statement.executeQuery("SELECT pg_sleep(30)"));
                }
                connection.rollback();
                // Again where the request, of which the driver sends one, comes before the statement and so cancels nothing.
                int attempts = 1;
                while (!isCancelled(connection, tenant)) {
                    expect(attempts++ < 10, true);
                }
                forTenant(connection, tenant, tx -> expect(tenantsOf(tx), List.of(tenant)));
            }
        });
    }

    static boolean isCancelled(Connection connection, long tenant) throws Exception {
        bind(connection, tenant);
        try (var statement = connection.createStatement()) {
            var sleeping = CompletableFuture.supplyAsync(() -> {
                try {
                    statement.executeQuery("SELECT pg_sleep(3)");
                    return "slept";
                } catch (SQLException error) {
                    return error.getSQLState();
                }
            });
            Thread.sleep(300);
            statement.cancel();
            var outcome = sleeping.get();
            expect(List.of("slept", "57014").contains(outcome), true);
            return outcome.equals("57014");
        } finally {
            connection.rollback();
        }
    }

    static void statementTimeout() throws Exception {
        withConnection(url("options=-c%20statement_timeout=250"), connection -> {
            expectError("57014", () -> column(connection, "SELECT pg_sleep(30)"));
            connection.rollback();
            expect(one(connection, "SHOW statement_timeout"), "250ms");
        });
    }

    static CopyManager copyManager(Connection connection) throws SQLException {
        return connection.unwrap(PGConnection.class).getCopyAPI();
    }

    static void copy() throws Exception {
        var address = email("copy");
        withConnection(url(), connection -> {
            for (long tenant : List.of(a, b)) {
                forTenant(connection, tenant, tx -> {
                    long store = makeOrders(tx, address, 0);
                    var lines = IntStream.range(0, 3000)
                            .mapToObj(number -> store + "\t" + number + "\t" + address + "\tEUR\t1\t2\n")
                            .collect(Collectors.joining());
                    var columns = "(store_id, number, email, currency, subtotal, total)";
                    expect(copyManager(tx).copyIn("COPY orders " + columns + " FROM STDIN", new StringReader(lines)), 3000L);
                    expectOnlyOwn(tx, tenant, address, 3000);
                    var out = new StringWriter();
                    var query = "COPY (SELECT tenant_id FROM orders WHERE email = '" + address + "') TO STDOUT";
                    expect(copyManager(tx).copyOut(query, out), 3000L);
                    expect(new HashSet<>(out.toString().lines().toList()), new HashSet<>(List.of(String.valueOf(tenant))));
                });
            }
        });
    }

    static void failedCopy() throws Exception {
        withConnection(url(), connection -> {
            for (long tenant : List.of(a, b)) {
                bind(connection, tenant);
                var foreign = new StringReader((tenant == a ? b : a) + "\tx\tx\n");
                expectError("42501", () ->
                        copyManager(connection).copyIn("COPY stores (tenant_id, name, email) FROM STDIN", foreign));
                connection.rollback();
                bind(connection, tenant);
                var broken = new StringReader("no number\tx\tx\n");
                expectError("22P02", () ->
                        copyManager(connection).copyIn("COPY stores (tenant_id, name, email) FROM STDIN", broken));
                connection.rollback();
                bind(connection, tenant);
                var copy = copyManager(connection).copyIn("COPY stores (name, email) FROM STDIN");
                var half = "half\tx\n".getBytes();
                copy.writeToCopy(half, 0, half.length);
                copy.cancelCopy();
                connection.rollback();
                forTenant(connection, tenant, tx -> expect(tenantsOf(tx), List.of(tenant)));
            }
        });
    }

    static void fetchSize() throws Exception {
        withConnection(url(), connection -> forTenant(connection, a, tx -> {
            try (var statement = prepare(tx, "SELECT * FROM generate_series(1, ?)", 1000)) {
                statement.setFetchSize(7);
                long total = 0;
                try (var rows = statement.executeQuery()) {
                    while (rows.next()) {
                        total += rows.getLong(1);
                        if (rows.getInt(1) % 100 == 0) {
                            expect(tenantsOf(tx), List.of(a));
                        }
                    }
                }
                expect(total, 500500L);
            }
            try (var statement = tx.createStatement()) {
                statement.setFetchSize(3);
                try (var rows = statement.executeQuery("SELECT * FROM generate_series(1, 100)")) {
                    expect(rows.next(), true);
                }
                expect(one(tx, "SELECT 1"), 1);
            }
        }));
    }

    static void batches() throws Exception {
        for (var rewrite : List.of("false", "true")) {
            var address = email("batch-" + rewrite);
            withConnection(url("reWriteBatchedInserts=" + rewrite), connection -> {
                for (long tenant : List.of(a, b)) {
                    forTenant(connection, tenant, tx -> {
                        long store = makeOrders(tx, address, 0);
                        try (var statement = tx.prepareStatement(ORDER)) {
                            for (long number = 0; number < 1000; number++) {
                                statement.setLong(1, store);
                                statement.setLong(2, number);
                                statement.setString(3, address);
                                statement.addBatch();
                            }
                            expect(statement.executeBatch().length, 1000);
                        }
                        expectOnlyOwn(tx, tenant, address, 1000);
                        var savepoint = tx.setSavepoint();
                        try (var statement = tx.prepareStatement(ORDER)) {
                            for (long number : List.of(1001L, 1L, 1002L)) {
                                statement.setLong(1, store);
                                statement.setLong(2, number);
                                statement.setString(3, address);
                                statement.addBatch();
                            }
                            expectError("23505", statement::executeBatch);
                        }
                        tx.rollback(savepoint);
                        expectOnlyOwn(tx, tenant, address, 1000);
                    });
                }
            });
        }
    }

    static void metadata() throws Exception {
        withConnection(url(), connection -> {
            var names = new ArrayList<String>();
            try (var tables = connection.getMetaData().getTables(null, "public", "%", new String[] {"TABLE"})) {
                while (tables.next()) {
                    names.add(tables.getString("TABLE_NAME"));
                }
            }
            expect(names.containsAll(List.of("stores", "orders", "variants")), true);
            try (var columns = connection.getMetaData().getColumns(null, "public", "orders", "tenant_id")) {
                expect(columns.next() ? columns.getString("TYPE_NAME") : null, "int8");
            }
            try (var keys = connection.getMetaData().getImportedKeys(null, "public", "orders")) {
                expect(keys.next(), true);
            }
            connection.commit();
            forTenant(connection, b, tx -> {
                var sql = "INSERT INTO stores (name, email) VALUES (?, 'x')";
                try (var statement = tx.prepareStatement(sql, new String[] {"tenant_id", "id"})) {
                    statement.setString(1, email("keys"));
                    statement.executeUpdate();
                    try (var keys = statement.getGeneratedKeys()) {
                        expect(keys.next() ? keys.getLong(1) : null, b);
                    }
                }
            });
        });
    }

    static void modes() throws Exception {
        withConnection(url(), connection -> {
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            connection.setReadOnly(true);
            bind(connection, a);
            expect(one(connection, "SHOW transaction_isolation"), "serializable");
            expectError("25006", () -> one(connection, STORE, "x"));
            connection.rollback();
            connection.setReadOnly(false);
            forTenant(connection, a, tx -> makeOrders(tx, email("modes"), 1));
            try (var call = connection.prepareCall("{? = call upper(?)}")) {
                call.registerOutParameter(1, java.sql.Types.VARCHAR);
                call.setString(2, "shop");
                call.execute();
                expect(call.getString(1), "SHOP");
            }
            expect(connection.isValid(5), true);
        });
    }

    static void severalStatements() throws Exception {
        withConnection(url(), connection -> {
            connection.setAutoCommit(true);
            try (Statement statement = connection.createStatement()) {
                statement.execute("BEGIN; SET LOCAL tenantry.tenant = '" + a
                        + "'; SELECT DISTINCT tenant_id FROM stores; COMMIT; SELECT 2");
                var found = new ArrayList<Object>();
                do {
                    try (ResultSet rows = statement.getResultSet()) {
                        if (rows != null) {
                            expect(rows.next(), true);
                            found.add(rows.getLong(1));
                        }
                    }
                } while (statement.getMoreResults() || statement.getUpdateCount() != -1);
                expect(found, List.of(a, 2L));
            }
        });
    }

    static void values() throws Exception {
        var large = "ä".repeat(2_000_000);
        withConnection(url(), connection -> forTenant(connection, b, tx -> {
            var document = new PGobject();
            document.setType("jsonb");
            document.setValue("{\"size\": [1, 2]}");
            var sql = "INSERT INTO customers (store_id, email, name, tags, metafields) SELECT id, ?, ?, ?, ? FROM stores LIMIT 1"
                    + " RETURNING tenant_id, name, tags, metafields";
            var tags = tx.createArrayOf("text", new String[] {"a", "b"});
            try (var statement = prepare(tx, sql, email("types"), large, tags, document); var rows = statement.executeQuery()) {
                expect(rows.next(), true);
                expect(rows.getLong(1), b);
                expect(rows.getString(2).equals(large), true);
                expect(List.of((String[]) rows.getArray(3).getArray()), List.of("a", "b"));
                expect(((PGobject) rows.getObject(4)).getValue(), document.getValue());
            }
        }));
    }

    static void manyThreads() throws Exception {
        var address = email("threads");
        var tenants = Arrays.stream(fleet.getProperty("tenants").split(",")).map(Long::parseLong).toList();
        var threads = Executors.newFixedThreadPool(8);
        try (var pool = pool(4, url())) {
            var orders = IntStream.range(0, 100).mapToObj(number -> threads.submit(() -> {
                try (var connection = pool.getConnection()) {
                    forTenant(connection, tenants.get(number % tenants.size()), tx -> makeOrders(tx, address, 1));
                }
                return null;
            })).toList();
            for (var order : orders) {
                order.get();
            }
            for (long tenant : tenants) {
                try (var connection = pool.getConnection()) {
                    forTenant(connection, tenant, tx -> expectOnlyOwn(tx, tenant, address, 100 / tenants.size()));
                }
            }
        } finally {
            threads.shutdown();
        }
    }
}
