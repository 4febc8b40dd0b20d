"""Every route of the system. API paths are written exactly as clients use them: no trailing
slash."""

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path
from django.views.generic import RedirectView

from tunixrt import views
from tunixrt.api.views import SchemaView

urlpatterns = [
    path("api/", include("runs.api.urls")),  # first: asked most
    path("api/", include("datasets.api.urls")),
    path("api/schema", SchemaView.as_view(), name="schema"),
    path("api", views.reference, name="reference"),
    path("", include("runs.urls")),
    path("", include("datasets.urls")),
    path("login", auth_views.LoginView.as_view(), name="login"),
    path("logout", auth_views.LogoutView.as_view(), name="logout"),
    path("password", views.ChangePassword.as_view(), name="password"),
    path("tokens", views.tokens, name="tokens"),
    path("tokens/revoke", views.token_revoke, name="token_revoke"),
    path("healthz", views.healthz, name="healthz"),
    path("metrics", views.metrics, name="metrics"),
    path(  # guesses of the old password count there
        "admin/password_change/",
        admin.site.admin_view(RedirectView.as_view(pattern_name="password")),
        name="admin_password_change",
    ),
    path("admin/", admin.site.urls),
]

handler400 = "tunixrt.errors.bad_request"
handler403 = "tunixrt.errors.forbidden"
handler404 = "tunixrt.errors.not_found"
handler500 = "tunixrt.errors.server_error"
