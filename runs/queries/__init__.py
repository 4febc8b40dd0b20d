"""Reads: functions on run folders and on the database. No request, no response, no writes."""
