"""A known call tree, and how long each function took of the thread's CPU time: JSON at the end. Argument: seconds."""

import json
import sys
import threading
import time

SPENT = {"heavy": 0.0, "light": 0.0, "generated": 0.0, "called_back": 0.0}


def spin(seconds):
    end = time.thread_time() + seconds
    total = 0
    while time.thread_time() < end:
        for number in range(300):
            total += number
    return total


class Shop:
    def heavy(self):
        return spin(0.012)

    @staticmethod
    def light():
        return spin(0.006)


def generated():
    yield spin(0.004)
    yield spin(0.002)


def called_back(number):
    return spin(0.002) + number


def timed(name, function):
    begin = time.thread_time()
    result = function()
    SPENT[name] += time.thread_time() - begin
    return result


def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        timed("heavy", Shop().heavy)
        timed("light", Shop.light)
        timed("generated", lambda: sum(generated()))
        timed("called_back", lambda: sorted([2, 1], key=called_back))


def main():
    threading.Thread(target=time.sleep, args=(0.1,)).start()
    work(float(sys.argv[-1]))
    total = sum(SPENT.values())
    print(json.dumps({name: seconds / total for name, seconds in SPENT.items()}))


main()
