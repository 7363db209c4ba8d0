"""Evaluation: how often the lanes are right on the problems of a task, and by how much.

In this order: `spelling`, `quantities`, `reading` (what an answer says), `extraction` (where it
stands in a text), `answers` (from N lanes to one), `tasks` (problems and when an answer is right),
`runner` (what is run), `results` (what is written down), `shards` (where: runs in folders), `rows`
(results that stay on disk), `measures` (numbers with intervals), `tables`, `report` (runs side by
side). Aside: `collaboration` (prompts that explain the lanes), `collect` (transcripts to train on),
`likelihood` (of given texts), `perplexity` (of a long text).
"""
