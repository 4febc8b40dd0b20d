from django.urls import path

from datasets.api import curation, datasets, exports, imports, mappings, traces, uploads, versions

app_name = "datasets_api"
urlpatterns = [
    path("traces", traces.TraceList.as_view(), name="traces"),
    path("traces/<str:trace_id>", traces.TraceDetail.as_view(), name="trace"),
    path("traces/<str:trace_id>/archive", curation.TraceArchive.as_view(), name="trace_archive"),
    path("datasets", datasets.DatasetList.as_view(), name="list"),
    path("datasets/ingest", uploads.DatasetIngest.as_view(), name="ingest"),
    path("datasets/imports", imports.ImportList.as_view(), name="imports"),
    path("datasets/imports/<str:import_id>", imports.ImportDetail.as_view(), name="import"),
    path(
        "datasets/imports/<str:import_id>/skipped.jsonl",
        imports.ImportSkipped.as_view(),
        name="skipped",
    ),
    path(
        "datasets/imports/<str:import_id>/mapping",
        mappings.ImportMapping.as_view(),
        name="import_mapping",
    ),
    path("uploads/permission", uploads.UploadPermission.as_view(), name="upload_permission"),
    path("datasets/<str:key>", datasets.DatasetDetail.as_view(), name="detail"),
    path("datasets/<str:key>/archive", curation.DatasetArchive.as_view(), name="archive"),
    path("datasets/<str:key>/seal", curation.DatasetSeal.as_view(), name="seal"),
    path("datasets/<str:key>/card.md", curation.DatasetCard.as_view(), name="card"),
    path("datasets/<str:key>/clean", versions.DatasetClean.as_view(), name="clean"),
    path("datasets/<str:key>/diff", versions.DatasetDiff.as_view(), name="diff"),
    path("datasets/<str:key>/diff.jsonl", versions.DatasetDiffLines.as_view(), name="diff_lines"),
    path("datasets/<str:key>/overlaps", versions.DatasetOverlaps.as_view(), name="overlaps"),
    path("datasets/<str:key>/export.jsonl", exports.DatasetExport.as_view(), name="export"),
    path("datasets/<str:key>/export.parquet", exports.DatasetParquet.as_view(), name="parquet"),
]
