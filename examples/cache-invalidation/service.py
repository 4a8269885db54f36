"""A web service that keeps what it has read in memory, and forgets it everywhere when any instance writes."""

import json, os, pathlib, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote
from urllib.request import Request, urlopen

STORE = pathlib.Path(os.environ["STORE"])  # stands for the database that all instances share
NODE = os.environ["NODE"]  # the broadcast node beside this instance
cache, lock, drops, following = {}, threading.Lock(), 0, False


def drop(key=None):
    """Forgets one entry, or everything."""
    global drops
    with lock:
        drops += 1
        cache.clear() if key is None else cache.pop(key, None)


def follow():
    """Drops what others tell, and everything when something may have been missed."""
    global following
    after = None
    while True:
        try:
            query = "?key=cache:drop" + (f"&after={after}" if after else "")
            request = Request(NODE + "/v1/messages" + query, headers={"Accept": "application/x-ndjson"})
            with urlopen(request, timeout=30) as lines:
                if after is None:
                    drop()
                following = True
                for message in map(json.loads, filter(bytes.strip, lines)):  # an empty line: all is quiet
                    after = message.get("cursor", after)
                    drop(None if "event" in message else message["value"])  # events: gone, missed, left
        except OSError:
            pass
        following = False  # what is cached cannot be trusted meanwhile
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
        self.answer(f"{value} (from the {source})\n")

    def do_PUT(self):
        value = self.rfile.read(int(self.headers["Content-Length"])).decode()
        (STORE / quote(self.path, safe="")).write_text(value)
        body = json.dumps({"key": "cache:drop", "value": self.path}).encode()
        with urlopen(NODE + "/v1/messages?ack=all&timeout=2s", body) as told:  # an error is the client's to see
            self.answer("written; {delivered} other nodes know within {elapsed_ms} ms\n".format(**json.load(told)))

    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


threading.Thread(target=follow, daemon=True).start()
ThreadingHTTPServer((os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8000"))), Service).serve_forever()
