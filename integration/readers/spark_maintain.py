"""What Spark does to a table beside appending: creation, deletes, updates, compaction, expiry, tags, a branch that is written and
rolled forward, and main rolled back."""

import collections

from spark_append import append

DEEDS = ("create", "compact", "delete", "expire", "forward", "rollback", "tag", "update")
# What a snapshot that carries a pipeline's checkpoint has in its summary.
RECORD = "frazil.checkpoint."
# Where a commit that failed surely was not done.
NOT_DONE = ("CommitFailedException", "Cannot roll back")


def maintain(spark, table, request):
    """One of `create` (what comes after the name), `compact`, `expire` (all but the heads), `delete` (a condition), `update`
    (assignments and a condition), `tag` (a name and a snapshot), `forward` (rows, as for an append), `rollback` (how many snapshots
    back, and the condition of the ids to tell of). `done` of an answer says whether it was."""
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
    if "rollback" in request:
        return rollback(spark, catalog, name, table, **request["rollback"])
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
        return {"done": True}
    except Exception as error:
        if "not an ancestor" not in str(error):
            raise
        return {"done": False}
    finally:
        spark.sql(f"ALTER TABLE {table} DROP BRANCH IF EXISTS {branch}")


Snapshot = collections.namedtuple("Snapshot", "id recorded epoch")


def chain(spark, table):
    """The snapshots of main, newest first, as far as they are there."""
    rows = {row.snapshot_id: row for row in spark.sql(f"SELECT * FROM {table}.snapshots").collect()}
    (head,) = spark.sql(f"SELECT snapshot_id FROM {table}.refs WHERE name = 'main'").collect()
    found, at = [], rows.get(head.snapshot_id)
    while at is not None:
        recorded = any(key.startswith(RECORD) for key in at.summary)
        # What rewrites carries the checkpoints that it found, and makes none.
        epoch = recorded and at.operation == "append"
        found.append(Snapshot(at.snapshot_id, recorded, epoch))
        at = rows.get(at.parent_id)
    return found


def rollback(spark, catalog, name, table, back, where):
    """Sets main to the checkpoint so many before a pipeline's last rows, as far as there are as many. `kept` are the ids there, of
    which the others are gone from now on. An `error` beside `kept`: done or not."""
    snapshots = chain(spark, table)
    above = next((number for number, snapshot in enumerate(snapshots) if snapshot.epoch), len(snapshots))
    # Not to one without: whoever expires snapshots meanwhile may take the checkpoint below it.
    below = [number for number, snapshot in enumerate(snapshots) if snapshot.recorded and number > above][:back]
    if not below:
        return {"done": False}
    target = below[-1]
    id = snapshots[target].id
    kept = [row.id for row in spark.read.option("snapshot-id", id).table(table).where(where).select("id").collect()]
    try:
        called(spark, f"{catalog}.system.rollback_to_snapshot('{name}', {id})")
        return {"kept": kept, "done": True}
    except Exception as error:
        if any(one in str(error) for one in NOT_DONE) and "CommitStateUnknownException" not in str(error):
            return {"done": False}
        return {"kept": kept, "error": f"{type(error).__name__}: {str(error)[:2000]}"}


def called(spark, procedure):
    return spark.sql(f"CALL {procedure}").collect()
