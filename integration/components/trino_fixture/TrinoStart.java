/** Trino's server, from its jars: the artifact with its own main class is in no Maven repository. */
public class TrinoStart {
  public static void main(String[] arguments) {
    new io.trino.server.Server().start(System.getProperty("trino.version"));
  }
}
