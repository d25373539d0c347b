"""What both scripts need: the provider behind the gateway, its faults and how often it is asked."""
import json
import sys
import urllib.request

GATEWAY, PROVIDER = sys.argv[1], sys.argv[2]


def provider(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(PROVIDER + path, data=data, timeout=30) as answer:
        return json.load(answer)


def requests():
    return provider("/sim")["requests"]


def faults(*rules):
    provider("/sim/faults", list(rules))


def always(kind, **more):
    faults({"every": 1, "kind": kind, **more})


def fails(what, call, kind, status, attempts, holds=()):
    """Expects an error of this kind and status, after so many requests to the provider."""
    before = requests()
    try:
        call()
    except kind as error:
        asked = requests() - before
        got = getattr(error, "status_code", None)
        assert got == status, f"{what}: {got} {error!r}"
        assert asked == attempts, f"{what}: {asked} requests, {error!r}"
        for word in holds:
            assert word in str(error), f"{what}: {word} is missing in {error}"
        return error
    raise AssertionError(f"{what}: no error")


