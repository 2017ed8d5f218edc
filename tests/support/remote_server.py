"""A real S3 server on loopback for tests: moto's, in a process of its own, with two things that it lacks.

Writes are made one at a time, since moto looks at a condition and writes in two steps; and the bucket `closed` refuses
everybody. Run as a script it prints its port and serves until it is ended.
"""

import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

REFUSAL = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@contextmanager
def s3_server(*buckets: str) -> Iterator[dict[str, str]]:
    """Start a server with buckets; yields the variables that lead to it."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        try:
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            for bucket in buckets:
                urllib.request.urlopen(urllib.request.Request(f"{address}/{bucket}", method="PUT")).close()
            yield {
                "AWS_ENDPOINT_URL": address,
                "AWS_ACCESS_KEY_ID": "tests",
                "AWS_SECRET_ACCESS_KEY": "tests",
                "AWS_REGION": "us-east-1",
            }
        finally:
            process.kill()


def serve() -> None:
    """Serve on a port that is free, and print it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto, writing = DomainDispatcherApplication(create_backend_app), Lock()

    def answer(environment, start):
        if environment["PATH_INFO"].startswith("/closed"):
            start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(REFUSAL)))])
            return [REFUSAL]
        if environment["REQUEST_METHOD"] == "GET":
            return moto(environment, start)
        with writing:
            return moto(environment, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
