"""What the log leaves out."""

import logging


class RefusalsWithoutTraceback(logging.Filter):
    """Take the traceback from records of answers below 500, which Django writes for a
    PermissionDenied and the like."""

    def filter(self, record: logging.LogRecord) -> bool:
        status = getattr(record, "status_code", None)
        if isinstance(status, int) and status < 500:
            record.exc_info = record.exc_text = None
        return True
