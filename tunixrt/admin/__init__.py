"""The admin as a whole: its name, and accounts, tokens and the audit log. Importing it registers
them."""

from django.contrib import admin

from tunixrt.admin import accounts

__all__ = ["accounts"]

admin.site.site_header = "tunixrt"
admin.site.site_title = "tunixrt"
admin.site.index_title = "Operations"
admin.site.enable_nav_sidebar = False
