from django.urls import path

from datasets.views import curation, datasets, imports, traces, uploads, versions

app_name = "datasets"
urlpatterns = [
    path("datasets", datasets.dataset_list, name="dataset_list"),
    path("datasets/new", uploads.upload, name="upload"),
    path("datasets/files", uploads.server_files, name="server_files"),
    path("datasets/imports", imports.imports, name="imports"),
    path("datasets/imports/<uuid:import_id>", imports.import_detail, name="import_detail"),
    path("datasets/imports/<uuid:import_id>/mapping", imports.mapping, name="mapping"),
    path("datasets/imports/<uuid:import_id>/cancel", imports.import_cancel, name="import_cancel"),
    path("datasets/<str:key>/clean", versions.clean, name="clean"),
    path("datasets/<str:key>/diff", versions.diff, name="diff"),
    path("datasets/<str:key>/overlap", versions.overlap, name="overlap"),
    path("datasets/<str:key>/edit", curation.edit, name="edit"),
    path("datasets/<str:key>/archive", curation.archive, name="archive"),
    path("datasets/<str:key>/seal", curation.seal, name="seal"),
    path("datasets/<str:key>", datasets.detail, name="detail"),
    path("traces", traces.traces, name="traces"),
    path("traces/<uuid:trace_id>", traces.trace, name="trace"),
    path("traces/<uuid:trace_id>/archive", curation.trace_archive, name="trace_archive"),
]
