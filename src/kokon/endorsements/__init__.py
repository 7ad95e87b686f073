"""Where endorsements come from: vendors' services, a disk cache, bundles and files. Owns sockets, files and clocks.

Nothing here decides what is believed. What is fetched is checked so that rubbish is not kept; what is kept is checked
again by verification (`kokon.tee`), which knows nothing of this room.
"""
