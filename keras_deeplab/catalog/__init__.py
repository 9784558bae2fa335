"""What exists: the released rows by source, the data sets they were trained on, and how they are tested.

A *row* is one line of a published table, that is one released model. This room imports nothing else of the package.
"""
