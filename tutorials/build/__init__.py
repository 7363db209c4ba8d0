"""The tools that build the site: `python tutorials/build`.

render         a tutorial to a page: runs its cells, keeps their output and figures
formulas       LaTeX to MathML
home_figure    the figure of the first page
methods        the methods as the explorer shows them
reading        the tables of "Read the code"
"""
