"""Label maps in, scores out: metrics, evaluation of a data set, a report page, and files for the servers of test sets."""
