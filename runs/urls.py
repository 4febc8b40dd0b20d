"""The pages of runs. A page's name is its view's, its template's and its test's."""

from django.urls import path

from runs.views.history import history

app_name = "runs"
urlpatterns = [
    path("", history, name="history"),
]
