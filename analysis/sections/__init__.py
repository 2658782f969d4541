"""The sections of a report, a question each."""
