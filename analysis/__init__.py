"""Judge: from collected tables to statistics, verdicts, figures and the report."""
