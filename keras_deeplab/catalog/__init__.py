"""A name in, the facts out: about the released models, the data sets they were trained on, and their test protocols.

A *row* is one line of a published table, that is one released model. This folder imports nothing else of the package.
"""
