"""The image's health check:  python -I tunixrt/healthcheck.py

Asks /healthz of the web server in the same container; exit code 0 when it is well. Standard library
only, for it runs every ten seconds. It finds address and name in the variables that the server
itself reads, and runs in the server's environment.
"""

import os
import sys
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

TIMEOUT_SECONDS = 4


def accepted_name(allowed_hosts: str) -> str:
    """Return a name that a server with these ``ALLOWED_HOSTS`` answers to: ``*`` is any,
    ``.example.org`` includes the domain itself."""
    first = allowed_hosts.split(",")[0].strip()
    return "localhost" if first in ("", "*") else first.removeprefix(".")


def main() -> int:
    port = os.environ.get("TUNIXRT_BIND", "127.0.0.1:8000").rpartition(":")[2]
    name = accepted_name(os.environ.get("ALLOWED_HOSTS", ""))
    request = Request(f"http://127.0.0.1:{port}/healthz", headers={"Host": name})
    try:
        build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_SECONDS).close()
    except (URLError, OSError) as error:
        print(f"{request.full_url} as {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
