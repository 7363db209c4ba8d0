"""Views of lanes: side by side in a terminal while they write; a saved run as a page or a picture.

terminal   columns that are redrawn, and plain lines
record     a replayed run in numbers: who listened to whom, what silence would change
facts      the same in words
page       the record as one HTML file (replay.html, replay.css, replay.js)
figure     its main panel as a matplotlib figure
"""
