"""The documentation's own tools: tutorials to pages (`render`), formulas to MathML (`formulas`).

`python -m tinylane.docs` builds the whole site; nothing else in the package imports this.
"""
