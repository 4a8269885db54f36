"""A web service that keeps what it has read in memory, and forgets it everywhere when any instance writes."""

import json, os, pathlib, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

STORE = pathlib.Path(os.environ["STORE"])  # stands for the database that all instances share
NODE = os.environ.get("NODE", "http://127.0.0.1:8946")  # the broadcast node beside this instance
cache, lock, drops, following = {}, threading.Lock(), 0, False


def drop(key=None):
    """Forgets one entry, or everything."""
    global drops
    with lock:
        drops += 1
        cache.pop(key, None) if isinstance(key, str) else cache.clear()


def follow():
    """Drops what others tell, and everything when something may have been missed."""
    global following
    request = Request(NODE + "/v1/messages?key=cache:drop", headers={"Accept": "application/x-ndjson"})
    while True:
        try:
            with urlopen(request, timeout=30) as lines:
                for message in map(json.loads, lines):
                    if message.get("event") != "here":
                        drop(message.get("value"))  # without one: gone, missed, left
                    elif not following:  # from here on all is heard; it is said again every 15 s
                        drop()
                        following = True
        except Exception as error:  # whatever it is: without the node nothing in the cache can be trusted
            print(f"not following {NODE}: {error!r}", flush=True)
        following = False
        time.sleep(0.1)


class Service(BaseHTTPRequestHandler):
    def do_GET(self):
        key, before = self.path, drops
        with lock:
            value = cache.get(key) if following else None
        source = "cache" if value else "store"
        if not value:
            file = STORE / quote(key, safe="")
            value = file.read_text() if file.exists() else "nothing"
            with lock:
                if drops == before:  # else somebody may have written since it was read
                    cache[key] = value
        self.answer(200, f"{value} (from the {source})\n")

    def do_PUT(self):
        value = self.rfile.read(int(self.headers["Content-Length"])).decode()
        (STORE / quote(self.path, safe="")).write_text(value)
        body = json.dumps({"key": "cache:drop", "value": self.path}).encode()
        try:
            told = json.load(urlopen(NODE + "/v1/messages?ack=all&timeout=2s", body))
            self.answer(200, "written; {delivered} other nodes know within {elapsed_ms} ms\n".format(**told))
        except HTTPError as error:  # 504 names who does not know yet, and will
            self.answer(502, f"written; {json.load(error)['detail']}\n")
        except OSError as error:
            self.answer(502, f"written, and not told: {error}; write it again\n")

    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


threading.Thread(target=follow, daemon=True).start()
ThreadingHTTPServer((os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8000"))), Service).serve_forever()
