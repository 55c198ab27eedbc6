"""JSON logs, one object a line, for a server that has its process to itself."""

from __future__ import annotations

from pythonjsonlogger.core import RESERVED_ATTRS


def log_config(level: str) -> dict:
    """A config for `logging.config.dictConfig` that logs time, level, logger, message and extras to standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "{asctime}{levelname}{name}{message}",
                "style": "{",
                "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
                "reserved_attrs": [*RESERVED_ATTRS, "color_message"],
                "json_ensure_ascii": False,
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": level.upper()} for name in ("fastmux", "uvicorn")}
        # transformers adds a handler of its own unless it is given one.
        | {"transformers": {"handlers": ["stderr"], "propagate": False}},
    }
