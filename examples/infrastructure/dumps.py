"""The steps of backup and restore that talk to the bucket: keep, fetch, restored. With the standard library, in the app's own image.

A dump is kept under a name of its database's own, KEY.dump. A database that is new while there are dumps of others keeps none until it is
restored (KEY.restored): else the empty one of a new cluster would take the place of what is to come back.
"""

import hashlib
import json
import os
import sys
import urllib.request

KEY = hashlib.sha256(os.environ["DATABASE_URL"].encode()).hexdigest()[:16]


def bucket(method, name="", data=None):
    head = {"Authorization": "Bearer " + os.environ["CLOUD_TOKEN"]}
    request = urllib.request.Request(os.environ["BUCKET"] + name, data, head, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


names = json.loads(bucket("GET"))
others = [name for name in names if name.endswith(".dump") and name != f"{KEY}.dump"]
match sys.argv[1]:
    case "keep" if others and f"{KEY}.restored" not in names:
        print("what was before is not restored yet: no dump is kept")
    case "keep":
        with open("/dump/all", "rb") as file:
            bucket("PUT", f"/{KEY}.dump", file.read())
        print(f"kept as {KEY}.dump")
    case "fetch" if others:
        with open("/dump/all", "wb") as file:
            file.write(bucket("GET", f"/{others[-1]}"))
        print(f"fetched {others[-1]}")
    case "fetch":
        sys.exit("there is no dump of an earlier database in the bucket")
    case "restored":
        bucket("PUT", f"/{KEY}.restored", b"")
