"""From where test clients ask."""

import os
from typing import Any

from tunixrt.peers import PEER_UID

FAR_AWAY = "192.0.2.1"  # an address that is nobody's (RFC 5737)
# The environment of a request that the account of this server sends from this machine, as the front
# describes it.
NEARBY: dict[str, Any] = {"REMOTE_ADDR": "127.0.0.1", PEER_UID: os.getuid()}
