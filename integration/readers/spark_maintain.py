"""What Spark does to a table beside appending: creation, deletes, updates, compaction, expiry, tags, and a branch that is written
and rolled forward."""

from spark_append import append

DEEDS = ("create", "compact", "delete", "expire", "forward", "tag", "update")


def maintain(spark, table, request):
    """One of `create` (what comes after the name), `compact`, `expire`, `delete` (a condition), `update` (assignments and a
    condition), `tag` (a name and a snapshot), `forward` (rows, as for an append)."""
    catalog, _, name = table.partition(".")
    if "create" in request:
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {table.rpartition('.')[0]}")
        spark.sql(f"CREATE TABLE {table} {request['create']}")
        return {}
    if "delete" in request:
        spark.sql(f"DELETE FROM {table} WHERE {request['delete']}")
        return {}
    if "update" in request:
        assignments, condition = request["update"]
        spark.sql(f"UPDATE {table} SET {assignments} WHERE {condition}")
        return {}
    if "tag" in request:
        label, snapshot = request["tag"]
        spark.sql(f"ALTER TABLE {table} CREATE TAG {label} AS OF VERSION {snapshot}")
        return {}
    if "compact" in request:
        options = "map('min-input-files', '2', 'rewrite-all', 'true')"
        called(spark, f"{catalog}.system.rewrite_data_files(table => '{name}', options => {options})")
        return {}
    if "expire" in request:
        expiry = f"table => '{name}', older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 1"
        called(spark, f"{catalog}.system.expire_snapshots({expiry})")
        return {}
    return forward(spark, catalog, name, table, request["forward"])


def forward(spark, catalog, name, table, rows):
    """Appends to a branch made from main and moves main to it; when main has moved meanwhile, nothing is there."""
    branch = "ahead"
    spark.sql(f"ALTER TABLE {table} CREATE OR REPLACE BRANCH {branch}")
    try:
        append(spark, f"{table}.branch_{branch}", rows)
        called(spark, f"{catalog}.system.fast_forward(table => '{name}', branch => 'main', to => '{branch}')")
        return {"forwarded": True}
    except Exception as error:
        if "not an ancestor" not in str(error):
            raise
        return {"forwarded": False}
    finally:
        spark.sql(f"ALTER TABLE {table} DROP BRANCH IF EXISTS {branch}")


def called(spark, procedure):
    return spark.sql(f"CALL {procedure}").collect()
