"""The admin's pages of accounts, API tokens and the audit log."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin import actions
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from knox import admin as knox_admin  # registers what is registered anew below
from knox.models import AuthToken, get_digest_token
from knox.settings import CONSTANTS

from tunixrt.admin.lists import FastListAdmin, ReadOnlyAdmin
from tunixrt.audit import write_log_entry
from tunixrt.numbers import WholeNumberField
from tunixrt.templatetags.display import when

admin.site.unregister(User)
knox_admin.admin.site.unregister(AuthToken)


@admin.register(User)
class AccountAdmin(FastListAdmin, UserAdmin):
    """Django's own, in a list that is never counted."""

    list_filter = ("is_staff", "is_superuser", "is_active")


@admin.register(LogEntry)
class AuditAdmin(ReadOnlyAdmin):
    """What people did in the admin, and what they deleted anywhere. What happened to a run is among its events."""

    list_display = ("action_time", "user", "what", "content_type", "object_repr", "change")
    list_display_links = None
    list_select_related = ("user", "content_type")
    ordering = ("-id",)
    search_fields = ("object_id__exact", "user__username__exact")
    search_help_text = "An account or the id of what it was done to, exactly"

    @admin.display(description="what")
    def what(self, entry: LogEntry) -> str:
        return {ADDITION: "added", DELETION: "deleted"}.get(entry.action_flag, "did")

    @admin.display(description="how")
    def change(self, entry: LogEntry) -> str:
        return entry.get_change_message() or "–"


class TokenForm(forms.ModelForm):
    """For whom, and for how long. Who is not a superuser makes tokens of their own account only: a token can do what its account
    can."""

    username = forms.CharField(max_length=150, label="Account", help_text="The token can do what this account can.")
    days = WholeNumberField(
        min_value=1, max_value=3650, required=False, label="Valid for days", help_text="Empty: until it is revoked."
    )
    by: User  # who asks

    class Meta:
        model = AuthToken
        fields = ()

    def clean_username(self) -> User:
        name = self.cleaned_data["username"]
        if name != self.by.get_username() and not self.by.is_superuser:
            raise forms.ValidationError("Only a superuser makes tokens of other accounts.")
        account = User.objects.filter(username=name, is_active=True).first()
        if account is None:
            raise forms.ValidationError("There is no active account of this name.")
        return account


@admin.register(AuthToken)
class TokenAdmin(FastListAdmin):
    """API tokens. Only hashes are stored: a key is shown once, by the page that made it."""

    list_display = ("beginning", "user", "made", "expires")
    list_select_related = ("user",)
    ordering = ("-created",)
    search_fields = ("user__username__exact", "token_key__startswith")
    search_help_text = "An account exactly, or the beginning of a key"
    fields = readonly_fields = ("beginning", "user", "made", "expires")
    actions = ("delete_selected",)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is not None:
            return super().get_form(request, obj, change, **kwargs)
        return type("TokenFormOfPerson", (TokenForm,), {"by": request.user})

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj is not None else ("username", "days")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.readonly_fields if obj is not None else ()

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @admin.display(description="key begins with")
    def beginning(self, token: Any) -> str:
        return f"{token.token_key[:8]}…"

    @admin.display(description="made")
    def made(self, token: Any) -> Any:
        return when(token.created)

    @admin.display(description="expires")
    def expires(self, token: Any) -> Any:
        return when(token.expiry, "never")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.user, days = form.cleaned_data["username"], form.cleaned_data["days"]
        obj.digest, form.key = get_digest_token()
        obj.token_key = form.key[: CONSTANTS.TOKEN_KEY_LENGTH]
        obj.expiry = timezone.now() + timedelta(days=days) if days else None
        obj.save(force_insert=True)
        request.made_token_key = form.key  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Shows the key, this once: not through a message, which would lie in a cookie or a session."""
        context = self.admin_site.each_context(request) | {
            "title": f"A token of {obj.user}",
            "opts": self.opts,
            "token": obj,
            "key": request.made_token_key,  # type: ignore[attr-defined]
        }
        return TemplateResponse(request, "admin/token.html", context, headers={"Cache-Control": "no-store"})

    @admin.action(description="Revoke", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, tokens: QuerySet[Any]) -> Any:
        return actions.delete_selected(self, request, tokens)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        allowed = self.has_delete_permission(request)
        names = [self._name(token) for token in objs]
        return names, {"tokens": len(names)}, set() if allowed else {"token"}, []

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return self._log(request, obj, ADDITION, "made")

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        return [self._log(request, token, DELETION, "revoked") for token in queryset]

    @staticmethod
    def _name(token: Any) -> str:
        return f"token {token.token_key[:8]}… of {token.user}"

    def _log(self, request: HttpRequest, token: Any, flag: int, message: str) -> LogEntry:
        assert isinstance(request.user, User)
        return write_log_entry(by=request.user, target=token, name=self._name(token), flag=flag, message=message)
