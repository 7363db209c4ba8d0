"""The study: what the mask does, what the encoding does, and what tuning adds.

    python tutorials/study scratch  --out runs/scratch     table 1: from scratch, cell by cell
    python tutorials/study finetune --out runs/finetune    table 2: what is tuned, and how
    python tutorials/study starts   --out runs/starts      table 3: before any tuning
    python tutorials/study apart    --out runs/apart       table 4: what tells lanes apart
    python tutorials/study frontier --out runs/frontier    table 5: where live reading wins
    python tutorials/study tables   tutorials/study        the tables as Markdown
    python tutorials/study plot     tutorials/study        the tables as figures

Every command goes on where it was stopped; started twice, it uses two cores. It writes its table as
one JSON file; the tables that the documentation shows are in `tutorials/study`. All of it is about
one small task (`tinylane.evaluate.tasks.shell_game`, three cups) and one small decoder. What that
does not show is said beside the tables.
"""
