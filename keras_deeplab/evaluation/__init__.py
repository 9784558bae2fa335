"""Label maps in, figures out: metrics, whole evaluations, reports, and files for the servers of test sets."""
