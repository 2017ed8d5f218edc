"""Kills a command once the store keeps so many answers of an endpoint."""

import signal
import sqlite3
from contextlib import closing
from time import monotonic, sleep

from deita_core.llm.cache import FILE


def kept_answers(store):
    """How many answers and replies a store keeps."""
    if not (store / FILE).exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}/{FILE}?mode=ro", uri=True, timeout=10)) as db:
        try:
            return db.execute("SELECT count(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:
            # The table is being made.
            return 0


def kill_after(process, store, answers):
    """Kill a process, with its output piped, once so many answers are kept; the moment, by the steady clock."""
    try:
        while kept_answers(store) < answers:
            assert process.poll() is None, process.stdout.read()
            sleep(0.005)
    finally:
        killed = monotonic()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return killed
