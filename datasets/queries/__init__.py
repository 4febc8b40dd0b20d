"""Reads: lists, lineage and the data card. No request, no response, no writes."""
