"""`eskerctl`: etcdctl's commands over HTTP/JSON; a client that imports nothing of the server.

`client` speaks to members, `watching` is a watch that outlives connections, `load` many writers at
once, `options` holds the flags that every command takes, `output` the four formats; the other files
are one group of commands each.
"""
