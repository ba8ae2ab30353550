"""`realtime bench`: load against any address, and what came of it.

`coordinator` starts `generator` processes, which hold the connections and keep the books of
`realtime.native.tally`; `subject` watches the server where it can; `result` puts all of it together, `page`
and `plot` draw it, `screen` shows it while it runs.
"""
