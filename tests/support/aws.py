"""AWS on loopback: moto (PyPI) in an environment of its own, with faults and what is done outside of a provider (`aws_process.py`).

    with Aws() as aws: aws.do("s3", "create_bucket", Bucket="logs"); aws.faults(throttled={"sqs": 3})

moto weighs 320 MB with what it needs, so no other test has it: `MAKE` makes the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / "build" / "moto" / "bin" / "python"
MAKE = "python3 -m venv build/moto && build/moto/bin/pip install 'moto[server]==5.2.5'"
ANSWER_S = 60.0


class Refused(Exception):
    """AWS said no: its code and words."""


class Aws:
    def __enter__(self) -> Aws:
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        self._process = subprocess.Popen(
            [PYTHON, Path(__file__).with_name("aws_process.py")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def do(self, service: str, operation: str, **arguments: Any) -> Any:
        """An operation by boto3's name, as somebody who is no provider. Raises `Refused`."""
        answer = self._ask("_call", {"service": service, "operation": operation, "arguments": arguments})
        if "error" in answer:
            raise Refused(f"{answer['error']['Code']}: {answer['error']['Message']}")
        return answer["answer"]

    def faults(self, **faults: Any) -> None:
        """From now on, and no others: `expired` an access key, `throttled` a number of requests by service."""
        self._ask("_faults", faults)

    @property
    def calls(self) -> Counter[str]:
        """What providers asked, by service and operation."""
        return Counter(self._ask("_calls"))

    def _ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}/{path}", data, timeout=ANSWER_S) as answer:
            return json.loads(answer.read())
