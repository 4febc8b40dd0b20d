from django.urls import path

from datasets import views
from datasets.views import curation, versions

app_name = "datasets"
urlpatterns = [
    path("datasets", views.dataset_list, name="list"),
    path("datasets/new", views.upload, name="upload"),
    path("datasets/files", views.server_files, name="server_files"),
    path("datasets/imports", views.import_list, name="imports"),
    path("datasets/imports/<uuid:import_id>", views.import_detail, name="import"),
    path("datasets/imports/<uuid:import_id>/mapping", views.import_mapping, name="mapping"),
    path("datasets/imports/<uuid:import_id>/cancel", views.import_cancel, name="import_cancel"),
    path("datasets/<str:key>/clean", versions.clean, name="clean"),
    path("datasets/<str:key>/diff", versions.diff, name="diff"),
    path("datasets/<str:key>/overlap", versions.overlap, name="overlap"),
    path("datasets/<str:key>/edit", curation.edit, name="edit"),
    path("datasets/<str:key>/archive", curation.archive, name="archive"),
    path("datasets/<str:key>", views.detail, name="detail"),
    path("traces", views.traces, name="traces"),
    path("traces/<uuid:trace_id>", views.trace, name="trace"),
    path("traces/<uuid:trace_id>/archive", curation.archive_of_trace, name="trace_archive"),
]
