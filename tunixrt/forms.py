"""Form fields that say what is wrong without repeating what was sent, which may be megabytes."""

from typing import Any

from django import forms

_INVALID: dict[str, Any] = {"invalid_choice": "Select a valid choice."}


class ChoiceField(forms.ChoiceField):
    default_error_messages = _INVALID


class MultipleChoiceField(forms.MultipleChoiceField):
    default_error_messages = _INVALID
