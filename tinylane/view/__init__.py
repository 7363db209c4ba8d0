"""Saved runs: written, replayed, looked into, and drawn. In reading order:

run_file          run.json: settings, tokens and log-probabilities of a decoding
events            what happened to lanes between the steps: checked, and in words
again             lanes that are turned or read otherwise than before
tagged            texts with tags as runs, and back
replay            a saved run again, without sampling; its log-probabilities recomputed
attention         who listened to whom in a pass
replay_record     what a replayed run shows: attention, and what silence would change
replay_words      the same in sentences
replay_page       the same as one HTML file; its modules are in page, those of all pages in shared
inlined           modules of JavaScript as one script
palette           the colours of all figures, of the page and of the terminal
figure_style      what all figures share
figures           masks, angles, scores, attention, lanes (`tinylane.plot`)
replay_figure     a replayed run
accuracy_figure   accuracy of evaluation runs
bench_figure      step times
frontier_figure   a search on a graph
training_figure   the curves of a training run
"""
