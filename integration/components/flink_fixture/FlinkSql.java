import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.catalog.Column;
import org.apache.flink.table.catalog.ResolvedSchema;
import org.apache.flink.types.Row;
import org.apache.flink.types.RowKind;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.flink.CatalogLoader;
import org.apache.iceberg.flink.TableLoader;
import org.apache.iceberg.flink.sink.FlinkSink;

/**
 * FlinkSql KEY=VALUE…: runs statements, one a line of standard input, on a Flink in this process that commits every second,
 * and says "done" after each. The arguments are properties of the REST catalog `ice`.
 *
 * <p>`CHANGE namespace.table BY key,key: SELECT gone, p, id, n, s FROM …` upserts rows, or deletes them where `gone`, by keys
 * that may be NULL, which a primary key of SQL may not; all such changes since the last `RUN` begin with the next.
 */
public class FlinkSql {
  private static final String CHANGE = "CHANGE ";

  public static void main(String[] arguments) throws Exception {
    Map<String, String> catalog = new HashMap<>();
    for (String argument : arguments) {
      String[] pair = argument.split("=", 2);
      catalog.put(pair[0], pair[1]);
    }
    Configuration settings = settings();
    StreamExecutionEnvironment flink = StreamExecutionEnvironment.getExecutionEnvironment(settings);
    StreamTableEnvironment tables =
        StreamTableEnvironment.create(flink, EnvironmentSettings.newInstance().withConfiguration(settings).build());
    String options = catalog.entrySet().stream().map(e -> "'" + e.getKey() + "'='" + e.getValue() + "'").collect(Collectors.joining(","));
    tables.executeSql("CREATE CATALOG ice WITH ('type'='iceberg','catalog-type'='rest'," + options + ")");
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String statement = lines.readLine(); statement != null; statement = lines.readLine()) {
      if (statement.startsWith(CHANGE)) {
        change(tables, catalog, statement.substring(CHANGE.length()));
      } else if (statement.equals("RUN")) {
        flink.execute();
      } else {
        TableResult result = tables.executeSql(statement);
        if (statement.startsWith("INSERT") || statement.startsWith("EXECUTE")) {
          result.await();
        }
      }
      System.out.println("done");
    }
  }

  private static Configuration settings() {
    Configuration settings = new Configuration();
    for (String host : new String[] {"rest.bind-address", "rest.address", "jobmanager.bind-host", "taskmanager.bind-host",
        "jobmanager.rpc.address", "taskmanager.host"}) {
      settings.setString(host, "127.0.0.1");
    }
    // Nought: the system chooses free ports.
    for (String port : new String[] {"rest.bind-port", "blob.server.port", "taskmanager.data.port", "taskmanager.rpc.port"}) {
      settings.setString(port, "0");
    }
    settings.setString("execution.checkpointing.interval", "1 s");
    // A job that fails must end its test, not begin again.
    settings.setString("restart-strategy.type", "none");
    settings.setString("classloader.check-leaked-classloader", "false");
    settings.setString("parallelism.default", "1");
    return settings;
  }

  private static void change(StreamTableEnvironment tables, Map<String, String> catalog, String statement) {
    String[] parts = statement.split(": ", 2);
    String[] target = parts[0].split(" BY ", 2);
    DataStream<Row> rows = tables.toDataStream(tables.sqlQuery(parts[1]))
        .map(FlinkSql::changed)
        .returns(Types.ROW_NAMED(new String[] {"p", "id", "n", "s"}, Types.LONG, Types.LONG, Types.LONG, Types.STRING));
    ResolvedSchema columns = ResolvedSchema.of(Column.physical("p", DataTypes.BIGINT()), Column.physical("id", DataTypes.BIGINT()),
        Column.physical("n", DataTypes.BIGINT()), Column.physical("s", DataTypes.STRING()));
    CatalogLoader loader = CatalogLoader.rest("ice", new org.apache.hadoop.conf.Configuration(), catalog);
    FlinkSink.forRow(rows, columns)
        .tableLoader(TableLoader.fromCatalog(loader, TableIdentifier.parse(target[0])))
        .equalityFieldColumns(List.of(target[1].split(",")))
        .upsert(true)
        .append();
  }

  private static Row changed(Row row) {
    RowKind kind = Boolean.TRUE.equals(row.getField(0)) ? RowKind.DELETE : RowKind.INSERT;
    return Row.ofKind(kind, number(row.getField(1)), number(row.getField(2)), number(row.getField(3)), row.getField(4));
  }

  private static Long number(Object value) {
    return value == null ? null : ((Number) value).longValue();
  }
}
