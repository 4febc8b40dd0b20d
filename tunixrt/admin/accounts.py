"""The admin's pages of accounts, API tokens and the audit log."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin import actions
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm
from django.contrib.auth.models import Group, User
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from tunixrt.accounts import set_active
from tunixrt.admin.lists import FastListAdmin, ReadOnlyAdmin, each
from tunixrt.models import ApiToken
from tunixrt.numbers import WholeNumberField
from tunixrt.readable import name_problem
from tunixrt.refusals import Refusal
from tunixrt.roles import GROUPS, Role, group_permissions, outranks, user_role
from tunixrt.templatetags.display import when
from tunixrt.tokens import DAYS_MAX, make_token, require_token_rights, revoke_token

ROLE_NAMES = tuple(role.label for role in GROUPS)
admin.site.unregister(User)
admin.site.unregister(Group)


class AccountForm(UserChangeForm):
    """A user cannot grant an account more permissions than their own."""

    by: User  # who asks

    def __init__(self, *args: Any, **kwargs: Any):
        """Make the form. The page has the value of each field when it was opened, so that a field
        counts as changed only if it was changed on the page. A request without that, which no page
        sent, is compared with the account."""
        super().__init__(*args, **kwargs)
        if not self.is_bound or self.add_initial_prefix("username") in self.data:
            for field in self.fields.values():
                field.show_hidden_initial = not field.disabled

    def changed_columns(self) -> list[str]:
        """Return the columns that the page changed: the others are not written."""
        columns = {field.name for field in User._meta.concrete_fields}
        return sorted(columns.intersection(self.changed_data))

    def _save_m2m(self) -> None:
        """Save groups and permissions; those that the page did not change stay as they are by
        now."""
        given = self.cleaned_data
        self.cleaned_data = {name: given[name] for name in self.changed_data if name in given}
        super()._save_m2m()  # type: ignore[misc]  # the stubs lack it
        self.cleaned_data = given

    def clean(self) -> Any:
        """Give operators staff status."""
        cleaned = super().clean()
        if "is_staff" in self.fields and any(
            group.name == Role.OPERATOR.label for group in self.cleaned_data.get("groups", ())
        ):
            self.cleaned_data["is_staff"] = True
        return cleaned

    def clean_groups(self) -> Any:
        groups = self.cleaned_data["groups"]
        if self.by.is_superuser or "groups" not in self.changed_data:
            return groups
        given = [group for group in groups if group not in self.instance.groups.all()]
        role = max(
            (Role[group.name.upper()] for group in given if group.name in ROLE_NAMES),
            default=Role.VIEWER,
        )
        if (
            role > user_role(self.by)
            or not group_permissions(given) <= self.by.get_all_permissions()
        ):
            raise forms.ValidationError("You cannot give an account more rights than yours.")
        return groups


class PasswordForm(AdminPasswordChangeForm):
    """Write the password alone: what others change in the account while the hash is made stays."""

    def save(self, commit: bool = True) -> User:
        user: User = super().save(commit=False)
        if commit:
            user.save(update_fields=["password"])
        return user


@admin.register(User)
class AccountAdmin(FastListAdmin, UserAdmin):
    """Django's own, in a list that is never counted. Accounts are deactivated, not deleted: what
    they did stays known."""

    form = AccountForm
    change_password_form = PasswordForm
    list_display = ("username", "role", "email", "is_active", "last_login")
    list_filter = ("groups", "is_superuser", "is_active")
    actions: Any = ("deactivate", "activate")
    _OF_OPERATORS = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        (
            "Rights",
            {
                "fields": ("is_active", "groups"),
                "description": (
                    "The groups viewer, researcher and operator are roles; an account in none of"
                    " them is a researcher."
                ),
            },
        ),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )

    @admin.display(description="role")
    def role(self, user: User) -> str:
        return user_role(user).label

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        form = super().get_form(request, obj, **kwargs)
        return form if obj is None else type("AccountFormOfPerson", (form,), {"by": request.user})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None or request.user.is_superuser:
            return super().get_fieldsets(request, obj)
        return self._OF_OPERATORS

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if request.user.is_superuser else ("last_login", "date_joined")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if not super().has_change_permission(request, obj):
            return False
        assert isinstance(request.user, User)
        return obj is None or obj.pk == request.user.pk or not outranks(request.user, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def user_change_password(
        self, request: HttpRequest, id: str, form_url: str = ""
    ) -> HttpResponse:
        """Send people who change their own password to the page that asks for the old one: an open
        session alone must not be enough to take an account over."""
        if id == str(request.user.pk):
            return redirect("password")
        return super().user_change_password(request, id, form_url)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            obj.save(update_fields=form.changed_columns())
        else:
            super().save_model(request, obj, form, change)

    def has_deactivate_permission(self, request: HttpRequest) -> bool:
        return super().has_change_permission(request)

    @admin.action(description="Deactivate", permissions=["deactivate"])
    def deactivate(self, request: HttpRequest, users: QuerySet[User]) -> None:
        self._switch(request, users, active=False, done="deactivated")

    @admin.action(description="Activate", permissions=["deactivate"])
    def activate(self, request: HttpRequest, users: QuerySet[User]) -> None:
        self._switch(request, users, active=True, done="activated")

    def _switch(
        self, request: HttpRequest, users: QuerySet[User], *, active: bool, done: str
    ) -> None:
        each(
            self,
            request,
            users,
            lambda user, by: set_active(user=user, by=by, active=active),
            "account",
            done,
        )


@admin.register(Group)
class RoleAdmin(GroupAdmin):
    """The groups that are roles stay as they are; others may carry permissions."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (
            obj is None or obj.name not in ROLE_NAMES
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return (
            super().has_delete_permission(request, obj)
            and obj is not None
            and obj.name not in ROLE_NAMES
        )


