"""A model behind a port, in the language that OpenAI's clients speak; a chat in the terminal.

`engine` shares one model among requests, `app` speaks HTTP. The commands are `serve`, `chat` and
`play`. Needs `pip install 'tinylane[serve]'`.
"""
