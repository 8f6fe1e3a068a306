"""Changes rows of this run's PostgreSQL, and has Debezium tell of it.

`{"transactions": [[SQL, …], …]}` runs statements, each list in a transaction of its own; `{"connector": NAME, "config": {…}}` starts a
connector and waits until it runs. What it is to connect to is in the environment.
"""

import json
import os
import time
import urllib.error
import urllib.request

import pg8000.native

from serve import serve

PATIENCE = 120


def run(transactions):
    place = {name: os.environ[f"POSTGRES_{name.upper()}"] for name in ("user", "database")}
    connection = pg8000.native.Connection(host="127.0.0.1", port=int(os.environ["POSTGRES_PORT"]), **place)
    for transaction in transactions:
        connection.run("BEGIN")
        for statement in transaction:
            connection.run(statement)
        connection.run("COMMIT")
    connection.close()
    return {"done": len(transactions)}


def ask(path, body=None):
    request = urllib.request.Request(f"{os.environ['DEBEZIUM_URI']}/connectors/{path}", method="PUT" if body else "GET")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, json.dumps(body).encode() if body else None, timeout=60) as answer:
        return json.load(answer)


def connect(name, config):
    postgres = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "database.hostname": "127.0.0.1",
        "database.port": os.environ["POSTGRES_PORT"],
        "database.user": os.environ["POSTGRES_USER"],
        "database.password": "unused",
        "database.dbname": os.environ["POSTGRES_DATABASE"],
        "topic.creation.default.replication.factor": "1",
        "topic.creation.default.partitions": "1",
    }
    ask(f"{name}/config", postgres | config)
    status = "none yet"
    for _ in range(PATIENCE * 2):
        try:
            status = ask(f"{name}/status")
        except urllib.error.HTTPError as error:
            status = str(error)
        else:
            tasks = [task["state"] for task in status["tasks"]]
            if tasks == ["RUNNING"]:
                return {"done": 1}
            if "FAILED" in tasks:
                break
        time.sleep(0.5)
    raise RuntimeError(f"the connector does not run: {status}")


def answer(request):
    if "connector" in request:
        return connect(request["connector"], request["config"])
    return run(request["transactions"])


if __name__ == "__main__":
    serve(answer)
