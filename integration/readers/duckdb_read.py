"""The digest of a table as DuckDB reads it."""

import importlib.util

import duckdb

from digest import Digest
from serve import serve, write


def connect():
    connection = duckdb.connect()
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET autoload_known_extensions = false")
    connection.execute("SET TimeZone = 'UTC'")
    for name in ("parquet", "avro", "httpfs", "iceberg"):
        package = importlib.util.find_spec(f"duckdb_extension_{name}").submodule_search_locations[0]
        connection.execute(f"LOAD '{package}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
    return connection


def source(connection, request):
    """The relation to read: a metadata file, or a table of an attached catalog."""
    s3 = request.get("s3")
    if s3:
        host = s3["endpoint"].removeprefix("http://")
        connection.execute(
            f"CREATE SECRET store (TYPE s3, KEY_ID '{s3['access_key_id']}', SECRET '{s3['secret_access_key']}',"
            f" REGION '{s3['region']}', ENDPOINT '{host}', URL_STYLE 'path', USE_SSL false)"
        )
    if "metadata" in request:
        return f"iceberg_scan('{request['metadata']}')"
    catalog = request["catalog"]
    connection.execute(
        f"ATTACH '{catalog.get('warehouse', '')}' AS it"
        f" (TYPE iceberg, ENDPOINT '{catalog['uri']}', AUTHORIZATION_TYPE 'none')"
    )
    name = "it." + ".".join(f'"{part}"' for part in request["table"].split("."))
    return f"{name} AT (VERSION => {request['snapshot']})" if "snapshot" in request else name


def answer(request):
    if "into" in request:
        return answer_rows(request)
    digest = Digest(request["columns"])
    with connect() as connection:
        relation = source(connection, request)
        names = ", ".join(expression(name, kind) for name, kind in request["columns"].items())
        found = connection.execute(f"SELECT {names} FROM {relation}")
        while rows := found.fetchmany(20_000):
            for row in rows:
                digest.add(row)
    return digest.answer()


def answer_rows(request):
    with connect() as connection:
        names = ", ".join(f'"{name}"' for name in request["select"])
        return write(connection.execute(f"SELECT {names} FROM {source(connection, request)}").fetchall(), request["into"])


def expression(name, kind):
    """Microseconds, so that no time zone of Python's can come between."""
    return f'epoch_us("{name}")' if kind.startswith("timestamp") else f'"{name}"'


if __name__ == "__main__":
    serve(answer)
