from django.urls import path

from datasets.api import views

app_name = "datasets_api"
urlpatterns = [
    path("traces", views.TraceList.as_view(), name="traces"),
    path("traces/<str:trace_id>", views.TraceDetail.as_view(), name="trace"),
    path("datasets", views.DatasetList.as_view(), name="list"),
    path("datasets/ingest", views.DatasetIngest.as_view(), name="ingest"),
    path("uploads/permission", views.UploadPermission.as_view(), name="upload_permission"),
    path("datasets/<str:key>", views.DatasetDetail.as_view(), name="detail"),
    path("datasets/<str:key>/export.jsonl", views.DatasetExport.as_view(), name="export"),
]
