"""The admin's page of accounts with what they own: disk, quota, and handing it over."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from runs.services.disk import disk_quota, set_quota, with_disk_use
from runs.services.handover import belongings, hand_over
from tunixrt.accounts import person
from tunixrt.admin.accounts import AccountAdmin, AccountForm
from tunixrt.numbers import NumberField
from tunixrt.refusals import Refusal
from tunixrt.sizes import size

HANDED_MAX = 5000  # runs, or datasets, in one request

admin.site.unregister(User)


class HandOverForm(forms.Form):
    """Who gets what the chosen account owns."""

    to = forms.CharField(
        max_length=150,
        label="New owner",
        help_text="The name of an active account that may make runs.",
    )

    def clean_to(self) -> User:
        account = User.objects.filter(username=self.cleaned_data["to"]).first()
        if account is None:
            raise forms.ValidationError("There is no account of this name.")
        return account


class OwnerForm(AccountForm):
    """An account with its own disk quota."""

    quota = NumberField(
        min_value=0,
        required=False,
        label="Disk quota",
        help_text=(
            "GB that the runs of this account may take; 0: no limit; empty:"
            " TUNIX_OWNER_DISK_QUOTA_GB."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        own = getattr(self.instance, "disk_quota", None)
        self.initial["quota"] = None if own is None else own.gigabytes


@admin.register(User)
class OwnerAdmin(AccountAdmin):
    """Accounts, with the disk that their runs take."""

    form = OwnerForm
    list_display: Any = (*AccountAdmin.list_display, "disk")
    actions = (*AccountAdmin.actions, "hand_over")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return with_disk_use(super().get_queryset(request)).select_related("disk_quota")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        return fieldsets if obj is None else (*fieldsets, ("Disk", {"fields": ("quota",)}))

    @admin.display(description="disk")
    def disk(self, user: Any) -> str:
        quota = disk_quota(user)
        return size(user.disk_used) if quota is None else f"{size(user.disk_used)} of {size(quota)}"

    # --- handing over

    @admin.action(description="Hand over runs and datasets", permissions=["deactivate"])
    def hand_over(self, request: HttpRequest, users: QuerySet[User]) -> HttpResponse | None:
        """Ask for the new owner, then hand over. For very many runs there is the command."""
        chosen = list(users[:2])
        if len(chosen) != 1:
            self.message_user(
                request,
                "Choose one account, whose runs and datasets are to be handed over.",
                messages.ERROR,
            )
            return None
        (owner,) = chosen
        owned = belongings(owner, limit=HANDED_MAX + 1)
        if max(owned.runs, owned.datasets) > HANDED_MAX:
            sentence = (
                f"{owner} owns more than {HANDED_MAX:,}: use manage.py hand_over"
                f" {owner.get_username()} NEW-OWNER."
            )
            self.message_user(request, sentence, messages.ERROR)
            return None
        form = HandOverForm(request.POST if "to" in request.POST else None)
        if form.is_valid():
            try:
                handed = hand_over(owner=owner, to=form.cleaned_data["to"], by=person(request))
            except Refusal as refusal:
                form.add_error("to", refusal.detail)
            else:
                self.message_user(
                    request,
                    f"{handed} handed over from {owner} to {form.cleaned_data['to']}.",
                    messages.SUCCESS,
                )
                return None
        context = self.admin_site.each_context(request) | {
            "title": f"Hand over what {owner} owns",
            "opts": self.opts,
            "owner": owner,
            "owned": owned,
            "form": form,
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/hand_over.html", context)

    @admin.action(description="Deactivate", permissions=["deactivate"])
    def deactivate(self, request: HttpRequest, users: QuerySet[User]) -> None:
        keys = [user.pk for user in users.filter(is_active=True)]
        super().deactivate(request, users)
        for user in User.objects.filter(pk__in=keys, is_active=False):
            self._offer_to_hand_over(request, user)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change and "quota" in form.changed_data:
            set_quota(account=obj, gigabytes=form.cleaned_data["quota"])
        if change and "is_active" in form.changed_data and not obj.is_active:
            self._offer_to_hand_over(request, obj)

    def _offer_to_hand_over(self, request: HttpRequest, user: User) -> None:
        if owned := belongings(user, limit=HANDED_MAX + 1):
            self.message_user(
                request,
                f"The account {user} still owns {owned}. To give them to another account, choose it"
                " in the list and “Hand over runs and datasets”.",
                messages.WARNING,
            )
