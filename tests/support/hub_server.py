"""A TEST DOUBLE of the hub on loopback: datasets are made, asked for, listed and committed to, by who may.

It speaks as much of the hub's protocol as huggingface_hub needs to upload files: plain ones within the commit, Parquet
files by git LFS.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "WritesForAcme" * 2


class Hub:
    """A hub where TOKEN may write to `acme` alone. `datasets`: `private` and `files` by name; `commits`: titles."""

    def __init__(self):
        self.datasets, self.commits, self.asked, self.stored = {}, [], [], {}
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.hub.asked.append(f"GET {self.path}")
        if not self._is_known():
            return
        path = self.path.partition("?")[0]
        name, _, rest = path.removeprefix("/api/datasets/").partition("/tree/")
        found = self.hub.datasets.get("/".join(name.split("/")[:2]))
        if found is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest:
            self._answer(
                200, [{"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in found["files"].items()]
            )
        else:
            siblings = [{"rfilename": path} for path in found["files"]]
            self._answer(200, {"id": name, "private": found["private"], "sha": "0" * 40, "siblings": siblings})

    def do_PUT(self):
        self.hub.stored[self.path.removeprefix("/lfs/")] = self._body()
        self._answer(200, {})

    def do_POST(self):
        body = self._body()
        self.hub.asked.append(f"POST {self.path}")
        if self._is_known():
            self._take(self.path.partition("?")[0], body)

    def _take(self, path, body):
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "lfs" if n.endswith(".parquet") else "regular"} for n in names]
            self._answer(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}} for o in objects]
            self._answer(200, {"transfer": "basic", "objects": actions})
        else:
            self._commit(path.removeprefix("/api/datasets/").partition("/commit/")[0], body)

    def _create(self, asked):
        if asked["organization"] != "acme":
            self._answer(403, {"error": f"You may not write to {asked['organization']}"})
            return
        name = f"{asked['organization']}/{asked['name']}"
        self.hub.datasets[name] = {"private": asked["visibility"] == "private", "files": {}}
        self._answer(200, {"url": f"{self.hub.url}/datasets/{name}"})

    def _commit(self, name, body):
        files = self.hub.datasets[name]["files"]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    self.hub.commits.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.stored[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self._answer(
            200, {"success": True, "commitOid": "1" * 40, "commitUrl": f"{self.hub.url}/datasets/{name}/commit/{1:040}"}
        )

    def _is_known(self):
        if self.headers.get("authorization") == f"Bearer {TOKEN}":
            return True
        said = "Invalid credentials in Authorization header"
        self._answer(401, {"error": said}, {"X-Error-Message": said})
        return False

    def _body(self):
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _answer(self, status, body, headers=()):
        sent = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(sent), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(sent)
