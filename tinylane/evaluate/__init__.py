"""Evaluation: what is run (`runner`), what is remembered (`record`), what is measured (`measures`).

`tables` and `figures` show it. Hangs off `tinylane.core.decoding`; the tasks are `tinylane.evaluate.tasks`.
"""
