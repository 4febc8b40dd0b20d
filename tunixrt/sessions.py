"""The session engine: Django's own, in a table that says whose each session is
(``SESSION_ENGINE``)."""

from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore

from tunixrt.models import AccountSession


class SessionStore(DatabaseStore):
    @classmethod
    def get_model_class(cls) -> type[AccountSession]:
        return AccountSession

    def create_model_instance(self, data: dict[str, Any]) -> AccountSession:
        session = super().create_model_instance(data)
        assert isinstance(session, AccountSession)
        session.account_id = AccountSession._meta.get_field("account").to_python(
            data.get(SESSION_KEY)
        )
        return session
