"""Make the accounts of an attack: ``python -m benchmarks.attack.accounts NAME…`` prints ``{name:
token}``.

The password of each is its name and ``PASSWORD``. Runs in the environment of the system.
"""

import json
import sys

import django

PASSWORD = " has a long pass phrase"


def main() -> None:
    django.setup()
    from django.contrib.auth.models import User  # noqa: PLC0415 - after the setup

    from tunixrt.tokens import make_token  # noqa: PLC0415 - once Django is set up

    tokens = {}
    for name in sys.argv[1:]:
        user = User.objects.create_user(name, password=name + PASSWORD)
        _, tokens[name] = make_token(of=user, by=user)
    print(json.dumps(tokens))


if __name__ == "__main__":
    main()
