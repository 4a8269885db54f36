"""One of many replicas of a service, of which one at a time runs the nightly job. Its effect happens once a night."""

import json, os, socket, time
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

NODE = os.environ.get("NODE", "http://127.0.0.1:8946")  # the broadcast node beside this replica
NAME = os.environ.get("NAME", socket.gethostname())
NIGHT = float(os.environ.get("NIGHT", "5"))  # seconds from one night to the next: a short one, to see something
WORK = float(os.environ.get("WORK", "1"))  # seconds that the job takes
TTL = 5  # seconds until another replica takes over when nothing is heard of this one
LOCK = "jobs/nightly"


class Lost(Exception):
    """The lock is another one's by now, or may be."""


def clock():
    """Seconds by a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def call(method, path, body=None, timeout=TTL):
    """The status and the body of an answer; an error if there is none."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else None
    try:
        with urlopen(Request(NODE + path, data, method=method), timeout=timeout) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def say(text):
    print(f"{NAME}: {text}", flush=True)


class Lock:
    """The lock, once it is granted: its token, and until when it is surely held."""

    def __init__(self):
        wish = {"names": [LOCK], "session": {"ttl": TTL, "label": NAME}}
        status, answer = call("POST", "/v1/locks", wish, timeout=None)
        if status != 200:
            raise Lost(answer.decode())
        granted = json.loads(answer)
        self.token, self.session = granted["token"], granted["session"]
        self.deadline = 0
        self.keep()

    def keep(self):
        """Keeps it for another TTL, counted from before that was asked."""
        sent = clock()
        status, answer = call("PUT", f"/v1/sessions/{self.session}")
        if status != 200:
            raise Lost(answer.decode())
        self.deadline = sent + TTL

    def work(self, seconds):
        """Works for so long, and stops when the lock may be another one's."""
        end = clock() + seconds
        while clock() < end:
            time.sleep(0.1)
            if clock() > self.deadline:
                raise Lost(f"nobody has confirmed for {TTL} s that it is held")
            if clock() > self.deadline - TTL * 2 / 3:
                self.keep()


def run(lock):
    """Runs the job each night, as long as the lock is held."""
    while True:
        night = int(time.time() / NIGHT)
        key = quote(f"report/{night}")
        if call("GET", f"/v1/kv/{key}")[0] == 404:
            lock.work(WORK)
            # It may have been paused just here. So the store itself looks whether this token still holds the lock.
            status, answer = call("PUT", f"/v1/kv/{key}?fence={quote(LOCK)}:{lock.token}", NAME)
            if status != 200:
                raise Lost(answer.decode())
            say(f"did the job of night {night}, with token {lock.token}")
        lock.work(0.2)


while True:
    try:
        lock = Lock()
        say(f"has the lock, with token {lock.token}")
        run(lock)
    except (Lost, OSError, ValueError) as error:  # the node may not be there for a while
        say(f"has not got the lock: {error}")
        time.sleep(1)
