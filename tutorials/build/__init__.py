"""The documentation's own tools: tutorials to pages (`render`), formulas to MathML (`formulas`).

`python tutorials/build` builds the whole site; nothing else in the package imports this.
"""
