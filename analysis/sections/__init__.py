"""The sections of a report, one question a module."""