@admin.register(LogEntry)
class AuditAdmin(ReadOnlyAdmin):
    """What people did in the admin, and what they deleted anywhere. What happened to a run is among
    its events."""

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


class NewTokenForm(forms.ModelForm):
    """For whom, for what and for how long. A user cannot make a token of an account with more
    rights than their own."""

    username = forms.CharField(
        max_length=150, label="Account", help_text="The token can do what this account can."
    )
    days = WholeNumberField(
        min_value=1,
        max_value=DAYS_MAX,
        required=False,
        label="Valid for days",
        help_text="Empty: until it is revoked.",
    )
    by: User  # who asks

    class Meta:
        model = ApiToken
        fields = ("name", "read_only")

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if problem := name_problem(name):
            raise forms.ValidationError(f"The name of a token {problem}.")
        return name

    def clean_username(self) -> User:
        account = User.objects.filter(
            username=self.cleaned_data["username"], is_active=True
        ).first()
        if account is None:
            raise forms.ValidationError("There is no active account of this name.")
        try:
            require_token_rights(of=account, by=self.by)
        except Refusal as refusal:
            raise forms.ValidationError(refusal.detail) from refusal
        return account


@admin.register(ApiToken)
class TokenAdmin(FastListAdmin):
    """API tokens. Only hashes are stored: a key is shown once, by the page that made it."""

    list_display = ("beginning", "user", "name", "reads_only", "made", "expires")
    list_select_related = ("user",)
    ordering = ("-created",)
    search_fields = ("user__username__exact", "token_key__startswith")
    search_help_text = "An account exactly, or the beginning of a key"
    fields = readonly_fields = ("beginning", "user", "name", "reads_only", "made", "expires")
    actions = ("delete_selected",)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is not None:
            return super().get_form(request, obj, change, **kwargs)
        return type("TokenFormOfPerson", (NewTokenForm,), {"by": request.user})

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj is not None else ("username", "name", "days", "read_only")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.readonly_fields if obj is not None else ()

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if not super().has_delete_permission(request, obj):
            return False
        assert isinstance(request.user, User)
        return obj is None or self._may_revoke(request.user, obj)

    @staticmethod
    def _may_revoke(by: User, token: ApiToken) -> bool:
        try:
            require_token_rights(of=token.user, by=by)
        except Refusal:
            return False
        return True

    @admin.display(description="key begins with")
    def beginning(self, token: ApiToken) -> str:
        return token.beginning

    @admin.display(description="reads only", boolean=True)
    def reads_only(self, token: ApiToken) -> bool:
        return token.read_only

    @admin.display(description="made")
    def made(self, token: Any) -> Any:
        return when(token.created)

    @admin.display(description="expires")
    def expires(self, token: Any) -> Any:
        return when(token.expiry, "never")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        assert isinstance(request.user, User)
        fields = {name: form.cleaned_data[name] for name in ("name", "days", "read_only")}
        of = form.cleaned_data["username"]
        token, key = make_token(of=of, by=request.user, **fields)
        request.made_token_key = key  # type: ignore[attr-defined]
        obj.__dict__.update(token.__dict__)

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the key, this once: not through a message, which would be stored in a cookie or a
        session."""
        context = self.admin_site.each_context(request) | {
            "title": f"A token of {obj.user}",
            "opts": self.opts,
            "token": obj,
            "key": request.made_token_key,  # type: ignore[attr-defined]
        }
        return TemplateResponse(
            request, "admin/token.html", context, headers={"Cache-Control": "no-store"}
        )

    @admin.action(description="Revoke", permissions=["delete"])
    def delete_selected(self, request: HttpRequest, tokens: QuerySet[Any]) -> Any:
        return actions.delete_selected(self, request, tokens)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        assert isinstance(request.user, User)
        tokens = list(objs)
        return (
            [str(token) for token in tokens],
            {"tokens": len(tokens)},
            self._forbidden(request.user, tokens),
            [],
        )

    def _forbidden(self, by: User, tokens: list[ApiToken]) -> set[str]:
        return (
            set()
            if all(self._may_revoke(by, token) for token in tokens)
            else {"token of an account with more rights"}
        )

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        for token in queryset:
            self.delete_model(request, token)

    def delete_model(self, request: HttpRequest, obj: ApiToken) -> None:
        assert isinstance(request.user, User)
        revoke_token(token=obj, by=request.user)

    # The services write the audit log.
    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        return None

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        return []
