"""The study: what the mask does, what the encoding does, and what tuning can add afterwards.

    python tutorials/study scratch  --out runs/scratch     table 1: from scratch, cell by cell
    python tutorials/study finetune --out runs/finetune    table 2: what is tuned, and by what
    python tutorials/study starts   --out runs/starts      table 3: before any tuning
    python tutorials/study tables   tutorials/study        what is there, as Markdown
    python tutorials/study plot     tutorials/study        and as figures

Every command goes on where it was stopped; started twice, it uses two cores. It writes one JSON
file, which is its table; those that the documentation reads are in `tutorials/study`. All of it is
about one small task (`tasks.shell_game`, three cups) and one small decoder: what it does not show
is said beside the tables.
"""
